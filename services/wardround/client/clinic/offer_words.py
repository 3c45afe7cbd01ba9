"""An offer in words that the owner of the data reads: who asks for what, what would leave, how often, who else."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase

from wardround.client.clinic.offers import Asked, Said, whose
from wardround.metrics.wording import clinics_text, duration_text
from wardround.site_agent.judgement import APPROVED
from wardround.site_agent.policy import Decision, Leave
from wardround.site_agent.settings import SiteSettings
from wardround.site_agent.standstill import Stopped
from wardround_messages.manifest import Manifest, share_of
from wardround_messages.parts import TrainerDescription

STANDING = {
    "unanswered": "not answered yet",
    "pending": "waits for a person's word",
    "granted": "granted",
    "declined": "declined",
    "withdrawn": "withdrawn",
}
INITIAL = {
    "trainer": "made by the trainer at one clinic, of no patient's data",
    "brought": "brought by the researcher",
    "forked": "that of another experiment",
}
OPTIMIZER = {
    "reset": "begun anew in each round",
    "keep": "kept here from round to round",
    "average": "sent and averaged with the weights",
}


@dataclass(frozen=True, slots=True)
class View:
    """All that is told of an offer. `trainer` is None, and `no_trainer` says why, where it is not installed here.

    `command` makes a whole command line of the words that follow `wardround site`.
    """

    asked: Asked
    settings: SiteSettings
    decision: Decision
    leave: Leave
    trainer: TrainerDescription | None
    no_trainer: str
    said: tuple[Said, ...]
    stopped: Stopped | None
    command: Callable[[str], str]

    def lines(self) -> Iterator[tuple[str, str]]:
        """Labelled lines; those that go on from the one before have no label."""
        manifest = self.asked.offer.manifest
        sections = (
            ("who asks", [f"{self.asked.offer.requested_by}, as the hub says"]),
            ("for what", [f"study '{manifest.study}'" + (f": {manifest.purpose}" if manifest.purpose else "")]),
            ("which data", list(self._data())),
            ("what runs", list(self._trainer(manifest))),
            ("parameters", [parameters_text(manifest)]),
            ("how often", list(self._how_often(manifest))),
            ("what leaves", list(self._leaves(manifest))),
            ("what stays", ["the data, the names of the cases that were used, and whatever is not named above"]),
            ("who takes part", list(self._cohort(manifest))),
            ("policy", [self.decision.reason]),
            ("so far", list(self._history())),
            ("manifest", [f"sha256:{self.asked.offer.manifest_sha256}"]),
            ("next", list(self._next())),
        )
        for label, texts in sections:
            for number, text in enumerate(texts):
                yield (label if number == 0 else "", text)

    @property
    def headline(self) -> str:
        at = self.asked.standing_since
        since = "" if at is None else f" since {at_text(at)}"
        return f"{self.asked.experiment}: {STANDING[self.asked.standing]}{since}"

    def _data(self) -> Iterator[str]:
        for name in self.asked.datasets(self.settings.site):
            dataset = self.settings.datasets.get(name)
            yield f"'{name}': {', '.join(dataset.folders) if dataset else 'this clinic has no such data set'}"

    def _trainer(self, manifest: Manifest) -> Iterator[str]:
        if self.trainer is None:
            yield f"trainer '{manifest.training.trainer}': {self.no_trainer}"
            return
        yield f"trainer '{self.trainer.name}' {self.trainer.version} as it is installed here"
        yield f"code sha256:{self.trainer.code_sha256}"
        granted = None if self.asked.grant is None else self.asked.grant.trainer
        if granted is not None and granted.code_sha256 != self.trainer.code_sha256:
            yield f"when consent was given, it was {granted.version}, code sha256:{granted.code_sha256}"

    def _how_often(self, manifest: Manifest) -> Iterator[str]:
        if manifest.mode == "check":
            yield "once: a check on a few cases, of which codes leave and nothing else"
            return
        rounds, grant = self.asked.offer.rounds, self.asked.grant
        before = f", {grant.rounds} of them granted already" if grant is not None and grant.rounds < rounds else ""
        yield f"{_times(rounds, 'round')} of training{before}"
        initial = manifest.model.initial.kind
        yield f"the first model is {INITIAL[initial]}"
        if manifest.cohort.sample != "all":
            yield f"each round asks a sample of {manifest.cohort.sample} of the clinics, drawn by a seed"
        if manifest.evaluation.received:
            yield "each round first measures the model it begins with, on this clinic's validation cases"
        if manifest.evaluation.final:
            yield "the last model is measured once more"
        if (test := manifest.evaluation.test) is not None:
            where = "here" if test.site == self.settings.site else f"at {test.site}"
            yield f"the last model is measured on common cases {where}"

    def _leaves(self, manifest: Manifest) -> Iterator[str]:
        if manifest.mode == "check":
            yield "whether it worked, as codes"
            return
        yield f"in each round an update of the model, at most {self.leave.update_at_most:,} bytes"
        yield self._metrics()
        if manifest.strategy.weight == "cases":
            yield "how many cases were trained on and measured, as the clinics are weighted by them"
        else:
            yield "no number of cases: all clinics weigh the same"
        yield "which trainer ran, with the digest of its code, how long each phase took, how many steps it had"
        yield "number and digest of the newest line of the clinic's log, by which it can be checked later"
        yield "errors in words" if self.leave.errors == "text" else "errors as codes, without words"

    def _metrics(self) -> str:
        if not self.leave.metrics:
            return "no metrics"
        allowed = f"metrics that are called {' or '.join(self.leave.metrics)}"
        if self.trainer is None:
            return allowed
        names = sorted(self.trainer.metrics)
        leaving = [name for name in names if any(fnmatchcase(name, each) for each in self.leave.metrics)]
        return f"{allowed}: of the trainer's own {', '.join(names) or 'none'} these are {', '.join(leaving) or 'none'}"

    def _cohort(self, manifest: Manifest) -> Iterator[str]:
        cohort = manifest.cohort
        others = [site for site in cohort.sites if site != self.settings.site]
        yield f"{clinics_text(len(cohort.sites))}: this one" + (f", {', '.join(others)}" if others else " alone")
        asked = share_of(cohort.sample, len(cohort.sites))
        yield f"a round counts with {share_of(cohort.quorum, asked)} of {asked} of them"

    def _history(self) -> Iterator[str]:
        if self.asked.came_at is not None:
            yield f"{at_text(self.asked.came_at)}  asked for {_times(self.asked.offer.rounds, 'round')}"
        for consent in self.asked.consents:
            word = whose(consent, self.said)
            by = "a person" if word is None and consent.code in (APPROVED, "refused_by_person", "withdrawn") else ""
            by = (word.by or "a person") if word is not None else by
            reason = word.reason if word is not None else consent.reason
            rounds = f" for {_times(consent.rounds, 'round')}" if consent.verdict in ("granted", "pending") else ""
            yield (
                f"{at_text(consent.at)}  {consent.verdict}{rounds}"
                + (f" by {by}" if by else "")
                + (f": {reason}" if reason else "")
            )
        counts = [
            f"{number} {'in hand' if outcome is None else outcome}" for outcome, number in self.asked.outcomes.items()
        ]
        yield f"tasks: {', '.join(counts)}" if counts else "no task yet"

    def _next(self) -> Iterator[str]:
        experiment = self.asked.experiment
        if self.stopped is not None:
            yield f"{stopped_text(self.stopped)}: {self.command('resume')}"
        approve = self.command(f"approve {experiment}")
        refuse = self.command(f"refuse {experiment} --reason '...'")
        withdraw = self.command(f"withdraw {experiment} --reason '...'")
        if self.asked.waits:
            yield f"{approve}: it takes part from the next step on"
            yield f"{refuse}: the hub is told that it does not"
        elif self.asked.standing in ("declined", "withdrawn"):
            yield f"{approve}: it takes part from the next step on" + (
                ", once the policy no longer denies it" if self.decision.verdict == "deny" else ""
            )
        if (grant := self.asked.grant) is not None:
            if not self.asked.waits and self.decision.verdict == "ask" and grant.code != APPROVED:
                yield f"{approve}: the policy asks for a person's word by now, and refuses tasks until then"
            yield f"{withdraw}: what is in hand is stopped, and it takes no part from then on"


def parameters_text(manifest: Manifest) -> str:
    """The parameters of the training, one after another."""
    training = manifest.training
    own = [f"{name} = {_value(value)}" for name, value in sorted(training.parameters.items())]
    epochs = f"{_times(training.epochs, 'epoch')} a round"
    return ", ".join([*own, epochs, f"the optimizer's state is {OPTIMIZER[training.optimizer_state]}"])


def stopped_text(stopped: Stopped) -> str:
    """Who stopped the clinic, when and why."""
    when = "" if stopped.at is None else f" since {at_text(stopped.at)}"
    by = f" by {stopped.by}" if stopped.by else ""
    return f"the clinic is stopped{when}{by}" + (f" ({stopped.reason})" if stopped.reason else "")


def closes_text(asked: Asked, now: datetime) -> str:
    """Until when the hub waits for the answer."""
    if asked.closes is None:
        return ""
    left = (asked.closes - now).total_seconds()
    return f"in {duration_text(left)}" if left > 0 else "over; it may join later"


def at_text(at: datetime) -> str:
    """In the time of this machine."""
    return f"{at.astimezone():%Y-%m-%d %H:%M}"


def _times(number: int, what: str) -> str:
    return f"1 {what}" if number == 1 else f"{number} {what}s"


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(_value, value))}]"
    return f"'{value}'" if isinstance(value, str) else str(value)
