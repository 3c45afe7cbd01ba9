"""The metrics service: listens to the stream of all that happens and writes down each round's figures."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from datetime import datetime
from functools import partial

import structlog

from wardround.metrics.board import Board
from wardround.metrics.catalogue import Catalogue
from wardround.metrics.evolve import IllegalEntryError
from wardround.metrics.feed import CutOff, Feed, Said, replay, said_of
from wardround.metrics.history import History
from wardround.metrics.reading import Reader
from wardround.metrics.rebuild import entry_of
from wardround.metrics.summary import Summary, summary_of
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
SETTLES_AFTER = 0.1  # seconds

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
        self.feed = Feed()
        self.store = store
        self.clock = clock
        self.ready = asyncio.Event()
        self._messenger = Messenger(bus, service="metrics", origin=HUB, clock=clock)
        self._reader = Reader(store)
        self._catalogue = Catalogue(store, clock=clock)
        self._looked_at: set[str] = set()
        self._offset = offset
        self._look_every = look_every
        self._journals: dict[str, Journal] = {}
        self._turn = asyncio.Lock()
        self._look_now = asyncio.Event()
        self._settling: set[str] = set()
        self._tasks: asyncio.TaskGroup

    async def run(self) -> None:
        """Listen until cancelled. Besides, at the start, every `look_every` seconds and after each reconnection, look
        for experiments in the store, and into the journals of those that go on: an event may have been lost."""
        self._messenger.bus.on_connect(self._look_now.set)
        await patiently(self._catalogue.look)
        async with asyncio.TaskGroup() as self._tasks:
            subscription = await patiently(self._subscribe)
            self.ready.set()
            try:
                while True:
                    await self._look_around()
                    await self._wait_for_a_look()
                    await patiently(self._catalogue.look)
            finally:
                self.ready.clear()
                await subscription.close()

    async def experiment(self, name: str) -> ExperimentView | None:
        """A snapshot, read from the journal where the experiment is no longer at hand; None if there is no such."""
        if name not in self.board:
            async with self._turn:
                if name not in self.board:
                    await self._follow(name)
        return self.board.experiment(name)

    @property
    def names(self) -> list[str]:
        """Every experiment there is, in order; one whose bucket was just made may not have begun."""
        return sorted(self._catalogue.names | self.board.experiments.keys())

    async def summary(self, name: str) -> Summary | None:
        """An experiment in one line; None if there is no such.

        Raises:
            StoreUnavailableError: it is not at hand, and the store is away.
        """
        return summary_of(self.board[name]) if name in self.board else await self._catalogue.summary(name)

    def events(self, offset: int | None = None) -> AsyncGenerator[Said | CutOff, None]:
        """What is said on the stream from `offset` on, or from this call on: without an end, unless the listener is
        too slow for what is kept in memory."""
        number = self.feed.next if offset is None else self.feed.start(offset)
        return self._replayed(offset or 0) if number is None else self.feed.listen(number)

    async def _replayed(self, offset: int) -> AsyncGenerator[Said | CutOff, None]:
        """From the stream itself as far as the feed does not reach back, then from the feed."""
        number: int | None = None
        stream = replay(self._messenger.bus, offset, self.feed, dead_key=self._messenger.dead_key)
        async with aclosing(stream) as earlier:
            async for said in earlier:
                yield said
                number = self.feed.number_of(said.offset + 1)
        async for event in self.feed.listen(self.feed.next if number is None else number):
            yield event

    async def _subscribe(self) -> Subscription:
        return await self._messenger.listen(METRICS_STREAM, self._hear, offset=self._offset)

    async def _wait_for_a_look(self) -> None:
        try:
            async with asyncio.timeout(self._look_every):
                await self._look_now.wait()
        except TimeoutError:
            pass
        self._look_now.clear()

    async def _look_around(self) -> None:
        """Follow every experiment that goes on, and each of the store's that was not looked at before."""
        for experiment in self.board.running:
            async with self._alone_with(experiment):
                await self._follow(experiment)
        self._looked_at |= self.board.experiments.keys()
        self._looked_at &= self._catalogue.names
        for experiment in sorted(self._catalogue.names - self._looked_at):
            async with self._alone_with(experiment):
                if await patiently(partial(self._take_up, experiment)):
                    self._looked_at.add(experiment)

    async def _take_up(self, experiment: str) -> bool:
        """Follow it, unless there is nothing left to do for it; false where its journal has not begun."""
        if experiment in self.board or await self._catalogue.has_all_figures(experiment):
            return True
        await self._follow(experiment)
        return await self.summary(experiment) is not None

    # --- events --------------------------------------------------------------------------------------------------

    async def _hear(self, received: Received) -> None:
        # A site's clock may be ahead; nothing is shown as seen in the future.
        at = min(received.envelope.time, self.clock())
        if (told := said_of(received)) is not None:
            self.feed.add(told)  # before anything is waited for: in the order of the stream
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
        if event.claim is not None:
            await self._follow(event.experiment, event.number, event.claim)
        elif board.missing or board.unwritten:
            self._follow_soon(event.experiment)

    def _follow_soon(self, experiment: str) -> None:
        """A moment later what came out of order is mostly there, and a round's figures are written once. Besides, the
        moment belongs to those who decide."""
        if experiment not in self._settling:
            self._settling.add(experiment)
            self._tasks.create_task(self._follow_settled(experiment))

    async def _follow_settled(self, experiment: str) -> None:
        await asyncio.sleep(SETTLES_AFTER)
        self._settling.discard(experiment)
        async with self._alone_with(experiment):
            await self._follow(experiment, read=self.board[experiment].missing)

    @asynccontextmanager
    async def _alone_with(self, experiment: str) -> AsyncIterator[None]:
        """One experiment's fault must not stop the others: the next look tries again."""
        async with self._turn:
            try:
                yield
            except Exception:
                log.exception("experiment_not_followed_now", experiment=experiment)

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
            journal = Journal(self.store, experiment, writer="metrics", clock=self.clock)
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
            self._catalogue.note(experiment)
            if not board.ended:
                self._journals[experiment] = journal

    async def _write_figures(self, experiment: str) -> None:
        for number in sorted(self.board[experiment].unwritten):
            figures = await self._reader.figures(self.board[experiment].history, number)
            await self.store.put(bucket_of(experiment), str(FiguresKey(number)), canonical_json(figures))
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
