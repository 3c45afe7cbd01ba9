"""The object store as every service sees it. Adapters: `MemoryStore`, `FolderStore`, and `S3Store` on a real server."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from wardround.runtime.store.content import Content
from wardround.runtime.store.passage import Passage


class StoreError(Exception):
    """Base of what a store raises."""


class StoreUnavailableError(StoreError):
    """The store is away, slow, full or answered 5xx: the call may or may not have been carried out. Try again."""


class NotFoundError(StoreError):
    """No such bucket or object."""


class AlreadyExistsError(StoreError):
    """`create` found the key taken; after a timeout it may be one's own write: compare."""


class AccessDeniedError(StoreError):
    """The login has no right to do this."""


class LoginRefusedError(AccessDeniedError):
    """The store does not know the login, or was given another secret for it."""


class InvalidKeyError(StoreError, ValueError):
    """The bucket or key is not one that Wardround writes."""


@dataclass(frozen=True, order=True, slots=True)
class ObjectInfo:
    """`size` in bytes; `etag` changes when the content does."""

    key: str
    size: int
    etag: str


class ObjectStore(Protocol):
    """Whole objects appear at once or not at all. Every method may raise `StoreUnavailableError`."""

    async def create(self, bucket: str, key: str, data: bytes) -> None:
        """Write the object if the key is free. Raises `AlreadyExistsError`: the only lock in the system."""

    async def put(self, bucket: str, key: str, source: Content, *, passage: Passage | None = None) -> None:
        """Write or replace the object; a file is streamed, never loaded whole. What a sealed file no longer is raises
        `ContentChangedError`, and no object appears.

        `passage` is told how much has passed. Over a network it is also asked how fast more may; adapters on this
        machine tell it at the end.
        """

    async def read(self, bucket: str, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        """At most `length` bytes from `offset`; fewer only where the object ends. Raises `NotFoundError`."""

    async def head(self, bucket: str, key: str) -> ObjectInfo:
        """Raises `NotFoundError`."""

    async def list(self, bucket: str, prefix: str = "") -> tuple[ObjectInfo, ...]:
        """All objects whose key starts with `prefix`, sorted by key. Raises `NotFoundError` for the bucket."""

    async def delete(self, bucket: str, key: str) -> None:
        """Delete the object; no error where there is none."""

    async def announce(self, bucket: str, prefixes: Sequence[str]) -> None:
        """Have the store announce, on `wr.objectstore`, each object written below one of the prefixes from now on."""

    async def buckets(self) -> tuple[str, ...]: ...

    async def make_bucket(self, bucket: str) -> None:
        """Make the bucket; no error where it exists."""

    async def close(self) -> None: ...
