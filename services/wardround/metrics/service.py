"""The metrics service: listens to the stream of all that happens and writes down each round's figures."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from typing import TypeVar

import structlog

from wardround.metrics.board import Board
from wardround.metrics.evolve import IllegalEntryError
from wardround.metrics.history import History
from wardround.metrics.reading import Reader
from wardround.metrics.rebuild import entry_of
from wardround.metrics.view import ExperimentView
from wardround.runtime.bus.messaging import Messenger, Received
from wardround.runtime.bus.port import Bus, Offset, Subscription
from wardround.runtime.clock import Clock
from wardround.runtime.journal import Journal, JournalBrokenError
from wardround.runtime.patience import patiently
from wardround.runtime.store.port import ObjectStore, StoreUnavailableError
from wardround_messages.base import canonical_json
from wardround_messages.events import EntryRecorded, OfTask, Refused, SiteSeen, TaskAnswered
from wardround_messages.names import HUB, METRICS_STREAM, AnswerKey, FiguresKey, bucket_of
from wardround_messages.objects import Answer
from wardround_messages.parts import ClaimCheck

LOOK_EVERY = 15.0

T = TypeVar("T")

log = structlog.get_logger()


class MetricsService:
    """Follows every experiment. An event is a hint: what it leaves out is read from the experiment's journal.

    Figures hold nothing but what journal, answers and results say, so a second service, or a later one, writes the
    same bytes. `board` is there to be shown from.
    """

    def __init__(
        self,
        bus: Bus,
        store: ObjectStore,
        *,
        clock: Clock,
        offset: Offset = "first",
        keep_ended: int = 100,
        look_every: float = LOOK_EVERY,
    ) -> None:
        self.board = Board(keep_ended=keep_ended)
        self.ready = asyncio.Event()
        self._messenger = Messenger(bus, service="metrics", origin=HUB, clock=clock)
        self._store = store
        self._reader = Reader(store)
        self._clock = clock
        self._offset = offset
        self._look_every = look_every
        self._journals: dict[str, Journal] = {}
        self._turn = asyncio.Lock()
        self._look_now = asyncio.Event()

    async def run(self) -> None:
        """Listen until cancelled. Besides, every `look_every` seconds and after each reconnection, look into the
        journals of the experiments that go on: an event may have been lost."""
        self._messenger.bus.on_connect(self._look_now.set)
        subscription = await patiently(self._subscribe)
        self.ready.set()
        try:
            while True:
                await self._wait_for_a_look()
                for experiment in self.board.running:
                    async with self._turn:
                        await self._follow(experiment)
        finally:
            self.ready.clear()
            await subscription.close()

    async def experiment(self, name: str) -> ExperimentView | None:
        """A snapshot, read from the journal where the experiment is no longer at hand; None if there is no such."""
        async with self._turn:
            if name not in self.board:
                await self._follow(name)
            return self.board.experiment(name)

    async def _subscribe(self) -> Subscription:
        return await self._messenger.listen(METRICS_STREAM, self._hear, offset=self._offset)

    async def _wait_for_a_look(self) -> None:
        try:
            async with asyncio.timeout(self._look_every):
                await self._look_now.wait()
        except TimeoutError:
            pass
        self._look_now.clear()

    # --- events --------------------------------------------------------------------------------------------------

    async def _hear(self, received: Received) -> None:
        # A site's clock may be ahead; nothing is shown as seen in the future.
        at = min(received.envelope.time, self._clock())
        async with self._turn:  # first come, first served: deliveries are handled in their order
            match received.message:
                case EntryRecorded() as event:
                    await self._recorded(event)
                case SiteSeen() as seen:
                    self.board.seen(seen, at)
                case Refused() as refused if refused.experiment in self.board:
                    self.board[refused.experiment] = self.board[refused.experiment].refused(refused, at)
                case OfTask() as said:
                    await self._said(said, at)

    async def _said(self, said: OfTask, at: datetime) -> None:
        if said.experiment not in self.board:
            await self._follow(said.experiment)
        answer = await self._answer_to(said)
        if said.experiment in self.board:
            self.board[said.experiment] = self.board[said.experiment].said(said, at, answer)

    async def _recorded(self, event: EntryRecorded) -> None:
        if event.experiment not in self.board:
            await self._follow(event.experiment, event.number, event.claim)
            return
        async with self._stopping_where_broken(event.experiment):
            self.board[event.experiment] = self.board[event.experiment].heard(event)
        board = self.board[event.experiment]
        if board.missing or board.unwritten:
            await self._follow(event.experiment, event.number, event.claim, read=board.missing)

    async def _answer_to(self, said: OfTask) -> Answer | None:
        """The answer that a site says it stored, while its step is open; what is closed is in the figures."""
        if not isinstance(said, TaskAnswered) or said.experiment not in self.board:
            return None
        history = self.board[said.experiment].history
        if history is None or _is_closed(history, said):
            return None
        key = AnswerKey(said.round, said.task, said.site, said.attempt)
        try:
            return await self._reader.answer(bucket_of(said.experiment), key)
        except StoreUnavailableError:
            return None

    # --- journal and figures -------------------------------------------------------------------------------------

    async def _follow(
        self, experiment: str, number: int = -1, claim: ClaimCheck | None = None, *, read: bool = True
    ) -> None:
        """Read on in the journal and write the figures that changed, however long the store is away.

        `number` and `claim` are those of the event that led here.
        """
        if read:
            await patiently(lambda: self._read_on(experiment, number, claim))
        await patiently(lambda: self._write_figures(experiment))

    async def _read_on(self, experiment: str, number: int, claim: ClaimCheck | None) -> None:
        if self.board[experiment].broken is not None:
            return
        journal = self._journals.pop(experiment, None)
        if journal is None:
            journal = Journal(self._store, experiment, writer="metrics", clock=self._clock)
        async with self._stopping_where_broken(experiment):
            found = await journal.read_on()
            for stored in found:
                announced = claim if stored.entry.number == number else None
                if announced is not None and (announced.size, announced.sha256) != (stored.size, stored.sha256):
                    raise JournalBrokenError(experiment, number, "it is not the object that was announced")
            board = self.board[experiment].recorded(entry_of(stored) for stored in found)
            if board.history is None:
                return  # no such experiment: nothing to remember
            self.board[experiment] = board
            if not board.ended:
                self._journals[experiment] = journal

    async def _write_figures(self, experiment: str) -> None:
        for number in sorted(self.board[experiment].unwritten):
            figures = await self._reader.figures(self.board[experiment].history, number)
            await self._store.put(bucket_of(experiment), str(FiguresKey(number)), canonical_json(figures))
            self.board[experiment] = self.board[experiment].kept(figures)

    @asynccontextmanager
    async def _stopping_where_broken(self, experiment: str) -> AsyncIterator[None]:
        """Fail-stop: a journal that cannot be believed is followed no further, and the entry is named."""
        try:
            yield
        except (JournalBrokenError, IllegalEntryError) as error:
            log.error("experiment_not_followed", experiment=experiment, error=str(error))
            self.board[experiment] = replace(self.board[experiment], broken=str(error))


def _is_closed(history: History, said: TaskAnswered) -> bool:
    round_ = history.rounds.get(said.round)
    step = None if round_ is None else round_.steps.get(said.task)
    return step is not None and step.closing is not None
