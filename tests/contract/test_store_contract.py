"""What every object store does, whatever it is made of. An adapter joins by a parameter of the fixture `store`."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import unquote_plus

import pytest

from servers.minio import MinioServer
from wardround.runtime.store.content import ContentChangedError, SealedFile, Sealing
from wardround.runtime.store.folder import FolderStore
from wardround.runtime.store.memory import MemoryStore
from wardround.runtime.store.passage import Passage
from wardround.runtime.store.port import (
    AlreadyExistsError,
    InvalidKeyError,
    NotFoundError,
    ObjectInfo,
    ObjectStore,
)

BUCKET = "wr-breast-cancer"
KEY = "journal/00000000.json"
MIB = 2**20


class Announced:
    """What the store announced; a real server takes its time and keeps no order, so one waits for a number."""

    def __init__(self) -> None:
        self.objects: list[tuple[str, str, int]] = []
        self._arrived = asyncio.Condition()
        self._loop = asyncio.get_running_loop()

    async def __call__(self, bucket: str, info: ObjectInfo) -> None:
        async with self._arrived:
            self.objects.append((bucket, info.key, info.size))
            self._arrived.notify_all()

    def heard(self, body: bytes) -> None:
        """A notification of a real server, in a thread of the receiver's."""
        for said in json.loads(body)["Records"]:
            written = said["s3"]["object"]
            info = ObjectInfo(unquote_plus(written["key"]), written["size"], written["eTag"])
            asyncio.run_coroutine_threadsafe(self(said["s3"]["bucket"]["name"], info), self._loop)

    async def keys(self, number: int) -> list[str]:
        async with asyncio.timeout(10), self._arrived:
            await self._arrived.wait_for(lambda: len(self.objects) >= number)
        return sorted(key for _, key, _ in self.objects)


@pytest.fixture
async def announced() -> Announced:
    return Announced()


@pytest.fixture(params=["memory", "folder", pytest.param("s3", marks=pytest.mark.slow)])
def kind(request: pytest.FixtureRequest) -> str | MinioServer:
    server: MinioServer = request.getfixturevalue("minio_server") if request.param == "s3" else None
    return server or request.param


@pytest.fixture
async def store(kind: str | MinioServer, tmp_path: Path, announced: Announced) -> AsyncIterator[ObjectStore]:
    """An empty store with one empty bucket, `BUCKET`."""
    made: ObjectStore
    match kind:
        case MinioServer():
            made = kind.store()
            kind.receiver.take = announced.heard
        case "folder":
            made = FolderStore(tmp_path / "store", announcer=announced, durable=False)
        case _:
            made = MemoryStore(announced)
    await made.make_bucket(BUCKET)
    yield made
    await made.close()


async def keys(store: ObjectStore, prefix: str = "") -> list[str]:
    return [info.key for info in await store.list(BUCKET, prefix)]


# --- writing -----------------------------------------------------------------------------------------------------


async def test_a_created_object_is_read_back_and_described(store: ObjectStore) -> None:
    await store.create(BUCKET, KEY, b"entry")
    info = await store.head(BUCKET, KEY)
    assert await store.read(BUCKET, KEY) == b"entry"
    assert (info.key, info.size) == (KEY, 5)
    assert await store.list(BUCKET) == (info,)


async def test_an_empty_object_exists(store: ObjectStore) -> None:
    await store.create(BUCKET, KEY, b"")
    assert (await store.head(BUCKET, KEY)).size == 0
    assert await store.read(BUCKET, KEY) == b""
    with pytest.raises(AlreadyExistsError):
        await store.create(BUCKET, KEY, b"later")


async def test_create_leaves_an_object_that_exists_as_it_is(store: ObjectStore) -> None:
    await store.create(BUCKET, KEY, b"first")
    before = await store.head(BUCKET, KEY)
    with pytest.raises(AlreadyExistsError):
        await store.create(BUCKET, KEY, b"second")
    assert await store.read(BUCKET, KEY) == b"first"
    assert await store.head(BUCKET, KEY) == before


@pytest.mark.parametrize("size", [100, MIB + 1])
async def test_of_fifty_concurrent_creates_exactly_one_wins(store: ObjectStore, size: int) -> None:
    async def create(number: int) -> int | None:
        try:
            await store.create(BUCKET, KEY, bytes([number]) * size)
        except AlreadyExistsError:
            return None
        return number

    outcomes = await asyncio.gather(*(create(number) for number in range(50)))
    (winner,) = [number for number in outcomes if number is not None]
    assert await store.read(BUCKET, KEY) == bytes([winner]) * size
    assert await keys(store) == [KEY]


async def test_put_writes_and_replaces(store: ObjectStore) -> None:
    await store.put(BUCKET, KEY, b"first")
    before = await store.head(BUCKET, KEY)
    await store.put(BUCKET, KEY, b"other")
    after = await store.head(BUCKET, KEY)
    assert await store.read(BUCKET, KEY) == b"other"
    assert after.etag != before.etag
    await store.put(BUCKET, KEY, b"a longer one")
    assert (await store.head(BUCKET, KEY)).size == 12


@pytest.mark.parametrize("size", [0, 1000, 5 * MIB + 3])
async def test_put_takes_a_file(store: ObjectStore, tmp_path: Path, size: int) -> None:
    source = tmp_path / "update.safetensors"
    content = bytes(range(256)) * (size // 256 + 1)
    source.write_bytes(content[:size])
    await store.put(BUCKET, "updates/r000001/clinic-1/0123456789abcdef.safetensors", source)
    source.write_bytes(b"changed afterwards")
    stored = await store.read(BUCKET, "updates/r000001/clinic-1/0123456789abcdef.safetensors")
    assert stored == content[:size]


async def test_a_source_that_is_missing_is_told_and_nothing_is_written(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await store.put(BUCKET, KEY, tmp_path / "absent")
    assert await keys(store) == []


def sealed(path: Path, content: bytes) -> SealedFile:
    path.write_bytes(content)
    sealing = Sealing()
    sealing.take(content)
    return sealing.sealed(path)


async def test_put_takes_a_sealed_file(store: ObjectStore, tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000
    passage = Passage(len(content))
    await store.put(BUCKET, KEY, sealed(tmp_path / "update", content), passage=passage)
    assert await store.read(BUCKET, KEY) == content
    assert passage.done == len(content)


@pytest.mark.parametrize("changed_at", [0, 4 * MIB])
async def test_a_sealed_file_that_is_another_by_now_leaves_no_object(
    store: ObjectStore, tmp_path: Path, changed_at: int
) -> None:
    source = sealed(tmp_path / "update", bytes(5 * MIB))
    with source.path.open("r+b") as others:
        others.seek(changed_at)
        others.write(b"patient-7")
    with pytest.raises(ContentChangedError):
        await store.put(BUCKET, KEY, source)
    assert await keys(store) == []
    await store.put(BUCKET, KEY, b"the next")
    assert await store.read(BUCKET, KEY) == b"the next"


async def test_a_sealed_file_that_a_link_has_replaced_leaves_no_object(store: ObjectStore, tmp_path: Path) -> None:
    source = sealed(tmp_path / "update", bytes(2 * MIB))
    (tmp_path / "patients.csv").write_bytes(bytes(2 * MIB))
    source.path.unlink()
    source.path.symlink_to(tmp_path / "patients.csv")
    with pytest.raises(ContentChangedError):
        await store.put(BUCKET, KEY, source)
    assert await keys(store) == []


async def test_a_reader_sees_the_old_object_or_the_new_one_and_never_a_mix(store: ObjectStore, tmp_path: Path) -> None:
    contents = [bytes([number]) * (2 * MIB + number) for number in range(12)]
    source = tmp_path / "source"
    await store.put(BUCKET, KEY, contents[0])
    written = asyncio.Event()

    async def write() -> None:
        for number, content in enumerate(contents):
            source.write_bytes(content)
            await store.put(BUCKET, KEY, content if number % 2 else source)
        written.set()

    async def look() -> set[int]:
        seen = set()
        while not written.is_set():
            data = await store.read(BUCKET, KEY)
            assert data == contents[data[0]]
            assert (await store.head(BUCKET, KEY)).size in {len(content) for content in contents}
            assert await keys(store) == [KEY]
            seen.add(data[0])
            await asyncio.sleep(0)
        return seen

    async with asyncio.TaskGroup() as group:
        looks = [group.create_task(look()) for _ in range(2)]
        group.create_task(write())
    assert set.union(*(task.result() for task in looks))
    assert await store.read(BUCKET, KEY) == contents[-1]


# --- reading -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, None), (0, 0), (0, 1), (0, 10), (0, 11), (3, 4), (9, 1), (9, 2), (9, None), (10, 0), (10, 1), (11, None)],
)
async def test_a_range_is_what_slicing_gives(store: ObjectStore, offset: int, length: int | None) -> None:
    data = b"0123456789"
    await store.create(BUCKET, KEY, data)
    expected = data[offset : None if length is None else offset + length]
    assert await store.read(BUCKET, KEY, offset=offset, length=length) == expected


async def test_slices_put_together_are_the_object(store: ObjectStore) -> None:
    data = b"".join(number.to_bytes(4) for number in range(MIB))
    await store.put(BUCKET, KEY, data)
    step = MIB + 7
    slices = [await store.read(BUCKET, KEY, offset=offset, length=step) for offset in range(0, len(data), step)]
    assert b"".join(slices) == data


@pytest.mark.parametrize(("offset", "length"), [(-1, None), (0, -1), (-5, 5)])
async def test_a_negative_range_is_refused(store: ObjectStore, offset: int, length: int | None) -> None:
    await store.create(BUCKET, KEY, b"0123456789")
    with pytest.raises(ValueError, match="must not be negative"):
        await store.read(BUCKET, KEY, offset=offset, length=length)


async def test_an_absent_object_is_not_found_even_where_nothing_is_asked_of_it(store: ObjectStore) -> None:
    await store.create(BUCKET, KEY, b"entry")
    for absent in ("journal/00000001.json", "journal", "journal/00000000.json/x", "a"):
        with pytest.raises(NotFoundError, match=absent):
            await store.head(BUCKET, absent)
        with pytest.raises(NotFoundError):
            await store.read(BUCKET, absent, length=0)


# --- listing and deleting ----------------------------------------------------------------------------------------


async def test_a_listing_is_sorted_and_holds_what_begins_with_the_prefix(store: ObjectStore) -> None:
    one, two, ten = (f"answers/r0000{number}/train/clinic-1/a01.json" for number in ("01", "02", "10"))
    beside = "answers-of-old/a.json"
    for key in (ten, KEY, two, beside, one):
        await store.create(BUCKET, key, b"x")
    assert await keys(store) == sorted([one, two, ten, beside, KEY])
    assert await keys(store, "answers/") == [one, two, ten]
    assert await keys(store, "answers") == [beside, one, two, ten]
    assert await keys(store, "answers/r00000") == [one, two]
    assert await keys(store, "answers/r000002/train/") == [two]
    assert await keys(store, two) == [two]
    assert await keys(store, f"{two}x") == []
    assert await keys(store, "consent/") == []
    assert await keys(store, "z") == []


async def test_a_listing_is_in_the_order_of_characters(store: ObjectStore) -> None:
    mixed = ["a/b", "a-b", "a.b", "a0", "a_b", "ab", "b"]
    for key in mixed:
        await store.create(BUCKET, key, b"x")
    assert await keys(store) == sorted(mixed)


async def test_a_deleted_object_is_gone_and_deleting_again_is_no_error(store: ObjectStore) -> None:
    await store.create(BUCKET, KEY, b"entry")
    await store.delete(BUCKET, KEY)
    await store.delete(BUCKET, KEY)
    await store.delete(BUCKET, "never/was")
    with pytest.raises(NotFoundError):
        await store.head(BUCKET, KEY)
    assert await keys(store) == []
    await store.create(BUCKET, KEY, b"again")
    assert await store.read(BUCKET, KEY) == b"again"


# --- buckets -----------------------------------------------------------------------------------------------------


async def test_making_a_bucket_again_keeps_what_is_in_it(store: ObjectStore) -> None:
    await store.create(BUCKET, KEY, b"entry")
    await store.make_bucket(BUCKET)
    await store.make_bucket("wr-models")
    await store.make_bucket("wr-another")
    assert await store.buckets() == ("wr-another", BUCKET, "wr-models")
    assert await keys(store) == [KEY]
    assert await store.list("wr-models") == ()


async def test_a_bucket_that_does_not_exist_is_not_found(store: ObjectStore) -> None:
    calls = (
        store.create("wr-absent", KEY, b"x"),
        store.put("wr-absent", KEY, b"x"),
        store.read("wr-absent", KEY),
        store.head("wr-absent", KEY),
        store.list("wr-absent"),
        store.delete("wr-absent", KEY),
        store.announce("wr-absent", ["journal/"]),
    )
    for call in calls:
        with pytest.raises(NotFoundError, match="wr-absent"):
            await call
    assert await store.buckets() == (BUCKET,)


# --- names -------------------------------------------------------------------------------------------------------

BAD_KEYS = [
    "",
    "/",
    "/etc/passwd",
    "..",
    ".",
    "../wr-models/x",
    "a/../b",
    "a/./b",
    "a/..",
    "a//b",
    "a/",
    "journal/00000000.JSON",
    "a b",
    "a\n",
    "a\x00",
    "a\\b",
    "%2e%2e%2fa",
    "ａ",  # noqa: RUF001 - a full-width letter looks like one of ours
    "é",
    "a" * 201,
]
BAD_BUCKETS = ["", "..", ".", "/", "a", "wr", "wr/x", "wr_x", "WR-x", "-wr", "wr-", "wr--x", "wr.x", "wr-x\n", "w" * 64]


@pytest.mark.parametrize("key", BAD_KEYS, ids=ascii)
async def test_a_key_that_wardround_would_not_write_is_refused(store: ObjectStore, key: str) -> None:
    calls = (
        store.create(BUCKET, key, b"x"),
        store.put(BUCKET, key, b"x"),
        store.read(BUCKET, key),
        store.head(BUCKET, key),
        store.delete(BUCKET, key),
    )
    for call in calls:
        with pytest.raises(InvalidKeyError) as caught:
            await call
        assert str(caught.value).isprintable()
    assert await keys(store) == []


@pytest.mark.parametrize("bucket", BAD_BUCKETS, ids=ascii)
async def test_a_bucket_that_wardround_would_not_make_is_refused(store: ObjectStore, bucket: str) -> None:
    for call in (store.make_bucket(bucket), store.create(bucket, KEY, b"x"), store.list(bucket)):
        with pytest.raises(InvalidKeyError):
            await call
    assert await store.buckets() == (BUCKET,)


@pytest.mark.parametrize("prefix", ["/", "../", "a/../", "a//", "..//", "A", "a\n", "a" * 201], ids=ascii)
async def test_a_prefix_that_begins_no_key_is_refused(store: ObjectStore, prefix: str) -> None:
    for call in (store.list(BUCKET, prefix), store.announce(BUCKET, [prefix])):
        with pytest.raises(InvalidKeyError):
            await call


async def test_the_longest_key_and_odd_but_lawful_keys_are_kept(store: ObjectStore) -> None:
    lawful = ["a" * 200, "...", ".a", "a.", "..a/b..", "-", "_/-/_"]
    for key in lawful:
        await store.create(BUCKET, key, key.encode())
    assert await keys(store) == sorted(lawful)
    assert [await store.read(BUCKET, key) for key in lawful] == [key.encode() for key in lawful]


# --- announcements -----------------------------------------------------------------------------------------------


async def test_what_is_written_below_a_prefix_is_announced(
    store: ObjectStore, announced: Announced, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"12345678")
    await store.announce(BUCKET, ["answers/", "results/"])
    await store.create(BUCKET, "answers/a.json", b"123")
    await store.put(BUCKET, "results/b.json", b"1234")
    await store.put(BUCKET, "results/c.json", source)
    await announced.keys(3)
    assert sorted(announced.objects) == [
        (BUCKET, "answers/a.json", 3),
        (BUCKET, "results/b.json", 4),
        (BUCKET, "results/c.json", 8),
    ]


async def test_nothing_else_is_announced(store: ObjectStore, announced: Announced) -> None:
    await store.make_bucket("wr-models")
    await store.create(BUCKET, "answers/before", b"x")
    await store.announce(BUCKET, ["answers/"])
    await store.create(BUCKET, KEY, b"x")
    await store.create("wr-models", "answers/elsewhere", b"x")
    with pytest.raises(AlreadyExistsError):
        await store.create(BUCKET, "answers/before", b"x")
    await store.delete(BUCKET, "answers/before")
    await store.create(BUCKET, "answers/after", b"x")
    assert await announced.keys(1) == ["answers/after"]


async def test_asking_again_replaces_what_was_asked(store: ObjectStore, announced: Announced) -> None:
    await store.announce(BUCKET, ["answers/", "consent/"])
    await store.announce(BUCKET, ["results/", "consent/"])
    for key in ("answers/a", "consent/a", "results/a"):
        await store.create(BUCKET, key, b"x")
    assert await announced.keys(2) == ["consent/a", "results/a"]
    await store.announce(BUCKET, [])
    await store.create(BUCKET, "results/b", b"x")
    await store.announce(BUCKET, ["results/"])
    await store.create(BUCKET, "results/c", b"x")
    assert await announced.keys(3) == ["consent/a", "results/a", "results/c"]
