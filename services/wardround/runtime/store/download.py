"""Fetching an object into a file, whole and right or not at all; what a broken line has let through is kept."""

import asyncio
import errno
import fcntl
import hashlib
import os
import random
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import BinaryIO, TypeVar

from wardround.runtime.on_disk import sync_folder
from wardround.runtime.store.blocking import SMALL, run
from wardround.runtime.store.passage import Passage
from wardround.runtime.store.port import NotFoundError, ObjectStore, StoreUnavailableError
from wardround.runtime.store.transfer import DigestMismatchError

CHUNK = 4 * 2**20
# Chunks begin small, and grow as long as the line is fast: one that breaks soon and often lets at least these through
# before it does, and none takes long.
FIRST_CHUNK = 256 * 2**10
LEAST_CHUNK = 64 * 2**10
GROWS_BELOW, SHRINKS_ABOVE = 1.0, 4.0  # seconds that a chunk took
AGAIN_WITHIN = 1.0  # seconds, after a try that got on

T = TypeVar("T")


def part_of(to: Path, sha256: str) -> Path:
    """Where the part that has come so far of the object with that digest is kept until it is whole."""
    return to.with_name(f"{to.name}.{sha256[:16]}.part")


async def download(
    store: ObjectStore,
    bucket: str,
    key: str,
    *,
    size: int,
    sha256: str,
    to: Path,
    passage: Passage | None = None,
    durable: bool = False,
) -> None:
    """Fetch an object into the file `to`, which appears only when size and SHA-256 are right.

    What came before the store went away, or before this was cancelled or killed, is kept beside it (`part_of`), and the
    next call with the same digest goes on from there. The digest is always taken of the whole; where a kept part turns
    out not to fit, all of it is fetched anew, once. After any other failure nothing is left behind. An object of
    another size is not fetched at all, nor one that the disk has no room for. Of two that fetch the same into the same
    file one is refused: it would go on writing when the file has its name already.

    Args:
        passage: told how far it is, and asked how fast it may go.
        durable: whether the disk is to have the file and its name when this returns, and all of it before the name.

    Raises:
        DigestMismatchError: size or digest differ; NotFoundError, StoreUnavailableError: from the store;
        OSError: the file cannot be written, on a full disk for one, or is being fetched by another process.
    """
    part, passage = part_of(to, sha256), passage or Passage(size)
    with _held(part, size, to=to) as file:
        try:
            info = await store.head(bucket, key)
            if info.size != size:
                raise DigestMismatchError(f"{key} has {info.size} bytes where {size} were announced")
            kept, found = await _fetch(store, bucket, key, size, file, passage)
            if kept and found != sha256:
                file.truncate(0)
                _, found = await _fetch(store, bucket, key, size, file, passage)
            if found != sha256:
                raise DigestMismatchError(f"{key} has the digest {found} where {sha256} was announced")
            if durable:
                await asyncio.to_thread(os.fsync, file.fileno())
            os.replace(part, to)
            if durable:
                await asyncio.to_thread(sync_folder, to.parent)
        except BaseException as error:
            of_no_use = isinstance(error, DigestMismatchError | NotFoundError | OSError)
            if of_no_use or os.fstat(file.fileno()).st_size == 0:
                part.unlink(missing_ok=True)
            raise


async def keep_on(
    attempt: Callable[[], Awaitable[T]],
    passage: Passage,
    *,
    patient: Callable[[Callable[[], Awaitable[T]]], Awaitable[T]],
) -> T:
    """Try a transfer until it is done: at once again while each try gets on, else as `patient` waits.

    So a line that breaks every minute costs a second each time, and a store that is away is not asked without pause.

    Raises:
        Exception: what `patient` gives up with.
    """

    async def try_once() -> T:
        before = passage.moved
        try:
            return await attempt()
        except StoreUnavailableError as error:
            if passage.moved > before:
                raise _GotOnError from error
            raise

    while True:
        try:
            return await patient(try_once)
        except _GotOnError:
            await asyncio.sleep(random.uniform(0, AGAIN_WITHIN))  # noqa: S311 - many sites may have lost one store


class _GotOnError(Exception):
    """The line broke after something had passed."""


# --- one try ---------------------------------------------------------------------------------------------------------


async def _fetch(
    store: ObjectStore, bucket: str, key: str, size: int, file: BinaryIO, passage: Passage
) -> tuple[int, str]:
    """How many bytes had been kept, and the SHA-256 of them and of what was added until there were `size`."""
    hasher, clock = hashlib.sha256(), asyncio.get_running_loop().time
    kept = await _kept(file, hasher.update)
    passage.begin(at=kept)
    _check_room(file, size - kept)

    def take(chunk: bytes) -> None:
        hasher.update(chunk)
        file.write(chunk)
        file.flush()

    offset, asked = kept, FIRST_CHUNK
    taken: asyncio.Future[None] | None = None
    try:
        while offset < size:
            length = passage.piece(min(asked, size - offset))
            await asyncio.sleep(passage.pause(length))
            begun = clock()
            chunk = await store.read(bucket, key, offset=offset, length=length)
            if not chunk:
                raise DigestMismatchError(f"{key} ends after {offset} of {size} bytes")
            offset, asked = offset + len(chunk), _next_chunk(asked, clock() - begun)
            passage.passed(len(chunk))
            if taken is not None:
                await asyncio.shield(taken)
            # Beside the next read: the server, the digest and the disk take about as long each.
            taken = asyncio.ensure_future(run(len(chunk) <= SMALL, take, chunk))
        if taken is not None:
            await asyncio.shield(taken)
    finally:
        if taken is not None:
            await asyncio.wait([taken])  # the file is not to be closed under the thread that writes
    return kept, hasher.hexdigest()


def _next_chunk(size: int, took: float) -> int:
    if took < GROWS_BELOW:
        return min(2 * size, CHUNK)
    return max(size // 2, LEAST_CHUNK) if took > SHRINKS_ABOVE else size


async def _kept(file: BinaryIO, take: Callable[[bytes], None]) -> int:
    """How many bytes of the object are there already, all of which `take` was given; the file stands behind them."""
    file.seek(0)
    small = os.fstat(file.fileno()).st_size <= SMALL
    while block := file.read(SMALL):
        await run(small, take, block)
    return file.seek(0, os.SEEK_END)


def _check_room(file: BinaryIO, wanted: int) -> None:
    """Raises `OSError` where the disk has less: rather now than when all but the end has been fetched."""
    status = os.fstatvfs(file.fileno())
    if status.f_bavail * status.f_frsize < wanted:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.name)


# --- the part --------------------------------------------------------------------------------------------------------


def _held(part: Path, size: int, *, to: Path) -> BinaryIO:
    """The part, for nobody else to read and add to until it is closed. What cannot be one gives way to a new file.

    Raises:
        OSError: it cannot be written, or another process has it.
    """
    while True:
        descriptor = _opened(part)
        try:
            _lock(descriptor, to)
            status = os.fstat(descriptor)
            if _is_at(part, status):  # else whoever had it has just given it its name, or removed it
                if stat.S_ISREG(status.st_mode) and status.st_size <= size and status.st_nlink == 1:
                    return _file(part, descriptor)
                part.unlink()  # a pipe, too long, or written to under a second name as well
        finally:
            os.close(descriptor)


def _opened(part: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(part, flags, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EACCES, errno.ENXIO):  # a link, not ours to write, a socket
            raise
    part.unlink()
    return os.open(part, flags | os.O_EXCL, 0o666)


def _file(part: Path, descriptor: int) -> BinaryIO:
    return open(part, "r+b", opener=lambda *_: os.dup(descriptor))


def _lock(descriptor: int, to: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OSError(errno.EBUSY, "another process is fetching it", str(to)) from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):  # a file system that knows no locks does without
            raise


def _is_at(path: Path, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.lstat(), status)
    except FileNotFoundError:
        return False
