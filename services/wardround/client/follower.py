"""Following one experiment: its journal says what happened, the stream what its sites are doing right now."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from wardround.metrics.board import ExperimentBoard
from wardround.metrics.evolve import IllegalEntryError
from wardround.metrics.history import History
from wardround.metrics.reading import Reader
from wardround.metrics.rebuild import entry_of
from wardround.metrics.view import ExperimentView
from wardround.metrics.viewing import CURVE_AT_MOST
from wardround.runtime.bus.messaging import Received
from wardround.runtime.clock import Clock
from wardround.runtime.journal import READ_AT_ONCE, Journal, JournalBrokenError
from wardround.runtime.store.port import NotFoundError, ObjectStore
from wardround_messages.events import EntryRecorded, OfTask, Refused, SiteSeen, TaskAnswered, TaskStarted
from wardround_messages.figures import Figures
from wardround_messages.names import AnswerKey, answers_prefix, bucket_of, parse_key
from wardround_messages.objects import Answer

LONGEST_TASK = 366 * 86_400.0  # seconds


def concerns(experiment: str) -> Callable[[Received], bool]:
    """Whether a message has to do with the experiment."""

    def check(received: Received) -> bool:
        message = received.message
        return isinstance(message, SiteSeen) or getattr(message, "experiment", None) == experiment

    return check


class Follower:
    """The experiment as far as it is known here. Nothing is written: figures are made for the view alone."""

    def __init__(self, store: ObjectStore, experiment: str, *, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._journal = Journal(store, experiment, writer="client", clock=clock)
        self._reader = Reader(store)
        self._board = ExperimentBoard(experiment)
        self._seen: dict[str, datetime] = {}

    @property
    def experiment(self) -> str:
        return self._board.experiment

    @property
    def history(self) -> History | None:
        return self._board.history

    @property
    def over(self) -> bool:
        """Nothing more will come: the experiment has ended, or its journal cannot be believed."""
        return self._board.ended or self._board.broken is not None

    def view(self) -> ExperimentView | None:
        """A snapshot; None where there is no such experiment."""
        return self._board.view(self._seen)

    async def look(self) -> None:
        """Read on in the journal, and what it names; then which answers to the open step are there.

        Raises:
            JournalBrokenError: not even the first entry can be believed; StoreUnavailableError: from the store.
        """
        await self._read_on()
        for answer in await self._answers():
            self._answered(answer)

    async def hear(self, received: Received) -> None:
        """Take in what was said; raises as `look` does."""
        at = min(received.envelope.time, self._clock())  # a site's clock may be ahead
        match received.message:
            case EntryRecorded() as event:
                await self._recorded(event)
            case SiteSeen() as seen:
                self._seen[seen.site] = max(at, self._seen.get(seen.site, at))
                self._board = self._board.in_hand(seen, at)
            case Refused() as refused:
                self._board = self._board.refused(refused, at)
            case OfTask() as said:
                self._board = self._board.said(said, at, await self._answer_to(said))

    def is_of_open_step(self, received: Received) -> bool:
        """Whether a site says there that it is there, or what it does in the step that is open now."""
        step = None if self.history is None else self.history.step
        match received.message:
            case _ if step is None or step.closing is not None:
                return False
            case SiteSeen():
                return True
            case OfTask() as said:
                return (said.experiment, said.round, said.task) == (self.experiment, step.round, step.task)
        return False

    # --- the journal -------------------------------------------------------------------------------------------------

    async def _recorded(self, event: EntryRecorded) -> None:
        try:
            self._board = self._board.heard(event)
        except IllegalEntryError as error:
            self._stop(error)
        if self._board.missing or self._to_make():
            await self._read_on()

    async def _read_on(self) -> None:
        if self._board.broken is None:
            try:
                found = await self._journal.read_on()
                self._board = self._board.recorded(entry_of(stored) for stored in found)
            except (JournalBrokenError, IllegalEntryError) as error:
                self._stop(error)
        for figures in await self._figures():
            self._board = self._board.kept(figures)

    def _to_make(self) -> list[int]:
        """Rounds that changed: of the last ones alone, as older ones are not shown and cost a read for every answer."""
        history = self._board.history
        shown = 0 if history is None else max(history.rounds, default=0) - CURVE_AT_MOST
        return sorted(number for number in self._board.unwritten if number >= shown)

    async def _figures(self) -> list[Figures]:
        history, turns = self._board.history, asyncio.Semaphore(READ_AT_ONCE)

        async def make(number: int) -> Figures:
            async with turns:
                return await self._reader.figures(history, number)

        made = await asyncio.gather(*map(make, self._to_make()), return_exceptions=True)
        for figures in made:
            if isinstance(figures, BaseException):
                raise figures
        return [figures for figures in made if isinstance(figures, Figures)]

    def _stop(self, error: JournalBrokenError | IllegalEntryError) -> None:
        if self._board.history is None:
            raise error
        self._board = replace(self._board, broken=str(error))

    # --- the open step -----------------------------------------------------------------------------------------------

    async def _answers(self) -> list[Answer]:
        """The sites' last answers to the open step: they were stored before anybody listened."""
        step = None if self.history is None or self.history.ended else self.history.step
        if step is None or step.closing is not None:
            return []
        bucket, last = bucket_of(self.experiment), dict[str, AnswerKey]()
        try:
            listed = await self._store.list(bucket, answers_prefix(step.round))
        except NotFoundError:
            return []
        for info in listed:  # sorted: of a site, later attempts come later
            key = parse_key(info.key)
            if isinstance(key, AnswerKey) and key.task is step.task and key.site in step.asked:
                last[key.site] = key
        answers = [await self._reader.answer(bucket, key) for key in last.values()]
        return [answer for answer in answers if answer is not None]

    def _answered(self, answer: Answer) -> None:
        """As if the site had just said so."""
        at = min(answer.at, self._clock())
        begun = at - timedelta(seconds=min(sum(answer.seconds.values()), LONGEST_TASK))
        task = {name: getattr(answer, name) for name in ("site", "experiment", "round", "task", "attempt")}
        code = None if answer.failure is None else answer.failure.code
        answered = TaskAnswered(**task, outcome=answer.outcome, code=code)
        self._board = self._board.said(TaskStarted(**task), begun).said(answered, at, answer)

    async def _answer_to(self, said: OfTask) -> Answer | None:
        step = None if self.history is None else self.history.step
        if not isinstance(said, TaskAnswered) or step is None or step.name != (said.round, said.task):
            return None
        key = AnswerKey(said.round, said.task, said.site, said.attempt)
        return await self._reader.answer(bucket_of(self.experiment), key)
