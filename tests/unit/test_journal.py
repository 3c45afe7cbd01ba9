"""The journal: write-once, chained, and stopped at the first entry that cannot be believed."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from wardround.runtime.journal import Journal, JournalBrokenError, JournalMovedError
from wardround.runtime.store.memory import MemoryStore
from wardround.runtime.store.port import StoreUnavailableError
from wardround_messages.journal import ExperimentPaused
from wardround_messages.names import JournalKey, bucket_of

NAME = "glioma-1"
BUCKET = bucket_of(NAME)


def clock() -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
async def store() -> MemoryStore:
    store = MemoryStore()
    await store.make_bucket(BUCKET)
    return store


def journal(store: MemoryStore, writer: str = "one") -> Journal:
    return Journal(store, NAME, writer=writer, clock=clock)


async def filled(store: MemoryStore, entries: int = 5) -> Journal:
    written = journal(store)
    for number in range(entries):
        await written.append(written.draft(ExperimentPaused(code=f"pause_{number}"), cause=f"order-{number}"))
    return written


async def test_entries_are_read_back_in_order_and_only_once(store: MemoryStore) -> None:
    await filled(store, 3)
    reader = journal(store)
    assert [stored.entry.number for stored in await reader.read_on()] == [0, 1, 2]
    assert await reader.read_on() == []
    last = await _at_the_end(store)
    await last.append(last.draft(ExperimentPaused(code="more")))
    assert [stored.entry.number for stored in await reader.read_on()] == [3]


async def _at_the_end(store: MemoryStore) -> Journal:
    writer = journal(store, "two")
    await writer.read_on()
    return writer


async def test_of_two_writers_one_wins_and_the_other_reads_on(store: MemoryStore) -> None:
    first, second = await _at_the_end(store), await _at_the_end(store)
    await first.append(first.draft(ExperimentPaused(code="first")))
    with pytest.raises(JournalMovedError):
        await second.append(second.draft(ExperimentPaused(code="second")))
    assert [stored.entry.body.code for stored in await second.read_on()] == ["first"]  # type: ignore[union-attr]
    assert (await second.append(second.draft(ExperimentPaused(code="second")))).entry.number == 1


async def test_fifty_writers_at_once_make_one_dense_chain(store: MemoryStore) -> None:
    async def write(number: int) -> None:
        mine = journal(store, f"writer-{number}")
        while True:
            await mine.read_on()
            try:
                await mine.append(mine.draft(ExperimentPaused(code=f"by_{number}")))
            except JournalMovedError:
                continue
            return

    await asyncio.gather(*map(write, range(50)))
    entries = await journal(store).read_on()
    assert [stored.entry.number for stored in entries] == list(range(50))
    assert len({stored.entry.body.code for stored in entries}) == 50  # type: ignore[union-attr]


Damage = Callable[[bytes], bytes]


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda data: data[:-20], "not_json"),
        (lambda data: b"", "not_json"),
        (lambda data: data.replace(b"pause_2", b"pause_9"), "does not match its digest"),
        (lambda data: data.replace(b'"number":2', b'"number":3'), "number 3"),
        (lambda data: data.replace(b"glioma-1", b"glioma-2"), "another experiment"),
        (lambda data: data.replace(b'"previous":"', b'"previous":"0', 1)[:-1], "not_json"),
        (lambda data: data.replace(b'"v":1', b'"v":2'), "invalid"),
        (lambda data: data.replace(b'"v":1', b'"v":1,"x":1'), "invalid"),
        (lambda data: data.replace(b"ExperimentPaused", b"ExperimentHealed"), "invalid"),
        (lambda data: bytes([data[0] ^ 1]) + data[1:], "not_json"),
        (lambda data: data + b" " * (16 * 2**20), "too_large"),
    ],
)
async def test_a_broken_entry_stops_the_reader_and_is_named(store: MemoryStore, damage: Damage, why: str) -> None:
    await filled(store)
    key = str(JournalKey(2))
    await store.put(BUCKET, key, damage(await store.read(BUCKET, key)))
    reader = journal(store)
    for _ in range(2):
        with pytest.raises(JournalBrokenError, match=why) as broken:
            await reader.read_on()
        assert (broken.value.experiment, broken.value.number) == (NAME, 2)


async def test_an_entry_of_another_chain_is_refused(store: MemoryStore) -> None:
    await filled(store)
    other = MemoryStore()
    await other.make_bucket(BUCKET)
    writer = journal(other, "other")
    for number in range(3):
        await writer.append(writer.draft(ExperimentPaused(code=f"other_{number}")))
    key = str(JournalKey(2))
    await store.put(BUCKET, key, await other.read(BUCKET, key))
    with pytest.raises(JournalBrokenError, match="does not continue"):
        await journal(store).read_on()


@pytest.mark.parametrize("number", [0, 2])
async def test_a_missing_entry_is_named(store: MemoryStore, number: int) -> None:
    await filled(store)
    await store.delete(BUCKET, str(JournalKey(number)))
    with pytest.raises(JournalBrokenError, match="missing") as broken:
        await journal(store).read_on()
    assert broken.value.number == number


async def test_every_flipped_bit_of_an_entry_is_noticed(store: MemoryStore) -> None:
    await filled(store, 2)
    key = str(JournalKey(1))
    whole = await store.read(BUCKET, key)
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << position % 8
        await store.put(BUCKET, key, bytes(flipped))
        with pytest.raises(JournalBrokenError):
            await journal(store).read_on()


class FlakyStore(MemoryStore):
    """Goes away at the n-th read."""

    def __init__(self) -> None:
        super().__init__()
        self.fails_at = 0
        self.reads = 0

    async def read(self, bucket: str, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        self.reads += 1
        if self.reads == self.fails_at:
            raise StoreUnavailableError("away")
        return await super().read(bucket, key, offset=offset, length=length)


async def test_an_outage_while_reading_loses_no_entry() -> None:
    store = FlakyStore()
    await store.make_bucket(BUCKET)
    await filled(store)
    reader = journal(store)
    store.fails_at = store.reads + 4
    with pytest.raises(StoreUnavailableError):
        await reader.read_on()
    assert [stored.entry.number for stored in await reader.read_on()] == [0, 1, 2, 3, 4]
