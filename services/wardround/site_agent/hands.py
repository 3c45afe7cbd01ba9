"""The tasks in hand: each is taken up once, and ended by whoever may."""

import asyncio
from collections.abc import Callable, Iterable

from wardround.site_agent.hand import STOPPED, SUPERSEDED, Hand
from wardround.site_agent.site import Site
from wardround_messages.commands import StartTask
from wardround_messages.names import TaskId

Begin = Callable[[Hand], asyncio.Task[None]]


class Hands:
    """What the agent has in hand. `begin` starts the worker of a task, which ends by itself once it is cancelled."""

    def __init__(self, site: Site, begin: Begin) -> None:
        self._site = site
        self._begin = begin
        self._hands: dict[TaskId, Hand] = {}

    def __contains__(self, task: TaskId) -> bool:
        return task in self._hands

    @property
    def all(self) -> tuple[Hand, ...]:
        return tuple(self._hands.values())

    @property
    def workers(self) -> dict[asyncio.Task[None], TaskId]:
        """Who carries the tasks out."""
        return {hand.worker: task for task, hand in self._hands.items() if hand.worker is not None}

    def get(self, task: TaskId) -> Hand | None:
        return self._hands.get(task)

    def take_up(self, start: StartTask) -> None:
        """Begin a task. A higher attempt ends the lower ones, whichever of them came first.

        While the clinic is stopped it begins as ended: what an agent before this one left running is stopped at once,
        whatever else is away.
        """
        task, inbox = start.task_id, self._site.inbox
        hand = Hand(start, cancelled=inbox.cancelled(task))
        if hand.cancelled is None and inbox.newest_attempt(task) > task.attempt:
            hand.cancelled = SUPERSEDED
        if hand.cancelled is None and self._site.standstill.word is not None:
            hand.cancelled = STOPPED
        lower = [other for known, other in self._hands.items() if _is_earlier(known, task)]
        for other in lower:
            other.cancel(SUPERSEDED)
        hand.after = frozenset(other.worker for other in lower if other.worker is not None)
        self._hands[task] = hand
        hand.worker = self._begin(hand)
        hand.worker.add_done_callback(lambda _: self._hands.pop(task))

    async def end_all(self, why: str) -> None:
        """End all tasks in hand, and remember that over a restart."""
        await self._end(self.all, why)

    async def end_those_of(self, experiment: str, why: str) -> None:
        """End the tasks in hand of one experiment, and remember that over a restart."""
        await self._end([hand for task, hand in self._hands.items() if task.experiment == experiment], why)

    async def _end(self, hands: Iterable[Hand], why: str) -> None:
        hands = tuple(hands)
        for hand in hands:
            hand.cancel(why)
        for hand in hands:
            await self._site.write(self._site.inbox.cancel, hand.start.task_id, why)


def _is_earlier(known: TaskId, task: TaskId) -> bool:
    return (known.experiment, known.round, known.task) == (task.experiment, task.round, task.task) and (
        known.attempt < task.attempt
    )
