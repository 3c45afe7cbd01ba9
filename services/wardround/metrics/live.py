"""What sites say they are doing now. It is shown, never counted: no message of it needs to arrive."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import get_args

from wardround_messages.events import (
    MetricsReported,
    OfTask,
    Phase,
    Progress,
    SiteSeen,
    TaskAccepted,
    TaskAnswered,
    TaskInHand,
    TaskStarted,
    TransferReported,
)
from wardround_messages.names import Task
from wardround_messages.objects import Answer

PHASES: tuple[Phase, ...] = get_args(Phase)


@dataclass(frozen=True, slots=True)
class Moving:
    """A model or an update on its way: bytes that have passed, of how many, how many a second lately, and when that
    was said."""

    done: int
    of: int
    per_second: int | None
    at: datetime


@dataclass(frozen=True, slots=True)
class TaskLive:
    """A site's task as far as was heard.

    `since` is when its phase was first heard of, `begun` when its training was triggered. While it waits for a slot,
    `before` is how many others come first. `measured` are metrics of the model it was given, reported without a step;
    `trained` those of the training. `moving` is about the phase that it is in.
    """

    round: int
    task: Task
    attempt: int
    phase: Phase
    since: datetime
    begun: datetime | None = None
    before: int | None = None
    progress: Progress | None = None
    moving: Moving | None = None
    measured: Mapping[str, float | None] = field(default_factory=dict)
    trained: Mapping[str, float | None] = field(default_factory=dict)
    epoch: int | None = None
    ended: TaskAnswered | None = None
    answer: Answer | None = None

    @property
    def place(self) -> tuple[int, int, int]:
        """Later steps and higher attempts come after earlier ones."""
        return self.round, list(Task).index(self.task), self.attempt

    @property
    def seconds(self) -> float | None:
        """How long the training took, both ends by the site's own clock."""
        if self.ended is None or self.begun is None:
            return None
        return (self.since - self.begun).total_seconds()


Tasks = Mapping[str, TaskLive]


def heard(tasks: Tasks, message: OfTask, at: datetime) -> Tasks:
    """The tasks after what a site said of its task; a task that is over, or was followed by another, stays so."""
    task = _newest(tasks, message.site, message, at)
    if task is None or task.ended is not None:
        return tasks
    match message:
        case TaskAccepted():
            changed = _in_phase(task, "received", at)
        case TaskStarted():
            changed = replace(_in_phase(task, "training", at), begun=task.begun or at)
        case MetricsReported():
            changed = _reported(_in_phase(task, "training", at), message)
        case TransferReported(phase=phase):
            changed = _in_phase(task, phase, at)
            if changed.phase == phase:
                changed = replace(changed, moving=Moving(message.done, message.of, message.per_second, at))
        case TaskAnswered():
            changed = replace(_in_phase(task, "answered", at), ended=message)
        case _:
            return tasks
    return tasks if changed == tasks.get(message.site) else {**tasks, message.site: changed}


def answered(tasks: Tasks, answer: Answer) -> Tasks:
    """The tasks with the answer itself, where it belongs to the newest task of its site."""
    task = tasks.get(answer.site)
    if task is None or (task.round, task.task, task.attempt) != (answer.round, answer.task, answer.attempt):
        return tasks
    return {**tasks, answer.site: replace(task, answer=answer)}


def in_hand(tasks: Tasks, seen: SiteSeen, experiment: str, at: datetime) -> Tasks:
    """The tasks after a site listed what it has in hand, in the order of their turns: those beyond its slots wait."""
    place = 0
    for hand in seen.tasks:
        in_turn, before = hand.phase in ("queued", "training"), place - seen.slots
        place += in_turn
        task = _newest(tasks, seen.site, hand, at) if hand.experiment == experiment else None
        if task is not None and task.ended is None:
            waits = hand.phase == "queued" and before >= 0
            changed = replace(_in_phase(task, hand.phase, at), before=before if waits else None)
            tasks = {**tasks, seen.site: changed}
    return tasks


def _newest(tasks: Tasks, site: str, named: OfTask | TaskInHand, at: datetime) -> TaskLive | None:
    """The task that is named, new if need be; None where the site has gone on to another."""
    named_task = TaskLive(named.round, named.task, named.attempt, "received", at)
    known = tasks.get(site)
    if known is None or known.place < named_task.place:
        return named_task
    return known if known.place == named_task.place else None


def _in_phase(task: TaskLive, phase: Phase, at: datetime) -> TaskLive:
    return replace(task, phase=phase, since=at, moving=None) if PHASES.index(phase) > PHASES.index(task.phase) else task


def _reported(task: TaskLive, message: MetricsReported) -> TaskLive:
    of_training = message.step is not None or message.epoch is not None
    return replace(
        task,
        progress=message.progress or task.progress,
        epoch=task.epoch if message.epoch is None else message.epoch,
        trained={**task.trained, **message.metrics} if of_training else task.trained,
        measured=task.measured if of_training else {**task.measured, **message.metrics},
    )
