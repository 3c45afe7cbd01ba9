"""What the lines of the site's own log tell, so that each can be understood without the others.

`rule` is the policy rule that decided. `cases` is the number that leaves, `cases_used` the number that stays here.
"""

from wardround.site_agent.audit.log import Fact
from wardround.site_agent.judgement import dataset_of
from wardround_messages.base import digest
from wardround_messages.codec import encode
from wardround_messages.commands import OfferExperiment, StartTask
from wardround_messages.events import MetricsReported
from wardround_messages.manifest import Manifest
from wardround_messages.objects import Answer, Consent
from wardround_messages.parts import Measured, Trainer

Facts = dict[str, Fact]


def about_offer(offer: OfferExperiment) -> Facts:
    """Who asks for what."""
    return {
        **_of_experiment(offer.manifest, offer.manifest_sha256),
        "experiment": offer.experiment,
        "requested_by": offer.requested_by,
        "trainer": offer.manifest.training.trainer,
        "dataset": offer.manifest.training.dataset,
        "test_dataset": test.dataset if (test := offer.manifest.evaluation.test) and test.site == offer.site else None,
        "rounds": offer.rounds,
        "sites": len(offer.manifest.cohort.sites),
    }


def about_consent(consent: Consent, offer: OfferExperiment | None) -> Facts:
    """The site's word, and on whose asking; `offer` is the one that it answers, where that is still known."""
    return {
        **({} if offer is None else about_offer(offer)),
        **about_trainer(consent.trainer),
        "experiment": consent.experiment,
        "manifest_sha256": consent.manifest_sha256,
        "rounds": consent.rounds,
        "verdict": consent.verdict,
        "rule": consent.rule,
        "code": consent.code,
        "reason": consent.reason or None,
    }


def about_task(start: StartTask, manifest: Manifest | None) -> Facts:
    """Which task, and who asks for it."""
    return {
        **_of_experiment(manifest, start.manifest_sha256),
        "task": str(start.task_id),
        "experiment": start.experiment,
        "requested_by": start.requested_by,
        "dataset": None if manifest is None else dataset_of(manifest, start.task),
    }


def about_trainer(trainer: Trainer | None) -> Facts:
    """An installed trainer with the digest of its code."""
    if trainer is None:
        return {}
    return {"trainer": trainer.name, "trainer_version": trainer.version, "trainer_sha256": trainer.code_sha256}


def about_answer(answer: Answer) -> Facts:
    """How the task ended, and every figure that leaves with it."""
    failure = answer.failure
    return {
        **about_trainer(answer.trainer),
        "outcome": answer.outcome,
        "code": None if failure is None else failure.code,
        "reason": None if failure is None else failure.hint or None,
        "cases": answer.cases,
        "trained": answer.trained or None,
        "received": _measured(answer.received),
        "metrics_kept_back": answer.metrics_kept_back or None,
    }


def about_report(report: MetricsReported) -> Facts:
    """All that the event tells, with size and digest of its body."""
    body, progress = encode(report), report.progress
    return {
        "metrics": report.metrics,
        "progress": None if progress is None else progress.model_dump(),
        "epoch": report.epoch,
        "step": report.step,
        "size": len(body),
        "sha256": digest(body),
    }


def _of_experiment(manifest: Manifest | None, sha256: str) -> Facts:
    return {"study": None if manifest is None else manifest.study, "manifest_sha256": sha256}


def _measured(measured: Measured | None) -> Facts | None:
    return None if measured is None else {"cases": measured.cases, "values": measured.values}
