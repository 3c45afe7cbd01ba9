"""What is put into a store: bytes, a file as it stands, or a file that is still what it was when it was looked at."""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Protocol

from wardround.runtime.regular_file import open_regular

PIECE = 2**20  # bytes of a sealed file that are compared, and given out, at a time

# What opening a file says where another thing, or nothing, has taken its place.
_REPLACED = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EINVAL, errno.ENXIO, errno.EACCES})


class ContentChangedError(Exception):
    """A sealed file is no longer what it was; nothing of what is there instead was given out."""


class Readable(Protocol):
    """`read` gives at most so many of the next bytes, and none at the end alone."""

    def read(self, most: int = ..., /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class SealedFile:
    """A file that others may write to: read from it comes what was sealed, or an error.

    `seals` are the SHA-256 of its beginnings: up to the end of each piece of 1 MiB, and of the whole. So each piece is
    known before it is given out, in memory that does not grow with the file.
    """

    path: Path
    size: int
    seals: tuple[bytes, ...]

    @contextmanager
    def open(self) -> Iterator[Readable]:
        """The file from its beginning. This and `read` raise `ContentChangedError`, besides `OSError`."""
        try:
            file = open_regular(self.path)
        except OSError as error:
            if error.errno in _REPLACED:
                raise ContentChangedError(f"{self.path.name} is no longer there") from error
            raise
        with file:
            yield _SealedReader(file, self)


Content = bytes | Path | SealedFile


@contextmanager
def opened(content: Content) -> Iterator[tuple[Readable, int]]:
    """The content from its beginning, and its size in bytes. Raises `OSError`, `ContentChangedError`."""
    match content:
        case bytes():
            yield BytesIO(content), len(content)
        case Path():
            with content.open("rb", buffering=0) as file:
                yield file, os.fstat(file.fileno()).st_size
        case SealedFile():
            with content.open() as sealed:
                yield sealed, content.size


def read_all(file: Readable) -> bytes:
    return b"".join(iter(lambda: file.read(PIECE), b""))


class Sealing:
    """Takes the digests of a file's bytes in the order in which they are looked at."""

    def __init__(self) -> None:
        self.size = 0
        self._hasher = hashlib.sha256()
        self._seals: list[bytes] = []

    @property
    def sha256(self) -> str:
        return self._hasher.hexdigest()

    def take(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            part = rest[: PIECE - self.size % PIECE]
            self._hasher.update(part)
            self.size += len(part)
            if self.size % PIECE == 0:
                self._seals.append(self._hasher.digest())
            rest = rest[len(part) :]

    def sealed(self, path: Path) -> SealedFile:
        """The file that all bytes were taken of."""
        last = [self._hasher.digest()] if self.size % PIECE else []
        return SealedFile(path, self.size, (*self._seals, *last))


class _SealedReader:
    def __init__(self, file: BinaryIO, sealed: SealedFile) -> None:
        self._file = file
        self._name = sealed.path.name
        self._left = sealed.size
        self._seals = iter(sealed.seals)
        self._hasher = hashlib.sha256()
        self._piece = memoryview(b"")

    def read(self, most: int = PIECE, /) -> bytes:
        if not self._piece and self._left:
            self._piece = memoryview(self._next_piece())
        data, self._piece = self._piece[:most], self._piece[most:]
        return bytes(data)

    def _next_piece(self) -> bytes:
        piece = self._file.read(min(PIECE, self._left))
        self._hasher.update(piece)
        if self._hasher.digest() != next(self._seals):
            raise ContentChangedError(f"{self._name} is no longer what it was")
        self._left -= len(piece)
        return piece
