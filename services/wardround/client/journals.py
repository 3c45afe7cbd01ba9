"""What the journals of a hub say, read by who may only read."""

from wardround.client.errors import unknown_experiment
from wardround.metrics.evolve import evolve
from wardround.metrics.history import History
from wardround.metrics.rebuild import entry_of
from wardround.runtime.clock import wall_clock
from wardround.runtime.journal import ENTRY_AT_MOST, Journal, JournalBrokenError
from wardround.runtime.store.port import NotFoundError, ObjectStore
from wardround.runtime.store.transfer import read_model
from wardround_messages.codec import MalformedError
from wardround_messages.journal import JournalEntry
from wardround_messages.names import JOURNAL_PREFIX, JournalKey, bucket_of, parse_key


async def read_entry(store: ObjectStore, experiment: str, number: int) -> JournalEntry | None:
    """One entry alone, its place in the chain unchecked; None where there is none.

    Raises:
        JournalBrokenError: it cannot be read.
    """
    try:
        return await read_model(
            store, bucket_of(experiment), str(JournalKey(number)), JournalEntry, at_most=ENTRY_AT_MOST
        )
    except NotFoundError:
        return None
    except MalformedError as error:
        raise JournalBrokenError(experiment, number, str(error)) from None


async def count_entries(store: ObjectStore, experiment: str) -> int:
    """How many entries there are: the number of the next one."""
    try:
        listed = await store.list(bucket_of(experiment), JOURNAL_PREFIX)
    except NotFoundError:
        return 0
    numbers = [key.number for info in listed if isinstance(key := parse_key(info.key), JournalKey)]
    return max(numbers, default=-1) + 1


async def read_history(store: ObjectStore, experiment: str) -> History:
    """What the whole journal says of the experiment.

    Raises:
        NotThereError: there is no such experiment; JournalBrokenError, IllegalEntryError: it cannot be believed.
    """
    history: History | None = None
    for stored in await Journal(store, experiment, writer="client", clock=wall_clock).read_on():
        history = evolve(history, entry_of(stored))
    if history is None:
        raise unknown_experiment(experiment)
    return history
