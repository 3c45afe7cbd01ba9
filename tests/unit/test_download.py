"""Objects on their way into a file: whole and right or not there at all, over as many tries as the line takes."""

import asyncio
import errno
import fcntl
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from wardround.runtime.patience import patiently
from wardround.runtime.store.download import CHUNK, FIRST_CHUNK, download, keep_on, part_of
from wardround.runtime.store.memory import MemoryStore
from wardround.runtime.store.passage import Passage
from wardround.runtime.store.port import NotFoundError, StoreUnavailableError
from wardround.runtime.store.transfer import DigestMismatchError
from wardround_messages.base import digest

BUCKET = "wr-brain-tumour"
KEY = "global/r000001/0123456789abcdef.safetensors"

Fault = Callable[[int, bytes], bytes]


def sound(read: int, chunk: bytes) -> bytes:
    return chunk


class Line(MemoryStore):
    """A store behind a line: counts what was read, and does something to each read."""

    def __init__(self, fault: Fault = sound) -> None:
        super().__init__()
        self.fault = fault
        self.reads: list[tuple[int, int]] = []

    async def read(self, bucket: str, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        data = await super().read(bucket, key, offset=offset, length=length)
        self.reads.append((offset, len(data)))
        return self.fault(len(self.reads), data)

    @property
    def bytes_read(self) -> int:
        return sum(length for _, length in self.reads)


def away(read: int, chunk: bytes) -> bytes:
    raise StoreUnavailableError("connection reset")


def away_from(first: int) -> Fault:
    return lambda read, chunk: chunk if read < first else away(read, chunk)


async def line(data: bytes, fault: Fault = sound) -> Line:
    made = Line(fault)
    await made.make_bucket(BUCKET)
    await made.put(BUCKET, KEY, data)
    return made


def pattern(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


class Target:
    """Where an object of this content goes."""

    def __init__(self, folder: Path, data: bytes) -> None:
        self.data = data
        self.file = folder / "model.safetensors"
        self.part = part_of(self.file, digest(data))

    async def fetch(self, store: MemoryStore, passage: Passage | None = None) -> None:
        size, sha256 = len(self.data), digest(self.data)
        await download(store, BUCKET, KEY, size=size, sha256=sha256, to=self.file, passage=passage)

    @property
    def is_whole(self) -> bool:
        return self.file.read_bytes() == self.data and list(self.file.parent.iterdir()) == [self.file]

    @property
    def left_nothing(self) -> bool:
        return list(self.file.parent.iterdir()) == []


# --- one try ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size", [0, 1, 1000, FIRST_CHUNK - 1, FIRST_CHUNK, FIRST_CHUNK + 1, 3 * FIRST_CHUNK, 2 * CHUNK + 5]
)
async def test_a_download_is_the_object(tmp_path: Path, size: int) -> None:
    target = Target(tmp_path, pattern(size))
    await target.fetch(await line(target.data))
    assert target.is_whole


@pytest.mark.parametrize("durable", [True, False])
async def test_a_durable_download_is_on_the_disk_before_it_has_its_name(tmp_path: Path, durable: bool) -> None:
    target = Target(tmp_path, pattern(FIRST_CHUNK + 100))
    store, fsync = await line(target.data), os.fsync
    seen: list[tuple[int, bool]] = []

    def noting(descriptor: int) -> None:
        assert threading.current_thread() is not threading.main_thread()
        seen.append((os.fstat(descriptor).st_ino, target.file.exists()))
        fsync(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", noting)
        size, sha256 = len(target.data), digest(target.data)
        await download(store, BUCKET, KEY, size=size, sha256=sha256, to=target.file, durable=durable)
    assert target.is_whole
    assert seen == ([(target.file.stat().st_ino, False), (tmp_path.stat().st_ino, True)] if durable else [])


async def test_a_download_that_the_disk_does_not_confirm_leaves_nothing(tmp_path: Path) -> None:
    target = Target(tmp_path, b"0123456789")
    store = await line(target.data)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            await download(store, BUCKET, KEY, size=10, sha256=digest(target.data), to=target.file, durable=True)
    assert target.left_nothing


async def test_a_download_replaces_the_file(tmp_path: Path) -> None:
    target = Target(tmp_path, b"new")
    target.file.write_bytes(b"an older model")
    await target.fetch(await line(b"new"))
    assert target.is_whole


@pytest.mark.parametrize("announced", [0, 9, 11, 2**40])
async def test_an_object_of_another_size_is_not_even_fetched(tmp_path: Path, announced: int) -> None:
    store = await line(b"0123456789")
    to = tmp_path / "model"
    with pytest.raises(DigestMismatchError, match=f"10 bytes where {announced} were announced"):
        await download(store, BUCKET, KEY, size=announced, sha256=digest(b"0123456789"), to=to)
    assert store.reads == []
    assert list(tmp_path.iterdir()) == []


async def test_a_flipped_bit_is_noticed_and_the_file_that_was_there_stays(tmp_path: Path) -> None:
    target = Target(tmp_path, pattern(FIRST_CHUNK + 100))
    target.file.write_bytes(b"good")
    store = await line(target.data[:-1] + bytes([target.data[-1] ^ 1]))
    with pytest.raises(DigestMismatchError, match="has the digest"):
        await target.fetch(store)
    assert target.file.read_bytes() == b"good"
    assert list(tmp_path.iterdir()) == [target.file]
    assert store.bytes_read == len(target.data), "what was fetched from the start is not fetched again"


async def test_an_object_that_ends_early_is_noticed(tmp_path: Path) -> None:
    target = Target(tmp_path, pattern(3 * FIRST_CHUNK))
    store = await line(target.data, lambda read, chunk: chunk if read == 1 else b"")
    with pytest.raises(DigestMismatchError, match=f"ends after {FIRST_CHUNK} of {3 * FIRST_CHUNK} bytes"):
        await target.fetch(store)
    assert target.left_nothing


async def test_short_answers_are_asked_on(tmp_path: Path) -> None:
    target = Target(tmp_path, pattern(FIRST_CHUNK + 1000))
    await target.fetch(await line(target.data, lambda read, chunk: chunk[:50_000]))
    assert target.is_whole


async def test_an_absent_object_leaves_nothing(tmp_path: Path) -> None:
    store = await line(b"new")
    await store.delete(BUCKET, KEY)
    target = Target(tmp_path, b"new")
    target.part.write_bytes(b"n")
    with pytest.raises(NotFoundError):
        await target.fetch(store)
    assert target.left_nothing


async def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    target = Target(tmp_path, pattern(2 * FIRST_CHUNK))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FIRST_CHUNK + 1000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            await target.fetch(await line(target.data))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert target.left_nothing


async def test_what_the_disk_has_no_room_for_is_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = Target(tmp_path, b"0123456789")
    store = await line(target.data)
    free = os.statvfs(tmp_path)
    full = os.statvfs_result((*free[:4], 0, *free[5:]))
    monkeypatch.setattr(os, "fstatvfs", lambda _: full)
    with pytest.raises(OSError, match="No space left"):
        await target.fetch(store)
    assert store.reads == []
    assert target.left_nothing


# --- going on --------------------------------------------------------------------------------------------------------

SIZE = 3 * FIRST_CHUNK + 17


@pytest.mark.parametrize("kept", [0, 1, FIRST_CHUNK - 1, FIRST_CHUNK, FIRST_CHUNK + 1, SIZE - 1, SIZE])
async def test_it_goes_on_where_an_earlier_try_stopped(tmp_path: Path, kept: int) -> None:
    target = Target(tmp_path, pattern(SIZE))
    target.part.write_bytes(target.data[:kept])
    store, passage = await line(target.data), Passage(SIZE)
    await target.fetch(store, passage)
    assert target.is_whole
    assert store.bytes_read == SIZE - kept
    assert min((offset for offset, _ in store.reads), default=SIZE) == kept
    assert (passage.done, passage.moved) == (SIZE, SIZE - kept)


@pytest.mark.parametrize("reads", [1, 2, 3])
async def test_a_store_that_goes_away_costs_the_chunk_that_was_asked_for_and_no_more(
    tmp_path: Path, reads: int
) -> None:
    target = Target(tmp_path, pattern(SIZE))
    store = await line(target.data, away_from(reads))
    with pytest.raises(StoreUnavailableError):
        await target.fetch(store)
    kept = target.part.stat().st_size if target.part.exists() else 0
    assert kept == sum(length for _, length in store.reads[:-1])
    assert not target.file.exists()
    store.reads, store.fault = [], sound
    await target.fetch(store)
    assert target.is_whole
    assert store.bytes_read == SIZE - kept


async def test_a_cancelled_download_is_gone_on_with(tmp_path: Path) -> None:
    target = Target(tmp_path, pattern(SIZE))

    def cancel(read: int, chunk: bytes) -> bytes:
        if read == 2:
            running.cancel()
        return chunk

    store = await line(target.data, cancel)
    running = asyncio.ensure_future(target.fetch(store))
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not target.file.exists()
    kept = target.part.stat().st_size
    assert kept >= FIRST_CHUNK
    store.reads, store.fault = [], sound
    await target.fetch(store)
    assert target.is_whole
    assert store.bytes_read == SIZE - kept


@pytest.mark.parametrize("at", [0, FIRST_CHUNK, 2 * FIRST_CHUNK - 1])
async def test_a_bit_that_flipped_in_the_kept_part_costs_a_whole_fetch_and_no_more(tmp_path: Path, at: int) -> None:
    target = Target(tmp_path, pattern(SIZE))
    kept = bytearray(target.data[: 2 * FIRST_CHUNK])
    kept[at] ^= 1
    target.part.write_bytes(kept)
    store = await line(target.data)
    await target.fetch(store)
    assert target.is_whole
    assert store.bytes_read == SIZE - len(kept) + SIZE


async def test_a_kept_part_and_an_object_that_is_wrong_are_fetched_anew_once(tmp_path: Path) -> None:
    target = Target(tmp_path, pattern(SIZE))
    target.part.write_bytes(target.data[:FIRST_CHUNK])
    store = await line(bytes(SIZE))
    with pytest.raises(DigestMismatchError):
        await target.fetch(store)
    assert store.bytes_read == SIZE - FIRST_CHUNK + SIZE
    assert target.left_nothing


async def test_a_part_of_another_model_is_not_gone_on_with(tmp_path: Path) -> None:
    older, target = Target(tmp_path, b"another" * 1000), Target(tmp_path, pattern(SIZE))
    older.part.write_bytes(older.data[:5000])
    store = await line(target.data)
    await target.fetch(store)
    assert target.file.read_bytes() == target.data
    assert store.bytes_read == SIZE


async def test_a_part_that_is_longer_than_the_object_is_of_no_use(tmp_path: Path) -> None:
    target = Target(tmp_path, pattern(1000))
    target.part.write_bytes(bytes(1001))
    store = await line(target.data)
    await target.fetch(store)
    assert target.is_whole
    assert store.bytes_read == 1000


@pytest.mark.parametrize("link", [os.symlink, os.link])
async def test_what_is_linked_where_the_part_would_be_is_left_alone(
    tmp_path: Path, link: Callable[[Path, Path], None]
) -> None:
    (tmp_path / "spool").mkdir()
    mine = tmp_path / "mine"
    mine.write_bytes(b"01")
    target = Target(tmp_path / "spool", b"0123456789")
    link(mine, target.part)
    await target.fetch(await line(target.data))
    assert target.is_whole
    assert mine.read_bytes() == b"01"


async def test_who_fetches_the_same_into_the_same_file_does_not_write_to_what_is_whole(tmp_path: Path) -> None:
    target = Target(tmp_path, pattern(SIZE))
    refused: list[OSError] = []

    async def also_fetch_from_a_store_that_lies() -> None:
        with pytest.raises(OSError, match="another process is fetching it") as error:
            await target.fetch(await line(bytes(SIZE)))
        refused.append(error.value)

    class Meanwhile(Line):
        async def read(self, bucket: str, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
            await also_fetch_from_a_store_that_lies()
            return await super().read(bucket, key, offset=offset, length=length)

    store = Meanwhile()
    await store.make_bucket(BUCKET)
    await store.put(BUCKET, KEY, target.data)
    await target.fetch(store)
    assert refused
    assert target.is_whole


async def test_a_part_that_was_given_its_name_meanwhile_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, lock = Target(tmp_path, pattern(SIZE)), fcntl.flock

    def finish_first(descriptor: int, how: int) -> None:
        if target.part.exists() and not target.file.exists():
            target.part.rename(target.file)
        lock(descriptor, how)

    monkeypatch.setattr("wardround.runtime.store.download.fcntl.flock", finish_first)
    with pytest.raises(StoreUnavailableError):
        await target.fetch(await line(target.data, away_from(3)))
    assert target.file.read_bytes() == b""
    assert target.part.stat().st_size > 0


async def test_a_pipe_where_the_part_would_be_holds_nobody_up(tmp_path: Path) -> None:
    target = Target(tmp_path, b"0123456789")
    os.mkfifo(target.part)
    await asyncio.wait_for(target.fetch(await line(target.data)), 5)
    assert target.is_whole


# --- over many tries -------------------------------------------------------------------------------------------------


async def test_a_line_that_always_breaks_gets_there_without_long_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wardround.runtime.store.download.AGAIN_WITHIN", 0.0)
    target = Target(tmp_path, pattern(20 * FIRST_CHUNK))
    store = await line(target.data, lambda read, chunk: chunk if read % 2 else away(read, chunk))
    passage, waits = Passage(len(target.data)), 0

    async def patient(attempt: Callable[[], Awaitable[None]]) -> None:
        nonlocal waits
        try:
            await attempt()
        except StoreUnavailableError:
            waits += 1
            raise

    await keep_on(lambda: target.fetch(store, passage), passage, patient=patient)
    assert target.is_whole
    assert waits == 0
    assert len(store.reads) == 2 * 20 - 1


async def test_a_store_that_is_away_is_waited_for_patiently(tmp_path: Path) -> None:
    target = Target(tmp_path, pattern(SIZE))
    store = await line(target.data, lambda read, chunk: chunk if read > 2 else away(read, chunk))
    passage = Passage(SIZE)
    await keep_on(lambda: target.fetch(store, passage), passage, patient=patiently)
    assert target.is_whole


# --- memory ------------------------------------------------------------------------------------------------------

# The peak of a process of its own, by the kernel: resource.getrusage would count the parent's.
MEASURE = """
import asyncio, sys
from pathlib import Path
from wardround.runtime.store.folder import FolderStore
from wardround.runtime.store.download import download
from wardround.runtime.store.transfer import file_digest

def peak():
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024

async def carry(store, source, to):
    size, sha256 = file_digest(source)
    await store.put("wr-measured", "global/model", source)
    await download(store, "wr-measured", "global/model", size=size, sha256=sha256, to=to)
    return size

async def main(folder):
    folder = Path(folder)
    store = FolderStore(folder / "store", durable=False)
    await store.make_bucket("wr-measured")
    (folder / "small").write_bytes(bytes(24_000_000))
    await carry(store, folder / "small", folder / "there")
    before = peak()
    size = await carry(store, folder / "large", folder / "there")
    assert (folder / "there").stat().st_size == size
    print(size, peak() - before)

asyncio.run(main(sys.argv[1]))
"""


def test_memory_does_not_grow_with_the_object(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        for _ in range(64):
            file.write(pattern(2**20))
    measured = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path], check=True, capture_output=True, text=True, timeout=60
    )
    size, growth = map(int, measured.stdout.split())
    assert size == 64 * 2**20
    # Not with the object, but a chunk or two for each thread that happened to carry one.
    assert growth < size / 2
