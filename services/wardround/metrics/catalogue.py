"""Which experiments the store holds, and a line for each: those that ended are not read any further than is needed."""

from wardround.metrics.board import ExperimentBoard
from wardround.metrics.evolve import IllegalEntryError
from wardround.metrics.history import Entry
from wardround.metrics.rebuild import entry_of
from wardround.metrics.summary import Ends, Summary, summary_of
from wardround.runtime.clock import Clock
from wardround.runtime.journal import ENTRY_AT_MOST, Journal, JournalBrokenError
from wardround.runtime.store.port import NotFoundError, ObjectStore
from wardround_messages import journal as facts
from wardround_messages.codec import MalformedError, parse
from wardround_messages.figures import FIGURES_AT_MOST, Figures
from wardround_messages.journal import JournalEntry
from wardround_messages.names import JOURNAL_PREFIX, FiguresKey, JournalKey, bucket_of, experiment_of, parse_key

FIGURES_PREFIX = "figures/"
SUMMARIES_KEPT = 10_000
# Between the last model and the end lie the opening, quorum and closing of two steps; late answers may follow.
LOOKED_BACK = 16


class Catalogue:
    """The names of all experiments in the store, and the lines of the last few thousand that were asked for."""

    def __init__(self, store: ObjectStore, *, clock: Clock, keep: int = SUMMARIES_KEPT) -> None:
        self.names: frozenset[str] = frozenset()
        self._store = store
        self._clock = clock
        self._keep = keep
        self._summaries: dict[str, Summary] = {}

    async def look(self) -> None:
        """Read the names anew. Raises `StoreUnavailableError`."""
        found = (experiment_of(bucket) for bucket in await self._store.buckets())
        self.names = frozenset(name for name in found if name is not None)

    def keep(self, summary: Summary) -> None:
        """Remember the line of an experiment that ended."""
        self._summaries.pop(summary.experiment, None)
        self._summaries[summary.experiment] = summary
        if len(self._summaries) > self._keep:
            del self._summaries[next(iter(self._summaries))]

    def note(self, experiment: str) -> None:
        """It is there and goes on, or went on: what was remembered of its end no longer holds."""
        self.names |= {experiment}
        self._summaries.pop(experiment, None)

    async def summary(self, experiment: str) -> Summary | None:
        """The line of an experiment that is not at hand; None where there is no such experiment.

        Raises:
            StoreUnavailableError: from the store.
        """
        known = self._summaries.get(experiment)
        if known is not None:
            return known
        ends = await read_ends(self._store, experiment)
        summary = await self._whole(experiment) if ends is None else ends.summary
        if summary is not None and summary.ended:
            self.keep(summary)
        return summary

    async def has_all_figures(self, experiment: str) -> bool:
        """Whether it has finished and its figures tell all of it, so that there is nothing left to do for it.

        Raises:
            StoreUnavailableError: from the store.
        """
        ends = await read_ends(self._store, experiment)
        if ends is None or not await _figures_tell(self._store, ends):
            return False
        self.keep(ends.summary)
        return True

    async def _whole(self, experiment: str) -> Summary | None:
        board = ExperimentBoard(experiment)
        try:
            found = await Journal(self._store, experiment, writer="metrics", clock=self._clock).read_on()
            return summary_of(board.recorded(entry_of(stored) for stored in found))
        except (JournalBrokenError, IllegalEntryError) as error:
            return Summary(experiment, "broken", reason=str(error))


async def read_ends(store: ObjectStore, experiment: str) -> Ends | None:
    """Both ends of the journal of an experiment that has finished; None where it has not, or where they do not say.

    The chain between them is not checked: this is for lists, nothing is decided by it.

    Raises:
        StoreUnavailableError: from the store.
    """
    try:
        listed = await store.list(bucket_of(experiment), JOURNAL_PREFIX)
    except NotFoundError:
        return None
    numbers = [key.number for info in listed if isinstance(key := parse_key(info.key), JournalKey)]
    if numbers != list(range(len(numbers))):
        return None
    last: list[Entry] = []
    for number in reversed(numbers[-LOOKED_BACK:]):
        entry = await _entry(store, experiment, number)
        if entry is None:
            return None
        last.insert(0, entry)
        finished = any(isinstance(each.fact, facts.ExperimentFinished) for each in last)
        if not finished and not isinstance(entry.fact, facts.AnswersLate | facts.Pruned):
            return None
        if number == 0 or isinstance(entry.fact, facts.ModelAdopted):
            accepted = await _entry(store, experiment, 0)
            told = accepted is not None and isinstance(accepted.fact, facts.ExperimentAccepted)
            return Ends(experiment, accepted, last) if accepted is not None and told else None
    return None


async def _entry(store: ObjectStore, experiment: str, number: int) -> Entry | None:
    try:
        data = await store.read(bucket_of(experiment), str(JournalKey(number)), length=ENTRY_AT_MOST + 1)
        entry = parse(JournalEntry, data, at_most=ENTRY_AT_MOST)
    except (NotFoundError, MalformedError):
        return None
    named = (entry.experiment, entry.number) == (experiment, number)
    return Entry(entry.number, entry.at, entry.body) if named else None


async def _figures_tell(store: ObjectStore, ends: Ends) -> bool:
    bucket = bucket_of(ends.experiment)
    listed = await store.list(bucket, FIGURES_PREFIX)
    rounds = [key.round for info in listed if isinstance(key := parse_key(info.key), FiguresKey)]
    try:
        data = await store.read(bucket, str(FiguresKey(ends.round)), length=FIGURES_AT_MOST + 1)
        return ends.written(parse(Figures, data, at_most=FIGURES_AT_MOST), rounds)
    except (NotFoundError, MalformedError):
        return False
