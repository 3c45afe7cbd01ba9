"""Moving objects with their digest checked on the way, in memory that does not grow with the object."""

import asyncio
import hashlib
import os
from io import BufferedWriter
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from wardround.runtime.store.blocking import SMALL, run
from wardround.runtime.store.port import AlreadyExistsError, ObjectStore
from wardround_messages.codec import parse

CHUNK = 4 * 2**20

M = TypeVar("M", bound=BaseModel)


class DigestMismatchError(Exception):
    """The bytes are not those that were announced."""


async def download(store: ObjectStore, bucket: str, key: str, *, size: int, sha256: str, to: Path) -> None:
    """Fetch an object into the file `to`, which appears only when size and SHA-256 are right.

    An object of another size is not fetched at all. Nothing is left behind by a transfer that fails.

    Raises:
        DigestMismatchError: size or digest differ; NotFoundError, StoreUnavailableError: from the store;
        OSError: the file cannot be written, on a full disk for one.
    """
    info = await store.head(bucket, key)
    if info.size != size:
        raise DigestMismatchError(f"{key} has {info.size} bytes where {size} were announced")
    part = to.with_name(f"{to.name}.part")
    try:
        with part.open("wb") as file:
            found = await _fetch(store, bucket, key, size, file)
        if found != sha256:
            raise DigestMismatchError(f"{key} has the digest {found} where {sha256} was announced")
        os.replace(part, to)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


async def _fetch(store: ObjectStore, bucket: str, key: str, size: int, file: BufferedWriter) -> str:
    """The SHA-256 of the object's first `size` bytes, which are now in the file."""
    hasher = hashlib.sha256()

    def take(chunk: bytes) -> None:
        hasher.update(chunk)
        file.write(chunk)

    offset = 0
    taken: asyncio.Future[None] | None = None
    try:
        while offset < size:
            chunk = await store.read(bucket, key, offset=offset, length=min(CHUNK, size - offset))
            if not chunk:
                raise DigestMismatchError(f"{key} ends after {offset} of {size} bytes")
            offset += len(chunk)
            if taken is not None:
                await asyncio.shield(taken)
            # Beside the next read: the server, the digest and the disk take about as long each.
            taken = asyncio.ensure_future(run(len(chunk) <= SMALL, take, chunk))
        if taken is not None:
            await asyncio.shield(taken)
    finally:
        if taken is not None:
            await asyncio.wait([taken])  # the file is not to be closed under the thread that writes
    return hasher.hexdigest()


def file_digest(path: Path) -> tuple[int, str]:
    """Size in bytes and SHA-256 of what was read from a file, even while another appends to it."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), sha256


async def create_or_compare(store: ObjectStore, bucket: str, key: str, data: bytes) -> bool:
    """Create the object; True if it now holds `data`, whoever wrote it, False if it holds something else."""
    try:
        await store.create(bucket, key, data)
    except AlreadyExistsError:
        return await store.read(bucket, key, length=len(data) + 1) == data
    return True


async def read_model(store: ObjectStore, bucket: str, key: str, model: type[M], *, at_most: int) -> M:
    """A strict object out of the store, never more than `at_most` bytes of it.

    Raises:
        MalformedError: too large, or not what it should be; NotFoundError, StoreUnavailableError: from the store.
    """
    return parse(model, await store.read(bucket, key, length=at_most + 1), at_most=at_most)
