"""A task in hand, and the ways in which one ends other than `done`."""

import asyncio
from dataclasses import dataclass, field
from typing import Literal, TypedDict

from wardround.runtime.store.passage import Passage
from wardround.site_agent.audit.log import Fact
from wardround.site_agent.slots import Turn
from wardround.site_agent.standstill import CODE
from wardround_messages.commands import StartTask
from wardround_messages.events import Phase, TaskInHand
from wardround_messages.names import Task
from wardround_messages.parts import Failure

# Why a task ends: the site took its consent back, a person stopped all work there, or a higher attempt came. All other
# reasons are the hub's cancels.
WITHDRAWN = "withdrawn"
STOPPED = CODE
SUPERSEDED = "superseded"
BY_THE_SITE = frozenset({WITHDRAWN, STOPPED})


class TaskNames(TypedDict):
    """What names a task in events and answers."""

    site: str
    experiment: str
    round: int
    task: Task
    attempt: int


def names_of(start: StartTask) -> TaskNames:
    return TaskNames(
        site=start.site, experiment=start.experiment, round=start.round, task=start.task, attempt=start.attempt
    )


@dataclass(slots=True)
class Hand:
    """A task on its way from the command to the answer. `after` are the workers of lower attempts, `turn` is its turn
    to train once it waits for one, `noted` is what each line in the site's log says of the task, `passage` tells how
    far its model or update is while one is moved."""

    start: StartTask
    cancelled: str | None = None
    after: frozenset[asyncio.Task[None]] = frozenset()
    phase: Phase = "received"
    worker: asyncio.Task[None] | None = None
    begun: bool = False
    turn: Turn | None = None
    noted: dict[str, Fact] = field(default_factory=dict)
    passage: Passage | None = None

    def cancel(self, reason: str) -> None:
        """End the task where it stands, unless it is answered or ending already."""
        if self.cancelled is not None or self.phase == "answered":
            return
        self.cancelled = reason
        if self.begun and self.worker is not None:
            self.worker.cancel()

    def seen(self) -> TaskInHand:
        start = self.start
        return TaskInHand(
            experiment=start.experiment,
            round=start.round,
            task=start.task,
            attempt=start.attempt,
            phase=self.phase,
        )


class TaskEndsError(Exception):
    """The task is over, and not `done`. `rule` is the policy rule that decided so, if one did."""

    def __init__(
        self,
        outcome: Literal["refused", "failed", "cancelled"],
        phase: str,
        code: str,
        hint: str = "",
        *,
        rule: str | None = None,
    ) -> None:
        super().__init__(f"{outcome} while {phase}: {code}")
        self.outcome = outcome
        self.failure = Failure(phase=phase, code=code, hint=hint)
        self.rule = rule
