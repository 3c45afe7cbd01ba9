"""What a clinic was asked for and what it said, read from its inbox and its log, whether its agent runs or not."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from wardround.site_agent.audit.chain import LINE_AT_MOST, line_of
from wardround.site_agent.inbox import Inbox
from wardround.site_agent.judgement import APPROVED, REFUSED_BY_PERSON
from wardround_messages.commands import OfferExperiment
from wardround_messages.objects import Consent
from wardround_messages.parts import WITHDRAWN

Standing = Literal["unanswered", "pending", "granted", "declined", "withdrawn"]

# How the log calls what a person said, by the code of the consent that follows from it.
ACTIONS = {APPROVED: "approve", REFUSED_BY_PERSON: "refuse", WITHDRAWN: "withdraw"}
PERSON = b'"what":"person"'
NEAR = timedelta(minutes=1)  # between a person's line in the log and the consent


@dataclass(frozen=True, slots=True)
class Asked:
    """An experiment as the clinic knows it: the newest offer, all consents by their age, and what stands granted."""

    offer: OfferExperiment
    came_at: datetime | None
    answered: bool
    consents: tuple[Consent, ...]
    grant: Consent | None
    outcomes: dict[str | None, int]

    @property
    def experiment(self) -> str:
        return self.offer.experiment

    @property
    def standing(self) -> Standing:
        """What the newest offer came to. What was granted before may stand all the same."""
        newest = self._newest
        return "unanswered" if not self.answered or newest is None else newest.verdict

    @property
    def since(self) -> datetime | None:
        """When the offer came, or else when it was answered; None where neither is known any more."""
        return self.came_at or (None if self._newest is None else self._newest.at)

    @property
    def closes(self) -> datetime | None:
        """About when the hub stops waiting for the answer; an experiment may go on without the clinic then."""
        enrol = timedelta(seconds=self.offer.manifest.cohort.enrol)
        return None if self.since is None else self.since + enrol

    @property
    def waits(self) -> bool:
        """Whether it waits for a person's word. A check does not: that a person must decide is the answer to it."""
        return self.standing in ("unanswered", "pending") and self.offer.manifest.mode != "check"

    def datasets(self, site: str) -> tuple[str, ...]:
        """The data sets that it is about at this site: that of the training, and that of a common test held there."""
        manifest = self.offer.manifest
        test = manifest.evaluation.test
        names = [manifest.training.dataset, *([test.dataset] if test is not None and test.site == site else [])]
        return tuple(dict.fromkeys(names))

    @property
    def standing_since(self) -> datetime | None:
        """When it came to stand so."""
        newest = self._newest
        return self.since if self.standing in ("unanswered", "pending") or newest is None else newest.at

    @property
    def _newest(self) -> Consent | None:
        of_this = [each for each in self.consents if each.manifest_sha256 == self.offer.manifest_sha256]
        return of_this[-1] if of_this else None


def asked_for(inbox: Inbox, experiment: str) -> Asked | None:
    """What the clinic knows of the experiment; None where nothing was ever offered."""
    offers = inbox.offers_of(experiment)
    if not offers:
        return None
    offer = offers[-1]
    return Asked(
        offer=offer,
        came_at=inbox.came_at(offer),
        answered=not inbox.is_open(offer),
        consents=tuple(sorted(inbox.consents_of(experiment), key=lambda each: (each.at, each.number))),
        grant=inbox.grant(experiment, offer.manifest_sha256),
        outcomes=inbox.outcomes(experiment),
    )


def all_waiting(inbox: Inbox) -> tuple[Asked, ...]:
    """What waits for a person's word, that which came first first."""
    found = (asked_for(inbox, experiment) for experiment in inbox.experiments_offered())
    waiting = [each for each in found if each is not None and each.waits]
    return tuple(sorted(waiting, key=lambda each: (each.since is not None, each.since, each.experiment)))


@dataclass(frozen=True, slots=True)
class Said:
    """What a person said of an experiment, as the log has it."""

    at: datetime
    action: str
    by: str
    reason: str


def said_by_people(log: Path, experiment: str) -> tuple[Said, ...]:
    """What people said of the experiment, in order; nothing where there is no log. Raises `OSError`."""
    return tuple(_said(log, experiment)) if log.is_file() else ()


def _said(log: Path, experiment: str) -> Iterator[Said]:
    with log.open("rb") as file:
        while raw := file.readline(LINE_AT_MOST):
            if PERSON not in raw:  # a log is long, and of few lines more than this is worth knowing
                continue
            line = line_of(raw.rstrip(b"\n"), 0)
            facts = line.facts
            if line.what == "person" and facts.get("experiment") == experiment and line.at is not None:
                yield Said(line.at, str(facts.get("action")), str(facts.get("by", "")), str(facts.get("reason", "")))


def whose(consent: Consent, said: tuple[Said, ...]) -> Said | None:
    """The person's word from which the consent follows; None where a rule decided, or the log does not tell."""
    action = ACTIONS.get(consent.code)
    near = [each for each in said if each.action == action and abs(each.at - consent.at) < NEAR]
    return min(near, key=lambda each: abs(each.at - consent.at), default=None)
