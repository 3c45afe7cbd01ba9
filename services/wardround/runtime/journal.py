"""The journal of an experiment: write-once, hash-chained objects. The conditional create is the only lock there is."""

import asyncio
from dataclasses import dataclass

from wardround.runtime.clock import Clock
from wardround.runtime.store.port import AlreadyExistsError, NotFoundError, ObjectStore
from wardround_messages.base import canonical_json, digest
from wardround_messages.codec import MalformedError, parse
from wardround_messages.journal import GENESIS, Fact, JournalEntry
from wardround_messages.names import JOURNAL_PREFIX, JournalKey, bucket_of, parse_key

ENTRY_AT_MOST = 16 * 2**20
READ_AT_ONCE = 16  # a round trip for each of thousands of entries would take minutes on a slow line


class JournalBrokenError(Exception):
    """An entry that cannot be believed. The experiment stops there; nothing is skipped or guessed."""

    def __init__(self, experiment: str, number: int, why: str) -> None:
        super().__init__(f"journal entry {number} of '{experiment}' is broken: {why}")
        self.experiment = experiment
        self.number = number
        self.why = why


class JournalMovedError(Exception):
    """Somebody else appended first: read on and decide again."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An entry as it lies in the store: `size` in bytes and `sha256` are those of the object."""

    entry: JournalEntry
    size: int
    sha256: str


class Journal:
    """Reads and extends the chain from where it last was."""

    def __init__(self, store: ObjectStore, experiment: str, *, writer: str, clock: Clock) -> None:
        self._store = store
        self._bucket = bucket_of(experiment)
        self._experiment = experiment
        self._writer = writer
        self._clock = clock
        self._next = 0
        self._head = GENESIS

    async def read_on(self) -> list[Stored]:
        """The entries since the last call, checked link by link.

        Raises:
            JournalBrokenError: an entry is missing, unreadable, or does not continue the chain.
        """
        listed = await self._listed() if self._next == 0 else 0
        found: list[Stored] = []
        number, head = self._next, self._head
        while True:
            try:
                together = await self._read_some(number, min(listed - number, READ_AT_ONCE))
            except NotFoundError:
                break
            for data in together:
                found.append(self._checked(data, number, head))
                number, head = number + 1, found[-1].entry.sha256
        self._next, self._head = number, head  # only now: an outage on the way must not lose what was read
        return found

    def draft(self, body: Fact, *, cause: str = "") -> JournalEntry:
        """The next entry, sealed and not yet written: what it would lead to can be tried first."""
        return JournalEntry.seal(
            experiment=self._experiment,
            number=self._next,
            at=self._clock(),
            writer=self._writer,
            cause=cause,
            previous=self._head,
            body=body,
        )

    async def append(self, entry: JournalEntry) -> Stored:
        """Write an entry just drafted.

        Raises:
            JournalMovedError: the number is taken. After a time-out it may be one's own entry: `read_on` tells.
        """
        data = canonical_json(entry)
        try:
            await self._store.create(self._bucket, str(JournalKey(entry.number)), data)
        except AlreadyExistsError:
            raise JournalMovedError from None
        self._next, self._head = entry.number + 1, entry.sha256
        return Stored(entry, len(data), digest(data))

    async def _read(self, number: int) -> bytes:
        return await self._store.read(self._bucket, str(JournalKey(number)), length=ENTRY_AT_MOST + 1)

    async def _read_some(self, first: int, number: int) -> list[bytes]:
        """So many entries at once, one where none is known to be there."""
        if number <= 1:
            return [await self._read(first)]
        read = await asyncio.gather(*map(self._read, range(first, first + number)), return_exceptions=True)
        for data in read:
            if isinstance(data, BaseException):
                raise data
        return [data for data in read if isinstance(data, bytes)]

    async def _listed(self) -> int:
        """How many entries there are at least, all from the first one on."""
        try:
            listed = await self._store.list(self._bucket, JOURNAL_PREFIX)
        except NotFoundError:
            return 0
        numbers = [key.number for info in listed if isinstance(key := parse_key(info.key), JournalKey)]
        for expected, number in enumerate(numbers):
            if number != expected:
                raise JournalBrokenError(self._experiment, expected, "it is missing")
        return len(numbers)

    def _checked(self, data: bytes, number: int, head: str) -> Stored:
        try:
            entry = parse(JournalEntry, data, at_most=ENTRY_AT_MOST)
        except MalformedError as error:
            raise JournalBrokenError(self._experiment, number, str(error)) from None
        for wrong, why in (
            (entry.experiment != self._experiment, "it is of another experiment"),
            (entry.number != number, f"it says it is number {entry.number}"),
            (entry.previous != head, "it does not continue the entry before it"),
            (entry.sha256 != entry.expected_sha256(), "its content does not match its digest"),
        ):
            if wrong:
                raise JournalBrokenError(self._experiment, number, why)
        return Stored(entry, len(data), digest(data))
