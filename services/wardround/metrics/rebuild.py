"""An experiment's board and figures out of its journal, answers and results, after any loss."""

from wardround.metrics.board import ExperimentBoard
from wardround.metrics.history import Entry
from wardround.metrics.reading import Reader
from wardround.runtime.clock import wall_clock
from wardround.runtime.journal import Journal, Stored
from wardround.runtime.store.port import ObjectStore


async def rebuild(store: ObjectStore, experiment: str) -> ExperimentBoard:
    """The board of an experiment out of the store alone, with the figures of every round.

    Raises:
        JournalBrokenError, IllegalEntryError: the journal cannot be believed.
        StoreUnavailableError: from the store.
    """
    journal = Journal(store, experiment, writer="metrics", clock=wall_clock)
    board = ExperimentBoard(experiment).recorded(entry_of(stored) for stored in await journal.read_on())
    reader = Reader(store)
    for number in sorted(board.unwritten):
        board = board.kept(await reader.figures(board.history, number))
    return board


def entry_of(stored: Stored) -> Entry:
    return Entry(stored.entry.number, stored.entry.at, stored.entry.body)
