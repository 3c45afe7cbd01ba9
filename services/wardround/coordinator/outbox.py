"""What is said to whom, and how often: outstanding commands once per process and connection, entries as events."""

import asyncio
from collections.abc import Iterable
from datetime import datetime, timedelta

import structlog

from wardround.coordinator.due import Due, stale_tasks
from wardround.coordinator.state import State
from wardround.runtime.bus.messaging import Messenger
from wardround.runtime.bus.port import BusError
from wardround.runtime.journal import Stored
from wardround_messages.commands import AggregateStep, OfferExperiment, StartTask
from wardround_messages.events import EntryRecorded, SiteSeen
from wardround_messages.messages import Message
from wardround_messages.names import TaskId

log = structlog.get_logger()

FIRST_REPEAT = timedelta(seconds=60)
LAST_REPEAT = timedelta(hours=1)
GIVE_UP_AFTER = 1.0  # seconds: a broker that is away holds up no decision; what is outstanding is said again


class Outbox:
    """One experiment's voice. Losing what it remembers leads to saying things twice, which is harmless."""

    def __init__(self, experiment: str, messenger: Messenger) -> None:
        self._experiment = experiment
        self._messenger = messenger
        self._said: set[str] = set()
        self._repeats: dict[str, tuple[datetime, timedelta]] = {}
        self._news: dict[str, SiteSeen] = {}
        self._seen: dict[str, SiteSeen] = {}
        self._entries: list[Stored] = []

    def announce(self, stored: Stored) -> None:
        """Publish the entry with the next `speak`."""
        self._entries.append(stored)

    def seen(self, message: SiteSeen) -> None:
        """What a site has in hand; heeded from the next `hear` on."""
        self._news[message.site] = message

    def hear(self) -> None:
        """Heed what sites said until now: the state read after this is not older than what they know."""
        self._seen |= self._news
        self._news = {}

    def forget(self) -> None:
        """The connection was lost, and with it perhaps what was said."""
        self._said.clear()

    async def speak(self, state: State, outstanding: list[Due], now: datetime) -> None:
        """Say what is outstanding and not said yet; publish the new entries."""
        entries, self._entries = self._entries, []
        seen, self._seen = self._seen, {}
        commands = [*self._choose(outstanding, seen, now), *self._stale(state, seen)]
        await asyncio.gather(*map(self._say, commands), *map(self._publish, entries))

    def _choose(self, outstanding: list[Due], seen: dict[str, SiteSeen], now: datetime) -> list[Due]:
        named = {command.id: command for command in outstanding}
        chosen = [
            command
            for name, command in named.items()
            if name not in self._said or self._is_repeated(name, now) or _is_lacking(command, seen)
        ]
        self._said = set(named)
        self._repeats = {known: repeat for known, repeat in self._repeats.items() if known in self._said}
        for command in chosen:
            if isinstance(command, AggregateStep):
                _, before = self._repeats.get(command.id, (now, FIRST_REPEAT / 2))
                pause = min(before * 2, LAST_REPEAT)
                self._repeats[command.id] = (now + pause, pause)
        return chosen

    def _is_repeated(self, name: str, now: datetime) -> bool:
        """An aggregation is asked for again after a minute, then ever more rarely."""
        return name in self._repeats and now >= self._repeats[name][0]

    def _stale(self, state: State, seen: dict[str, SiteSeen]) -> list[Message]:
        return [
            cancel
            for site, message in seen.items()
            for cancel in stale_tasks(state, site, (t for t in message.tasks if t.experiment == self._experiment))
        ]

    async def _say(self, message: Message) -> None:
        try:
            await self._messenger.send(message, give_up_after=GIVE_UP_AFTER)
        except BusError as error:
            log.warning("not_sent", experiment=self._experiment, message_id=message.id, error=str(error))
            self._said.discard(message.id or "")

    async def _publish(self, stored: Stored) -> None:
        try:
            event = EntryRecorded.of(stored.entry, stored.size, stored.sha256)
            await self._messenger.send(event, cause=stored.entry.cause or None, give_up_after=GIVE_UP_AFTER)
        except BusError as error:
            log.warning("not_sent", experiment=self._experiment, entry=stored.entry.number, error=str(error))


def _is_lacking(command: Due, seen: dict[str, SiteSeen]) -> bool:
    """A site has just said what it has in hand, and this is not among it."""
    match command:
        case OfferExperiment():
            return command.site in seen
        case StartTask() if command.site in seen:
            return command.task_id not in set(_in_hand(seen[command.site]))
        case _:
            return False


def _in_hand(message: SiteSeen) -> Iterable[TaskId]:
    return (TaskId(task.experiment, task.round, task.task, message.site, task.attempt) for task in message.tasks)
