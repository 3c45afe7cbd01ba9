"""Objects as plain files, `root/<bucket>/<key>`, that a person may look into."""

import errno
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO
from operator import attrgetter
from pathlib import Path

from wardround.runtime.ids import fresh_id
from wardround.runtime.on_disk import sync_folder
from wardround.runtime.store.announcements import Announcements, Announcer
from wardround.runtime.store.blocking import SMALL, run
from wardround.runtime.store.content import Content, Readable, opened
from wardround.runtime.store.keys import check_bucket, check_key, check_prefix, check_range, is_bucket, is_key
from wardround.runtime.store.passage import Passage
from wardround.runtime.store.port import (
    AccessDeniedError,
    AlreadyExistsError,
    InvalidKeyError,
    NotFoundError,
    ObjectInfo,
    StoreError,
    StoreUnavailableError,
)

UNFINISHED = ".unfinished"
ABANDONED_AFTER = 3600.0


class FolderStore:
    """An `ObjectStore` on a local file system with hard links, which several processes may share.

    An object is written aside and then linked (`create`) or renamed (`put`) into its place, so it is never seen in
    part, and of several creators the file system lets one win. What a killed process left aside is never listed, and
    swept when a store is opened an hour later. Links in the tree are not followed, files that are no objects of ours
    not seen. Unlike in S3, a key cannot lie below another object's key (`a` and `a/b`): `InvalidKeyError`.

    An ETag tells size, modification time (ns) and inode of the file: cheap, and never that of earlier content.
    With `durable` a write returns when the disk has it; without, it is lost with the power, though not with the
    process. Prefixes to announce are known to the store object that was asked: what another process writes into the
    same folder is announced by that process or not at all.
    """

    def __init__(self, root: Path, *, announcer: Announcer | None = None, durable: bool = True) -> None:
        """Make the folder where it is missing. Raises `StoreError` where that cannot be."""
        self._root = os.path.realpath(root)
        self._aside = f"{self._root}/{UNFINISHED}"
        self._durable = durable
        self._announcements = Announcements(announcer)
        with _store_errors(self._root):
            os.makedirs(self._aside, exist_ok=True)
            _sweep(self._aside)

    async def create(self, bucket: str, key: str, data: bytes) -> None:
        await self._write(bucket, key, BytesIO(data), len(data), _link)

    async def put(self, bucket: str, key: str, source: Content, *, passage: Passage | None = None) -> None:
        """Raises `OSError` where the source cannot be read."""
        with opened(source) as (content, size):
            await self._write(bucket, key, content, size, os.replace)
        if passage is not None:
            passage.begin()
            passage.passed(size)

    async def read(self, bucket: str, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        check_range(offset, length)
        path, status = self._find(bucket, key)
        expected = status.st_size if length is None else min(length, status.st_size)
        with _store_errors(f"{bucket}/{key}"):
            return await run(expected <= SMALL, _read, path, offset, length)

    async def head(self, bucket: str, key: str) -> ObjectInfo:
        _, status = self._find(bucket, key)
        return _info(key, status)

    async def list(self, bucket: str, prefix: str = "") -> tuple[ObjectInfo, ...]:
        below = check_prefix(prefix)
        folder = self._folder(bucket, below.split("/") if below else [])
        with _store_errors(f"{bucket}/{prefix}"):
            found = list(_objects(folder, f"{below}/" if below else "", prefix))
        return tuple(sorted(found, key=attrgetter("key")))

    async def delete(self, bucket: str, key: str) -> None:
        path = self._path(bucket, key)
        with _store_errors(f"{bucket}/{key}"):
            if _file_status(path) is not None:
                await run(not self._durable, self._delete, path)

    async def announce(self, bucket: str, prefixes: Sequence[str]) -> None:
        self._folder(bucket)
        self._announcements.ask(bucket, prefixes)

    async def buckets(self) -> tuple[str, ...]:
        with _store_errors(self._root), os.scandir(self._root) as entries:
            return tuple(sorted(one.name for one in entries if is_bucket(one.name) and _is_folder(one.path)))

    async def make_bucket(self, bucket: str) -> None:
        check_bucket(bucket)
        folder = f"{self._root}/{bucket}"
        with _store_errors(bucket):
            if not os.path.lexists(folder):
                self._make_folders(folder)
            if not _is_folder(folder):
                raise InvalidKeyError(f"{bucket} cannot be a bucket: a file or link of that name is in the way")

    async def close(self) -> None:
        """Nothing to close."""

    async def _write(
        self, bucket: str, key: str, content: Readable, size: int, into_place: Callable[[str, str], None]
    ) -> None:
        path = self._path(bucket, key)
        # A disk may take its time to confirm, so a durable write never holds up the loop.
        in_place = size <= SMALL and not self._durable
        with _store_errors(f"{bucket}/{key}"):
            status = await run(in_place, self._write_file, path, content, into_place)
        await self._announcements.written(bucket, _info(key, status))

    def _write_file(self, path: str, content: Readable, into_place: Callable[[str, str], None]) -> os.stat_result:
        aside = f"{self._aside}/{fresh_id()}"
        try:
            with open(aside, "xb") as file:
                shutil.copyfileobj(content, file, SMALL)
                file.flush()
                # The stamp of a kernel before Linux 6.13 stands still for milliseconds, and inodes are used again: two
                # different contents could bear one ETag.
                now = time.time_ns()
                os.utime(file.fileno(), ns=(now, now))
                if self._durable:
                    os.fsync(file.fileno())
                status = os.fstat(file.fileno())
            try:
                into_place(aside, path)
            except FileNotFoundError:
                self._make_folders(os.path.dirname(path))
                into_place(aside, path)
            self._flush(os.path.dirname(path))
        finally:
            with suppress(FileNotFoundError):
                os.unlink(aside)
        return status

    def _delete(self, path: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(path)
            self._flush(os.path.dirname(path))

    def _make_folders(self, folder: str) -> None:
        if not os.path.isdir(folder):
            parent = os.path.dirname(folder)
            self._make_folders(parent)
            with suppress(FileExistsError):
                os.mkdir(folder)
            self._flush(parent)

    def _flush(self, folder: str) -> None:
        """Have the disk confirm the names in a folder."""
        if self._durable:
            sync_folder(folder)

    def _find(self, bucket: str, key: str) -> tuple[str, os.stat_result]:
        path = self._path(bucket, key)
        with _store_errors(f"{bucket}/{key}"):
            status = _file_status(path)
        if status is None:
            raise NotFoundError(f"there is no object {bucket}/{key}")
        return path, status

    def _path(self, bucket: str, key: str) -> str:
        """Where the object is or would be, with no link on the way there."""
        check_key(key)
        *folders, name = key.split("/")
        return f"{self._folder(bucket, folders)}/{name}"

    def _folder(self, bucket: str, folders: Sequence[str] = ()) -> str:
        check_bucket(bucket)
        path = f"{self._root}/{bucket}"
        if not _is_folder(path):
            raise NotFoundError(f"there is no bucket {bucket}")
        for folder in folders:
            path = f"{path}/{folder}"
            if os.path.islink(path):
                raise InvalidKeyError(f"{path} is a link, and the store follows none")
        return path


def _link(aside: str, path: str) -> None:
    try:
        os.link(aside, path)
    except FileExistsError:
        if stat.S_ISREG(os.lstat(path).st_mode):
            raise AlreadyExistsError(f"{path} exists") from None
        raise InvalidKeyError(f"{path} is a folder or link, where the object would be") from None


def _read(path: str, offset: int, length: int | None) -> bytes:
    with open(path, "rb") as file:
        rest = max(os.fstat(file.fileno()).st_size - offset, 0)
        file.seek(offset)
        return file.read(rest if length is None else min(length, rest))


def _objects(folder: str, key: str, prefix: str) -> Iterator[ObjectInfo]:
    """The objects in and below a folder whose keys begin with the prefix; those in it begin with `key`."""
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        name = f"{key}{entry.name}"
        if not name.startswith(prefix):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _objects(entry.path, f"{name}/", prefix)
        elif is_key(name) and (status := _file_status(entry.path)) is not None:
            yield _info(name, status)


def _info(key: str, status: os.stat_result) -> ObjectInfo:
    return ObjectInfo(key, status.st_size, f"{status.st_size:x}-{status.st_mtime_ns:x}-{status.st_ino:x}")


def _file_status(path: str) -> os.stat_result | None:
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def _is_folder(path: str) -> bool:
    return not os.path.islink(path) and os.path.isdir(path)


def _sweep(aside: str) -> None:
    for entry in os.scandir(aside):
        with suppress(FileNotFoundError):
            if entry.stat(follow_symlinks=False).st_mtime < time.time() - ABANDONED_AFTER:
                os.unlink(entry.path)


@contextmanager
def _store_errors(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise store_error(error, what) from error


def store_error(error: OSError, what: str) -> StoreError:
    """What a failed system call on `what` means to whoever called the store."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            return StoreUnavailableError(f"{what}: {reason}; make room where the store's folder is, then try again")
        case errno.EACCES | errno.EPERM | errno.EROFS | errno.ENOTSUP | errno.EXDEV:
            return AccessDeniedError(
                f"{what}: {reason}; check the rights on the store's folder, and that it is one local file system "
                "with hard links"
            )
        case errno.ENOTDIR | errno.EISDIR:
            return InvalidKeyError(
                f"{what}: a file stands where a folder is needed, or a folder where the file would be"
            )
        case _:
            return StoreUnavailableError(f"{what}: {reason}; try again")
