"""Objects on their way: whole and right, or not there at all."""

import asyncio
import hashlib
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from wardround.runtime.store.folder import FolderStore
from wardround.runtime.store.memory import MemoryStore
from wardround.runtime.store.port import NotFoundError, StoreUnavailableError
from wardround.runtime.store.transfer import (
    CHUNK,
    DigestMismatchError,
    create_or_compare,
    download,
    file_digest,
    read_model,
)
from wardround_messages.base import Model, digest
from wardround_messages.codec import MalformedError

BUCKET = "wr-brain-tumour"
KEY = "global/r000001/0123456789abcdef.safetensors"


class Note(Model):
    text: str


class DisturbedStore(MemoryStore):
    """A store in which something happens at each read from the second on."""

    def __init__(self, disturb: Callable[[bytes], bytes]) -> None:
        super().__init__()
        self._disturb = disturb
        self.reads = 0

    async def read(self, bucket: str, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        self.reads += 1
        data = await super().read(bucket, key, offset=offset, length=length)
        return data if self.reads == 1 else self._disturb(data)


@pytest.fixture
async def store() -> MemoryStore:
    made = MemoryStore()
    await made.make_bucket(BUCKET)
    return made


async def disturbed(disturb: Callable[[bytes], bytes], data: bytes) -> DisturbedStore:
    made = DisturbedStore(disturb)
    await made.make_bucket(BUCKET)
    await made.put(BUCKET, KEY, data)
    return made


def pattern(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


# --- download ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 1000, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 5])
async def test_a_download_is_the_object(store: MemoryStore, tmp_path: Path, size: int) -> None:
    data = pattern(size)
    await store.put(BUCKET, KEY, data)
    to = tmp_path / "model.safetensors"
    await download(store, BUCKET, KEY, size=size, sha256=digest(data), to=to)
    assert to.read_bytes() == data
    assert list(tmp_path.iterdir()) == [to]


async def test_a_download_replaces_the_file_and_what_an_earlier_one_left(store: MemoryStore, tmp_path: Path) -> None:
    await store.put(BUCKET, KEY, b"new")
    to = tmp_path / "model.safetensors"
    to.write_bytes(b"an older model")
    (tmp_path / "model.safetensors.part").write_bytes(b"left behind by a process that was killed")
    await download(store, BUCKET, KEY, size=3, sha256=digest(b"new"), to=to)
    assert to.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [to]


@pytest.mark.parametrize("announced", [0, 9, 11, 2**40])
async def test_an_object_of_another_size_is_not_even_fetched(tmp_path: Path, announced: int) -> None:
    store = await disturbed(bytes, b"0123456789")
    with pytest.raises(DigestMismatchError, match=f"10 bytes where {announced} were announced"):
        await download(store, BUCKET, KEY, size=announced, sha256=digest(b"0123456789"), to=tmp_path / "model")
    assert store.reads == 0
    assert list(tmp_path.iterdir()) == []


async def test_a_flipped_bit_is_noticed_and_the_file_that_was_there_stays(store: MemoryStore, tmp_path: Path) -> None:
    data = pattern(CHUNK + 100)
    await store.put(BUCKET, KEY, data[:-1] + bytes([data[-1] ^ 1]))
    to = tmp_path / "model"
    to.write_bytes(b"good")
    with pytest.raises(DigestMismatchError, match="has the digest"):
        await download(store, BUCKET, KEY, size=len(data), sha256=digest(data), to=to)
    assert to.read_bytes() == b"good"
    assert list(tmp_path.iterdir()) == [to]


async def test_an_object_that_ends_early_is_noticed(tmp_path: Path) -> None:
    data = pattern(2 * CHUNK)
    store = await disturbed(lambda chunk: b"", data)
    with pytest.raises(DigestMismatchError, match=f"ends after {CHUNK} of {2 * CHUNK} bytes"):
        await download(store, BUCKET, KEY, size=len(data), sha256=digest(data), to=tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


async def test_short_answers_are_asked_on(tmp_path: Path) -> None:
    data = pattern(CHUNK + 1000)
    store = await disturbed(lambda chunk: chunk[:300], data)
    await download(store, BUCKET, KEY, size=len(data), sha256=digest(data), to=tmp_path / "model")
    assert (tmp_path / "model").read_bytes() == data


async def test_a_store_that_goes_away_in_mid_download_leaves_no_file(tmp_path: Path) -> None:
    def away(chunk: bytes) -> bytes:
        raise StoreUnavailableError("connection reset")

    data = pattern(3 * CHUNK)
    store = await disturbed(away, data)
    with pytest.raises(StoreUnavailableError):
        await download(store, BUCKET, KEY, size=len(data), sha256=digest(data), to=tmp_path / "model")
    assert store.reads == 2
    assert list(tmp_path.iterdir()) == []


async def test_a_cancelled_download_leaves_no_file(tmp_path: Path) -> None:
    data = pattern(3 * CHUNK)

    def cancel(chunk: bytes) -> bytes:
        running.cancel()
        return chunk

    store = await disturbed(cancel, data)
    to = tmp_path / "model"
    running = asyncio.ensure_future(download(store, BUCKET, KEY, size=len(data), sha256=digest(data), to=to))
    with pytest.raises(asyncio.CancelledError):
        await running
    assert list(tmp_path.iterdir()) == []


async def test_an_absent_object_leaves_no_file(store: MemoryStore, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        await download(store, BUCKET, KEY, size=3, sha256=digest(b"new"), to=tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


async def test_a_full_disk_leaves_no_file(store: MemoryStore, tmp_path: Path) -> None:
    data = pattern(2 * CHUNK)
    await store.put(BUCKET, KEY, data)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (CHUNK + 1000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            await download(store, BUCKET, KEY, size=len(data), sha256=digest(data), to=tmp_path / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


# The peak of a process of its own, by the kernel: resource.getrusage would count the parent's.
MEASURE = """
import asyncio, sys
from pathlib import Path
from wardround.runtime.store.folder import FolderStore
from wardround.runtime.store.transfer import download, file_digest

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
    (folder / "small").write_bytes(bytes(9_000_000))
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


# --- digests, small objects --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 300_000])
def test_size_and_digest_of_a_file(tmp_path: Path, size: int) -> None:
    (tmp_path / "file").write_bytes(pattern(size))
    assert file_digest(tmp_path / "file") == (size, hashlib.sha256(pattern(size)).hexdigest())


@pytest.mark.parametrize("kind", ["memory", "folder"])
async def test_a_second_writer_of_the_same_content_succeeds_and_of_other_content_learns_it(
    kind: str, tmp_path: Path
) -> None:
    store = MemoryStore() if kind == "memory" else FolderStore(tmp_path)
    await store.make_bucket(BUCKET)
    assert await create_or_compare(store, BUCKET, KEY, b"answer")
    assert await create_or_compare(store, BUCKET, KEY, b"answer")
    for other in (b"other", b"answe", b"answer!", b""):
        assert not await create_or_compare(store, BUCKET, KEY, other)
    assert await store.read(BUCKET, KEY) == b"answer"


async def test_a_model_is_read_up_to_its_bound(store: MemoryStore) -> None:
    body = b'{"text":"seen"}'
    await store.create(BUCKET, KEY, body)
    assert await read_model(store, BUCKET, KEY, Note, at_most=len(body)) == Note(text="seen")
    with pytest.raises(MalformedError, match="too_large"):
        await read_model(store, BUCKET, KEY, Note, at_most=len(body) - 1)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "not_json"),
        (b'{"text":', "not_json"),
        (b'{"text":"a","text":"b"}', "duplicate_key"),
        (b'{"text":"a","more":1}', "invalid"),
        (b"\x80\x04K\x01.", "not_utf8"),
    ],
)
async def test_an_object_that_is_not_what_it_should_be_is_malformed(store: MemoryStore, body: bytes, code: str) -> None:
    await store.create(BUCKET, KEY, body)
    with pytest.raises(MalformedError) as caught:
        await read_model(store, BUCKET, KEY, Note, at_most=1000)
    assert caught.value.code == code
