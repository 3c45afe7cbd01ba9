"""Whether the clinic takes part: policy first, then whether it can."""

from dataclasses import dataclass

from wardround.runtime.secrets import SecretUnreadableError
from wardround.site_agent.outbound import plain
from wardround.site_agent.policy import Decision, Leave, Policy, Request, requests_of
from wardround.site_agent.settings import SiteSettings
from wardround.site_agent.site import Site
from wardround.site_agent.trainers import check_parameters
from wardround_messages.commands import OfferExperiment, StartTask
from wardround_messages.manifest import Manifest
from wardround_messages.names import Task
from wardround_messages.objects import Consent
from wardround_messages.parts import Trainer, TrainerDescription
from wardround_messages.task_folder import JobData

# The codes of consents that a person gave or refused.
APPROVED = "approved"
REFUSED_BY_PERSON = "refused_by_person"

CODES_ONLY = Leave()


class RefusedError(Exception):
    """The clinic does not do this. `code` and `reason` may leave it; `rule` is the policy rule that decided."""

    def __init__(self, code: str, reason: str = "", *, rule: str | None = None) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason
        self.rule = rule


@dataclass(frozen=True, slots=True)
class Permission:
    """What the policy decided, `allow` or `ask`, and with which installed trainer."""

    decision: Decision
    trainer: Trainer


async def judge_offer(site: Site, offer: OfferExperiment) -> Permission:
    """Raises `RefusedError`, for what the policy denies or the site lacks."""
    manifest = offer.manifest
    description = await _installed(site, manifest.training.trainer)
    requests = requests_of(
        manifest,
        site.name,
        requested_by=offer.requested_by,
        code_sha256=None if description is None else description.code_sha256,
        rounds=offer.rounds,
    )
    policy = site.policy()
    decisions = [_not_denied(policy.judge(request)) for request in requests]
    for request in requests:
        data_of(site.settings, request.dataset)
    trainer = _named(description, manifest)
    problem = check_parameters(trainer, manifest.training.parameters)
    if problem is not None:
        raise RefusedError("parameters", plain(problem))
    asking = next((decision for decision in decisions if decision.verdict == "ask"), decisions[0])
    return Permission(asking, _identity(trainer))


async def judge_task(site: Site, start: StartTask, manifest: Manifest, consent: Consent) -> Permission:
    """Raises `RefusedError`; a policy that asks for a person's word is content with a consent that a person gave."""
    description = await _installed(site, manifest.training.trainer)
    code_sha256 = None if description is None else description.code_sha256
    decision = _agreed(site.policy().judge(_request(start, manifest, consent, code_sha256)), consent)
    return Permission(decision, _identity(_named(description, manifest)))


def judge_words(policy: Policy, start: StartTask, manifest: Manifest, consent: Consent, *, code_sha256: str) -> Leave:
    """What may be told of a task that is under way, or that failed; raises `RefusedError` as `judge_task` does.

    Of a check nothing leaves but codes, whatever the policy says.
    """
    decision = _agreed(policy.judge(_request(start, manifest, consent, code_sha256)), consent)
    return CODES_ONLY if start.task is Task.CHECK else policy.leave_of(decision.rule)


def judge_leaving(
    policy: Policy, start: StartTask, manifest: Manifest, consent: Consent, *, code_sha256: str, cases: int
) -> Decision:
    """Whether what came of a task may leave, judged by the code that ran and the cases it used.

    Raises:
        RefusedError: `too_few_cases` without the number, which stays here, or what the policy says.
    """
    decision = policy.judge(_request(start, manifest, consent, code_sha256, cases))
    if decision.verdict == "deny":
        _not_denied(policy.judge(_request(start, manifest, consent, code_sha256)))
        raise RefusedError("too_few_cases", "the clinic's policy asks for more cases", rule=decision.rule)
    return _agreed(decision, consent)


def dataset_of(manifest: Manifest, task: Task) -> str:
    """The data set that a task is about."""
    test = manifest.evaluation.test
    return test.dataset if task is Task.TEST and test is not None else manifest.training.dataset


def data_of(settings: SiteSettings, name: str) -> JobData:
    """A data set in the site's own map; raises `RefusedError`."""
    found = settings.datasets.get(name)
    if found is None:
        raise RefusedError("dataset_unknown", f"this clinic has no data set '{name}'")
    try:
        salt = found.salt()
    except SecretUnreadableError:
        raise RefusedError("split_salt", f"the split salt of data set '{name}' cannot be read") from None
    return JobData(name=name, folders=found.folders, layout=found.layout, split_salt=salt)


def _request(
    start: StartTask, manifest: Manifest, consent: Consent, code_sha256: str | None, cases: int | None = None
) -> Request:
    return Request(
        kind="task",
        study=manifest.study,
        requested_by=start.requested_by,
        trainer=manifest.training.trainer,
        code_sha256=code_sha256,
        dataset=dataset_of(manifest, start.task),
        rounds=consent.rounds,
        epochs=manifest.training.epochs,
        sites=len(manifest.cohort.sites),
        cases=cases,
        task=start.task,
    )


def _not_denied(decision: Decision) -> Decision:
    if decision.verdict == "deny":
        raise RefusedError(decision.code, decision.reason, rule=decision.rule)
    return decision


def _agreed(decision: Decision, consent: Consent) -> Decision:
    if decision.verdict == "ask" and consent.code != APPROVED:
        raise RefusedError(decision.code, decision.reason, rule=decision.rule)
    return _not_denied(decision)


async def _installed(site: Site, name: str) -> TrainerDescription | None:
    return next((each for each in await site.patience(site.catalogue) if each.name == name), None)


def _named(description: TrainerDescription | None, manifest: Manifest) -> TrainerDescription:
    if description is None:
        raise RefusedError("trainer_missing", f"no trainer '{manifest.training.trainer}' is installed at this clinic")
    return description


def _identity(description: TrainerDescription) -> Trainer:
    return Trainer(name=description.name, version=description.version, code_sha256=description.code_sha256)
