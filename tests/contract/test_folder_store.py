"""What only a folder can show: people and other processes look into it, disks fill up, processes get killed."""

import asyncio
import errno
import hashlib
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wardround.runtime.store.folder import UNFINISHED, FolderStore, store_error
from wardround.runtime.store.port import (
    AccessDeniedError,
    AlreadyExistsError,
    InvalidKeyError,
    NotFoundError,
    ObjectInfo,
    StoreError,
    StoreUnavailableError,
)

BUCKET = "wr-breast-cancer"
KEY = "journal/00000000.json"


@pytest.fixture
async def store(tmp_path: Path) -> FolderStore:
    made = FolderStore(tmp_path / "store", durable=False)
    await made.make_bucket(BUCKET)
    return made


def python(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def unfinished(root: Path) -> list[str]:
    return os.listdir(root / UNFINISHED)


# --- files -------------------------------------------------------------------------------------------------------


async def test_an_object_is_a_file_of_its_name_and_a_person_may_read_it(store: FolderStore, tmp_path: Path) -> None:
    await store.create(BUCKET, KEY, b"entry")
    file = tmp_path / "store" / BUCKET / KEY
    umask = os.umask(0)
    os.umask(umask)
    assert file.read_bytes() == b"entry"
    assert file.stat().st_mode & 0o777 == 0o666 & ~umask
    assert file.stat().st_nlink == 1
    assert unfinished(tmp_path / "store") == []


async def test_two_stores_on_one_folder_see_each_others_objects(store: FolderStore, tmp_path: Path) -> None:
    other = FolderStore(tmp_path / "store")
    await store.create(BUCKET, KEY, b"entry")
    with pytest.raises(AlreadyExistsError):
        await other.create(BUCKET, KEY, b"another")
    assert await other.list(BUCKET) == await store.list(BUCKET)
    await other.delete(BUCKET, KEY)
    assert await store.list(BUCKET) == ()


async def test_announcements_are_those_of_the_store_object_that_was_asked(tmp_path: Path) -> None:
    heard = []

    async def hear(bucket: str, info: ObjectInfo) -> None:
        heard.append(info.key)

    asked, other = (FolderStore(tmp_path, announcer=hear, durable=False) for _ in range(2))
    await asked.make_bucket(BUCKET)
    await asked.announce(BUCKET, ["journal/"])
    await other.create(BUCKET, "journal/00000000.json", b"x")
    await asked.create(BUCKET, "journal/00000001.json", b"x")
    assert heard == ["journal/00000001.json"]


async def test_durable_writes_do_what_others_do(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    await store.make_bucket(BUCKET)
    await store.create(BUCKET, "answers/r000001/train/clinic-1/a01.json", b"answer")
    with pytest.raises(AlreadyExistsError):
        await store.create(BUCKET, "answers/r000001/train/clinic-1/a01.json", b"another")
    await store.put(BUCKET, KEY, b"entry")
    await store.delete(BUCKET, KEY)
    assert [info.key for info in await store.list(BUCKET)] == ["answers/r000001/train/clinic-1/a01.json"]
    assert unfinished(tmp_path) == []


async def test_an_etag_never_comes_back(store: FolderStore) -> None:
    etags = set()
    for number in range(300):
        await store.put(BUCKET, KEY, f"{number:03d}".encode())
        etags.add((await store.head(BUCKET, KEY)).etag)
    assert len(etags) == 300


async def test_the_loop_runs_on_while_a_large_object_is_written_and_read(store: FolderStore) -> None:
    async def turns_during(call: asyncio.Task[object]) -> int:
        turns = 0
        while not call.done():
            turns += 1
            await asyncio.sleep(0)
        return turns

    data = bytes(16 * 2**20)
    assert await turns_during(asyncio.ensure_future(store.put(BUCKET, KEY, data))) > 2
    assert await turns_during(asyncio.ensure_future(store.read(BUCKET, KEY))) > 2


# --- what else may lie in the folder -----------------------------------------------------------------------------


async def test_what_is_no_object_is_not_seen(store: FolderStore, tmp_path: Path) -> None:
    await store.create(BUCKET, KEY, b"entry")
    bucket = tmp_path / "store" / BUCKET
    (bucket / "README.txt").write_text("not ours: an upper-case letter")
    (bucket / "journal" / "notes (copy).json").write_text("not ours: spaces")
    (bucket / "empty").mkdir()
    os.mkfifo(bucket / "pipe")
    (tmp_path / "store" / "Not a bucket").mkdir()
    (tmp_path / "store" / "wr-file").write_text("no folder")
    assert [info.key for info in await store.list(BUCKET)] == [KEY]
    assert await store.buckets() == (BUCKET,)
    for key in ("pipe", "empty"):
        with pytest.raises(NotFoundError):
            await store.read(BUCKET, key)
        await store.delete(BUCKET, key)
    with pytest.raises(NotFoundError):
        await store.list("wr-file")
    with pytest.raises(InvalidKeyError, match="wr-file"):
        await store.make_bucket("wr-file")


async def test_links_are_not_followed(store: FolderStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    bucket = tmp_path / "store" / BUCKET
    (bucket / "folder").symlink_to(outside)
    (bucket / "file").symlink_to(outside / "secret")
    (tmp_path / "store" / "wr-linked").symlink_to(outside)

    assert await store.list(BUCKET) == ()
    assert await store.buckets() == (BUCKET,)
    for call in (
        store.read(BUCKET, "folder/secret"),
        store.create(BUCKET, "folder/new", b"x"),
        store.put(BUCKET, "folder/secret", b"x"),
        store.delete(BUCKET, "folder/secret"),
        store.list(BUCKET, "folder/"),
        store.create(BUCKET, "file", b"x"),
        store.make_bucket("wr-linked"),
    ):
        with pytest.raises(InvalidKeyError, match="link"):
            await call
    for call in (store.read(BUCKET, "file"), store.list("wr-linked"), store.put("wr-linked", "secret", b"x")):
        with pytest.raises(NotFoundError):
            await call
    await store.put(BUCKET, "file", b"in place of the link")
    assert await store.read(BUCKET, "file") == b"in place of the link"
    assert {file.name: file.read_bytes() for file in outside.iterdir()} == {"secret": b"secret"}


@pytest.mark.parametrize("key", ["journal", f"{KEY}/below", f"{KEY}/far/below"])
async def test_a_key_cannot_lie_below_that_of_another_object(store: FolderStore, tmp_path: Path, key: str) -> None:
    await store.create(BUCKET, KEY, b"entry")
    for call in (store.create(BUCKET, key, b"x"), store.put(BUCKET, key, b"x")):
        with pytest.raises(InvalidKeyError, match=key):
            await call
    assert [info.key for info in await store.list(BUCKET)] == [KEY]
    assert unfinished(tmp_path / "store") == []


async def test_leftovers_are_swept_when_they_are_old(tmp_path: Path) -> None:
    FolderStore(tmp_path)
    old, young = tmp_path / UNFINISHED / "old", tmp_path / UNFINISHED / "young"
    for file in (old, young):
        file.write_bytes(b"half an obj")
    os.utime(old, (time.time() - 2 * 3600,) * 2)
    assert await FolderStore(tmp_path).buckets() == ()
    assert unfinished(tmp_path) == ["young"]


# --- several processes, killed processes -------------------------------------------------------------------------

# In step with each other, so that they meet at every key: each tells in one byte a key how far it is.
RACE = """
import asyncio, mmap, os, sys
from pathlib import Path
from wardround.runtime.store.folder import FolderStore
from wardround.runtime.store.port import AlreadyExistsError

async def main(root, steps, own, other):
    store = FolderStore(Path(root), durable=False)
    own, other = int(own), int(other)
    won = 0
    with open(steps, "r+b") as file, mmap.mmap(file.fileno(), 0) as seen:
        for number in range(400):
            seen[2 * number + own] = 1
            while not seen[2 * number + other]:
                os.sched_yield()
            try:
                await store.create("wr-race", f"journal/{number:08d}.json", str(own).encode())
                won += 1
            except AlreadyExistsError:
                pass
    print(won)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.slow
async def test_of_two_processes_that_create_the_same_keys_each_key_has_one_winner(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store", durable=False)
    await store.make_bucket("wr-race")
    (tmp_path / "steps").write_bytes(bytes(2 * 400))
    racers = [python(RACE, tmp_path / "store", tmp_path / "steps", own, 1 - own) for own in (0, 1)]
    won = [int(racer.communicate(timeout=60)[0]) for racer in racers]
    stored = [await store.read("wr-race", info.key) for info in await store.list("wr-race")]
    assert won == [stored.count(b"0"), stored.count(b"1")]
    assert len(stored) == 400


WRITE_ON = """
import asyncio, hashlib, itertools, os, sys
from pathlib import Path
from wardround.runtime.store.folder import FolderStore

async def main(root):
    store = FolderStore(Path(root), durable=False)
    await store.make_bucket("wr-killed")
    for number in itertools.count():
        content = os.urandom(3_000_000 + number)
        whole = hashlib.sha256(content).digest() + content
        await store.put("wr-killed", "global/replaced", whole)
        await store.create("wr-killed", f"updates/{os.getpid()}-{number}", whole)
        if number == 0:
            print("ready", flush=True)

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.slow
async def test_a_process_killed_in_the_middle_of_writing_leaves_only_whole_objects(tmp_path: Path) -> None:
    moments = random.Random(11)
    for _ in range(4):
        writer = python(WRITE_ON, tmp_path)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        await asyncio.sleep(moments.uniform(0, 0.06))
        writer.kill()
        writer.communicate()

    store = FolderStore(tmp_path, durable=False)
    infos = await store.list("wr-killed")
    assert len(infos) >= 5
    for info in infos:
        whole = await store.read("wr-killed", info.key)
        assert hashlib.sha256(whole[32:]).digest() == whole[:32]


# --- disks and rights --------------------------------------------------------------------------------------------

FULL = """
import asyncio, resource, sys
from pathlib import Path
from wardround.runtime.store.folder import UNFINISHED, FolderStore
from wardround.runtime.store.port import StoreUnavailableError

def room(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

async def refused(write):
    try:
        await write
    except StoreUnavailableError as error:
        return "make room" in str(error)
    return False

async def main(root, source):
    root, source = Path(root), Path(source)
    store = FolderStore(root)
    await store.make_bucket("wr-full")
    await store.put("wr-full", "kept", b"old")
    source.write_bytes(bytes(3_000_000))
    room(100_000)
    assert await refused(store.create("wr-full", "small", bytes(100_001)))
    assert await refused(store.create("wr-full", "large", bytes(3_000_000)))
    assert await refused(store.put("wr-full", "kept", bytes(200_000)))
    assert await refused(store.put("wr-full", "kept", source))
    assert [(info.key, info.size) for info in await store.list("wr-full")] == [("kept", 3)]
    assert list((root / UNFINISHED).iterdir()) == []
    await store.create("wr-full", "fits", bytes(1000))
    room(resource.RLIM_INFINITY)
    await store.put("wr-full", "kept", source)
    assert (await store.head("wr-full", "kept")).size == 3_000_000
    print("done")

asyncio.run(main(*sys.argv[1:]))
"""


def test_without_room_nothing_is_left_in_part_and_with_room_the_store_goes_on_by_itself(tmp_path: Path) -> None:
    assert python(FULL, tmp_path / "store", tmp_path / "source").communicate(timeout=60)[0] == "done\n"


@pytest.mark.parametrize(
    ("code", "expected", "says"),
    [
        (errno.ENOSPC, StoreUnavailableError, "make room"),
        (errno.EDQUOT, StoreUnavailableError, "make room"),
        (errno.EFBIG, StoreUnavailableError, "make room"),
        (errno.EIO, StoreUnavailableError, "try again"),
        (errno.EMFILE, StoreUnavailableError, "try again"),
        (errno.ENOENT, StoreUnavailableError, "try again"),
        (errno.EACCES, AccessDeniedError, "check the rights"),
        (errno.EROFS, AccessDeniedError, "check the rights"),
        (errno.EXDEV, AccessDeniedError, "one local file system"),
        (errno.ENOTDIR, InvalidKeyError, "a file stands where"),
    ],
)
def test_a_failed_system_call_tells_what_to_do(code: int, expected: type[StoreError], says: str) -> None:
    error = store_error(OSError(code, os.strerror(code), "/somewhere/private"), "wr-x/journal/00000000.json")
    assert type(error) is expected
    assert says in str(error)
    assert "wr-x/journal/00000000.json" in str(error)
    assert "private" not in str(error)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=str(tmp_path)):
        FolderStore(tmp_path / "file" / "store")
