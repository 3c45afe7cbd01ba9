"""What goes to and from a store with its content checked: digests of files, objects written once, strict objects."""

import hashlib
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from wardround.runtime.store.port import AlreadyExistsError, ObjectStore
from wardround_messages.codec import parse

M = TypeVar("M", bound=BaseModel)


class DigestMismatchError(Exception):
    """The bytes are not those that were announced."""


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
