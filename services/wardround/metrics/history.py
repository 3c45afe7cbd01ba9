"""The journal as those who watch read it: rounds, their steps, and where each site stands. `evolve.py` folds it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from wardround_messages import journal as facts
from wardround_messages.figures import SiteOutcome
from wardround_messages.manifest import Manifest
from wardround_messages.names import Task
from wardround_messages.parts import LateAnswer, LeftOut, NotCounted, ObjectRef

Phase = Literal["enrolling", "running", "finished", "failed", "aborted"]
Verdict = Literal["granted", "declined", "pending", "withdrawn"]
StepName = tuple[int, Task]


@dataclass(frozen=True, slots=True)
class Entry:
    """What an event and a journal entry have in common."""

    number: int
    at: datetime
    fact: facts.Fact


@dataclass(frozen=True, slots=True)
class Standing:
    """A site's place in the experiment. `reason` is what it said with its verdict; `set_aside` is the code of why it is
    not asked, `missed` why it did not count in the last steps before that."""

    verdict: Verdict | None = None
    reason: str = ""
    set_aside: str | None = None
    missed: tuple[str, ...] = ()
    counted: int = 0

    @property
    def absence(self) -> SiteOutcome:
        """Why a step does not ask the site."""
        if self.verdict in ("withdrawn", "declined"):
            return "withdrawn" if self.verdict == "withdrawn" else "declined"
        return "not_asked" if self.set_aside is None else "set_aside"


@dataclass(frozen=True, slots=True)
class Closing:
    number: int
    at: datetime
    fact: facts.StepClosed


@dataclass(frozen=True, slots=True)
class Step:
    """One task of a round. The deadline runs from `since`, the grace from `quorum_since`.

    `absent` names the sites of the cohort that a step for all sites did not ask, and why; `passed` the answers of
    sites that were asked to initialise before and could not; `late` what came after the step had closed;
    `attempts` with which attempt a site goes on since the experiment was resumed.
    """

    round: int
    task: Task
    asked: tuple[str, ...]
    quorum: int
    built_on: ObjectRef | None
    opened_at: datetime
    since: datetime
    absent: Mapping[str, SiteOutcome]
    passed: tuple[NotCounted, ...] = ()
    quorum_at: datetime | None = None
    quorum_since: datetime | None = None
    withdrew: frozenset[str] = frozenset()
    left_out: tuple[LeftOut, ...] = ()
    reopened: int = 0
    closing: Closing | None = None
    late: tuple[LateAnswer, ...] = ()
    attempts: Mapping[str, int] = field(default_factory=dict)

    @property
    def name(self) -> StepName:
        return self.round, self.task


@dataclass(frozen=True, slots=True)
class Adopted:
    at: datetime
    fact: facts.ModelAdopted


@dataclass(frozen=True, slots=True)
class Round:
    """`steps` in the order they were opened."""

    number: int
    steps: Mapping[Task, Step] = field(default_factory=dict)
    model: Adopted | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """What a model was worth by the manifest's metric, as measured in the step `by`."""

    value: float
    by: StepName


@dataclass(frozen=True, slots=True)
class History:
    """Everything that happened in an experiment. `waits_since` is when the time for enrolment began."""

    manifest: Manifest
    requested_by: str
    rounds_planned: int
    started_at: datetime
    waits_since: datetime
    changed_at: datetime
    sites: Mapping[str, Standing]
    next: int = 1
    phase: Phase = "enrolling"
    paused: str | None = None
    reason: str = ""
    current: StepName | None = None
    latest_model: int = -1
    rounds: Mapping[int, Round] = field(default_factory=dict)
    scores: Mapping[int, Score] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        return self.phase in ("finished", "failed", "aborted")

    @property
    def step(self) -> Step | None:
        """The step opened last."""
        return None if self.current is None else self.rounds[self.current[0]].steps[self.current[1]]


def describes(step: StepName) -> int:
    """The round of the model whose metrics a step's sites measure: round r builds on model r-1."""
    round_, task = step
    return round_ - 1 if task is Task.TRAIN else round_
