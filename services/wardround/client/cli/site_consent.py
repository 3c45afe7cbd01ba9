"""`wardround site pending`, `show`, `approve`, `refuse`, `withdraw`, `stop`, `resume`: a person's word at a clinic."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from wardround.client.cli.errors import CommandError, Exit
from wardround.client.cli.on_hub import AsJson, Experiment, one_line
from wardround.client.cli.on_site import By, OnSite, Yes, confirm, site_settings, who
from wardround.client.cli.output import ago, show_json, table
from wardround.client.cli.output import show as show_table
from wardround.client.clinic.door import AgentDoor, AgentSilentError, Decided, NoAgentError, NotOursError
from wardround.client.clinic.offer_words import STANDING, View, closes_text, stopped_text
from wardround.client.clinic.offers import Asked, all_waiting, asked_for, said_by_people
from wardround.client.clinic.stopping import Report, Stopping
from wardround.client.errors import RefusedError
from wardround.runtime.clock import wall_clock
from wardround.runtime.logging import printable
from wardround.site_agent.agent_socket import Word
from wardround.site_agent.inbox import Inbox
from wardround.site_agent.inbox_file import InboxError
from wardround.site_agent.policy import load_policy, requests_of
from wardround.site_agent.settings import POLICY_FILE, SiteSettings
from wardround.site_agent.standstill import Standstill
from wardround.site_agent.trainers import TrainersError, describe_with
from wardround_messages.parts import TrainerDescription

LABEL = 16  # columns
NOT_KEPT = "not_kept"  # what the agent could not write down

Reason = Annotated[str, typer.Option("--reason", callback=one_line, help="Why. It stays in the clinic's own log.")]
ReasonTold = Annotated[
    str, typer.Option("--reason", callback=one_line, help="Why. The hub is told, and so is whoever asked.")
]
InsecureLab = Annotated[
    bool, typer.Option("--insecure-lab", help="Speak also to an Airflow on another machine without TLS, in a lab.")
]


def pending(site: OnSite = None, as_json: AsJson = False) -> None:
    """List the experiments that wait for a person's word at this clinic. The agent need not run."""
    settings, _ = site_settings(site)
    stopped = Standstill(settings.paths.inbox).word
    with _inbox(settings) as inbox:
        waiting = all_waiting(inbox)
    if as_json:
        for each in waiting:
            show_json(_summary(each))
        return
    if stopped is not None:
        print(printable(f"{stopped_text(stopped)}: wardround site resume{_at(site)}"), flush=True)
    if not waiting:
        print("nothing waits for a person's word", flush=True)
        return
    rows = (
        (
            each.experiment,
            each.offer.requested_by,
            each.offer.manifest.study,
            each.offer.rounds,
            STANDING[each.standing],
            ago(each.since),
            closes_text(each, wall_clock()),
        )
        for each in waiting
    )
    columns = ("experiment", "who asks", "study", "rounds", "state", "since", "enrolment closes")
    show_table(table(columns, rows, right=("rounds",)))
    print(f"what each asks for: wardround site show EXPERIMENT{_at(site)}", flush=True)


def show(experiment: Experiment, site: OnSite = None, as_json: AsJson = False) -> None:
    """Say in words what an experiment asks of this clinic: who asks, for what, what leaves, how often, who else."""
    view = _view(experiment, site)
    if as_json:
        show_json(_as_json(view))
        return
    print(printable(view.headline), flush=True)
    for label, text in view.lines():
        print(printable(f"  {label:<{LABEL}}{text}".rstrip()), flush=True)


def approve(experiment: Experiment, reason: Reason = "", by: By = None, yes: Yes = False, site: OnSite = None) -> None:
    """Agree that this clinic takes part, in so many rounds as it was asked for; the policy stands above it."""
    decided = _decide("approve", experiment, reason, by=by, yes=yes, site=site)
    if not decided.consents:
        print(f"{experiment}: granted already; nothing new", flush=True)
    for consent in decided.consents:
        rounds = "1 round" if consent.rounds == 1 else f"{consent.rounds} rounds"
        print(f"{experiment}: granted for {rounds}; this clinic takes part from the next step on", flush=True)
    _tell_trouble(decided)


def refuse(
    experiment: Experiment, reason: ReasonTold = "", by: By = None, yes: Yes = False, site: OnSite = None
) -> None:
    """Decline what waits for a person's word. What was granted before stands: that is what `withdraw` takes back."""
    decided = _decide("refuse", experiment, reason, by=by, yes=yes, site=site)
    print(f"{experiment}: declined", flush=True)
    _tell_trouble(decided)


def withdraw(
    experiment: Experiment, reason: ReasonTold = "", by: By = None, yes: Yes = False, site: OnSite = None
) -> None:
    """Take this clinic's consent back: what is in hand is stopped, and it takes no part from now on."""
    decided = _decide("withdraw", experiment, reason, by=by, yes=yes, site=site)
    print(f"{experiment}: withdrawn; its tasks in hand end", flush=True)
    _tell_trouble(decided)


def stop(
    reason: Reason = "", by: By = None, yes: Yes = False, site: OnSite = None, insecure_lab: InsecureLab = False
) -> None:
    """Stop everything at this clinic at once, until `resume`: trainings end, nothing new is accepted, nothing leaves.

    It works whether the agent runs, hangs or is down. Tasks in hand count as refused; offers wait; consents stand.
    """
    settings, _ = site_settings(site)
    confirm(f"Stop all trainings at {settings.site} now?", yes=yes)
    stopping = Stopping(settings, Word(by=who(by), reason=reason), insecure_lab=insecure_lab)
    _tell(f"{settings.site} is stopped", stopping.stop())


def resume(reason: Reason = "", by: By = None, yes: Yes = False, site: OnSite = None) -> None:
    """Let a stopped clinic work again, from the next step of each experiment on.

    Of an experiment that had three steps without it meanwhile, it was set aside: whoever asked says wardround readmit.
    """
    settings, _ = site_settings(site)
    if Standstill(settings.paths.inbox).word is None:
        print(f"{settings.site}: it is not stopped; nothing new", flush=True)
        return
    confirm(f"Let {settings.site} work again?", yes=yes)
    try:
        report = Stopping(settings, Word(by=who(by), reason=reason), insecure_lab=False).resume()
    except (RefusedError, NotOursError) as error:
        raise _refused(error) from None
    _tell(f"{settings.site} may work again", report)


# --- what they have in common ----------------------------------------------------------------------------------------


@contextmanager
def _inbox(settings: SiteSettings) -> Iterator[Inbox]:
    """The inbox to look at; raises `CommandError` where there is none, or it cannot be read."""
    try:
        with Inbox.read(settings.paths.inbox) as inbox:
            yield inbox
    except InboxError as error:
        raise CommandError(str(error)) from None


def _decide(action: str, experiment: str, reason: str, *, by: str | None, yes: bool, site: Path | None) -> Decided:
    settings, _ = site_settings(site)
    confirm(f"{action.capitalize()} {experiment} for {settings.site}?", yes=yes)
    try:
        return AgentDoor(settings.paths.inbox).decide(action, experiment, Word(by=who(by), reason=reason))
    except NoAgentError as error:
        raise CommandError(
            f"{error}: start wardround-site-agent, and say it again (wardround site stop works without)", Exit.TRY_AGAIN
        ) from None
    except AgentSilentError as error:
        raise CommandError(f"{error}; say it again, or look into the agent's log", Exit.TRY_AGAIN) from None
    except (RefusedError, NotOursError) as error:
        raise _refused(error) from None


def _refused(error: RefusedError | NotOursError) -> CommandError:
    if isinstance(error, NotOursError):
        return CommandError(str(error), Exit.REFUSED)
    if error.code == NOT_KEPT:
        return CommandError(error.reason, Exit.ENDED_BADLY)
    return CommandError(f"refused ({error.code}): {error.reason}", Exit.REFUSED)


def _tell_trouble(decided: Decided) -> None:
    if decided.trouble is not None:
        print(f"it is written down here, and the hub is told as soon as it can be: {decided.trouble}", flush=True)


def _tell(headline: str, report: Report) -> None:
    """The report; leaves with 1 where something could not be done, with 75 where something is still under way."""
    print(headline if not report.failed else f"{headline}, as far as could be done", flush=True)
    for mark, texts in (("done", report.done), ("wait", report.under_way), ("FAIL", report.failed)):
        for text in texts:
            print(printable(f"  {mark}  {text}"), flush=True)
    if report.failed:
        raise typer.Exit(Exit.ENDED_BADLY)
    if report.under_way:
        raise typer.Exit(Exit.TRY_AGAIN)


def _at(site: Path | None) -> str:
    return "" if site is None else f" --site {site}"


def _view(experiment: str, site: Path | None) -> View:
    settings, folder = site_settings(site)
    with _inbox(settings) as inbox:
        asked = asked_for(inbox, experiment)
    if asked is None:
        raise CommandError(
            f"this clinic was never asked about '{experiment}'; wardround site pending{_at(site)} lists what waits",
            Exit.REFUSED,
        )
    trainer, no_trainer = _installed(asked.offer.manifest.training.trainer, settings)
    policy = load_policy(folder / POLICY_FILE)
    decision = policy.judge_all(
        requests_of(
            asked.offer.manifest,
            settings.site,
            requested_by=asked.offer.requested_by,
            code_sha256=None if trainer is None else trainer.code_sha256,
            rounds=asked.offer.rounds,
        )
    )
    return View(
        asked=asked,
        settings=settings,
        decision=decision,
        leave=policy.leave_of(decision.rule),
        trainer=trainer,
        no_trainer=no_trainer,
        said=said_by_people(settings.paths.log, experiment),
        stopped=Standstill(settings.paths.inbox).word,
        command=lambda words: f"wardround site {words}{_at(site)}",
    )


def _installed(name: str, settings: SiteSettings) -> tuple[TrainerDescription | None, str]:
    """The trainer as it is installed, or why it is not known."""
    try:
        described = asyncio.run(describe_with(settings.scheduler.python or sys.executable)())
    except TrainersError as error:
        return None, f"the trainers installed here cannot be listed: {error}"
    found = next((each for each in described if each.name == name), None)
    return found, "" if found else "not installed here"


def _summary(asked: Asked) -> dict[str, object]:
    manifest = asked.offer.manifest
    return {
        "experiment": asked.experiment,
        "state": asked.standing,
        "requested_by": asked.offer.requested_by,
        "study": manifest.study,
        "purpose": manifest.purpose,
        "rounds": asked.offer.rounds,
        "since": None if asked.since is None else asked.since.isoformat(),
        "enrolment_closes": None if asked.closes is None else asked.closes.isoformat(),
        "manifest_sha256": asked.offer.manifest_sha256,
    }


def _as_json(view: View) -> dict[str, object]:
    asked, decision = view.asked, view.decision
    return _summary(asked) | {
        "manifest": asked.offer.manifest.model_dump(mode="json"),
        "granted_rounds": None if asked.grant is None else asked.grant.rounds,
        "trainer": None
        if view.trainer is None
        else view.trainer.model_dump(mode="json", exclude={"parameters_schema"}),
        "folders": {
            name: view.settings.datasets[name].folders
            for name in asked.datasets(view.settings.site)
            if name in view.settings.datasets
        },
        "policy": {
            "verdict": decision.verdict,
            "rule": decision.rule,
            "code": decision.code,
            "reason": decision.reason,
        },
        "leave": view.leave.model_dump(mode="json"),
        "consents": [consent.model_dump(mode="json") for consent in asked.consents],
        "said": [
            {"at": word.at.isoformat(), "action": word.action, "by": word.by, "reason": word.reason}
            for word in view.said
        ],
        "tasks": {outcome or "in_hand": number for outcome, number in asked.outcomes.items()},
        "stopped": None if view.stopped is None else view.stopped.model_dump(mode="json"),
    }
