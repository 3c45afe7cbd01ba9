"""What the coordinator knows of an experiment: the fold of its journal, see `evolve.py`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from wardround_messages.manifest import Manifest
from wardround_messages.names import Task
from wardround_messages.parts import Member, ObjectRef

MISSES_UNTIL_SET_ASIDE = 3

Phase = Literal["enrolling", "running", "finished", "failed", "aborted"]
StepName = tuple[int, Task]
AnswerName = tuple[str, int]  # site, attempt


@dataclass(frozen=True, slots=True)
class Site:
    """What the journal knows of a site. `offer` is the offer its latest consent answers, -1 before the first.

    `turns` counts the rounds in which it was asked to train. Where it could not be asked, it has as many as whoever of
    the others has least, so that it does not catch up on rounds that were none of its own.
    """

    verdict: Literal["granted", "declined", "pending", "withdrawn"] | None = None
    rounds: int = 0
    consent: int = 0
    offer: int = -1
    misses: int = 0
    set_aside: bool = False
    turns: int = 0

    @property
    def granted(self) -> bool:
        return self.verdict == "granted"

    def may_be_asked(self, round_: int) -> bool:
        """Whether it granted the round, and is not set aside."""
        return self.granted and not self.set_aside and self.rounds >= round_


@dataclass(frozen=True, slots=True)
class Closing:
    """The closing entry that waits for its aggregation; `since` is when the wait began, `missed` names the sites
    asked in vain."""

    number: int
    sha256: str
    since: datetime
    members: tuple[Member, ...]
    missed: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Step:
    """The open step. Its deadline runs from `since`, its grace from `quorum_since`.

    `first_attempt` holds, after a resumption, the attempt from which a site's budget counts anew; `spoiled` the
    answers that the aggregation left out; `withdrew` the sites that took their consent back meanwhile.
    """

    round: int
    task: Task
    asked: tuple[str, ...]
    quorum: int
    built_on: ObjectRef | None
    since: datetime
    quorum_since: datetime | None = None
    first_attempt: Mapping[str, int] = field(default_factory=dict)
    spoiled: frozenset[AnswerName] = frozenset()
    withdrew: frozenset[str] = frozenset()
    closing: Closing | None = None

    @property
    def name(self) -> StepName:
        return self.round, self.task


@dataclass(frozen=True, slots=True)
class Revoked:
    """A task that a site should no longer work on, and why."""

    round: int
    task: Task
    site: str
    attempt: int
    reason: Literal["stale_round", "step_closed", "experiment_ended"]


@dataclass(frozen=True, slots=True)
class Measurement:
    """What the members of a step measured of the model that it was given."""

    step: StepName
    values: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class State:
    """Everything that decisions depend on; `entries` is the number of journal entries folded in,
    `offered` the number of the entry that led to the latest offer, `offered_at` its time."""

    manifest: Manifest
    manifest_sha256: str
    requested_by: str
    initial: ObjectRef | None
    rounds: int
    offered_at: datetime
    sites: Mapping[str, Site]
    entries: int = 1
    phase: Phase = "enrolling"
    paused: str | None = None
    offered: int = 0
    step: Step | None = None
    tried: tuple[str, ...] = ()
    models: tuple[ObjectRef | None, ...] = ()
    received: Mapping[int, Measurement] = field(default_factory=dict)
    accounted: Mapping[StepName, frozenset[AnswerName]] = field(default_factory=dict)
    done_steps: frozenset[StepName] = frozenset()
    revoked: tuple[Revoked, ...] = ()
    commands_done: frozenset[str] = frozenset()
    updates_pruned_to: int = -1

    @property
    def ended(self) -> bool:
        return self.phase in ("finished", "failed", "aborted")

    @property
    def latest(self) -> int:
        """The round of the latest global model, -1 before the first."""
        return len(self.models) - 1

    @property
    def best(self) -> int | None:
        """The round of the best model so far by the manifest's metric; round r's answers describe model r-1."""
        wish = self.manifest.model.best
        if wish is None:
            return None
        measured = {
            round_: value
            for round_, measurement in self.received.items()
            if (value := measurement.values.get(wish.metric)) is not None and round_ <= self.latest
        }
        if not measured:
            return None
        sign = 1 if wish.goal == "max" else -1
        return max(measured, key=lambda round_: (sign * measured[round_], round_))
