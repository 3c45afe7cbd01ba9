"""A task in hand, and the ways in which one ends other than `done`."""

import asyncio
from dataclasses import dataclass
from typing import Literal, TypedDict

from wardround_messages.commands import StartTask
from wardround_messages.events import Phase, TaskInHand
from wardround_messages.names import Task
from wardround_messages.parts import Failure

# Why a task ends: the site took its consent back, or a higher attempt came. All other reasons are the hub's cancels.
WITHDRAWN = "withdrawn"
SUPERSEDED = "superseded"


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
    """A task on its way from the command to the answer. `after` are the workers of lower attempts."""

    start: StartTask
    cancelled: str | None = None
    after: frozenset[asyncio.Task[None]] = frozenset()
    phase: Phase = "received"
    worker: asyncio.Task[None] | None = None
    begun: bool = False

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
    """The task is over, and not `done`."""

    def __init__(
        self,
        outcome: Literal["refused", "failed", "cancelled"],
        phase: str,
        code: str,
        hint: str = "",
    ) -> None:
        super().__init__(f"{outcome} while {phase}: {code}")
        self.outcome = outcome
        self.failure = Failure(phase=phase, code=code, hint=hint)
