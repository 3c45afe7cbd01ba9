"""Whether a store keeps the one promise that everything stands on: of several creators of a key, one wins."""

import asyncio
from contextlib import suppress

from wardround.runtime.ids import fresh_id
from wardround.runtime.store.port import AlreadyExistsError, ObjectStore, StoreError
from wardround.runtime.store.s3_errors import UnsupportedError

# `hub` is no valid id, so this is nobody's experiment.
PROBE_BUCKET = "wr-hub"
PROBE_PREFIX = "probe/"
CREATORS = 8


class CreateOnlyError(StoreError):
    """The store overwrites what `create` must leave alone: experiments would lose their history."""

    def __init__(self, found: str) -> None:
        super().__init__(
            f"this store must not be used: {found}; it needs conditional writes (If-None-Match: *), which MinIO, "
            "Amazon S3 and Ceph from 19 on have"
        )


async def prove_create_only(store: ObjectStore) -> None:
    """Create objects under fresh keys of the bucket `wr-hub`, one after the other and at once, and delete them.

    Raises:
        CreateOnlyError: a second create was not refused, or the first was; StoreError: the store is away or refuses.
    """
    await store.make_bucket(PROBE_BUCKET)
    key = f"{PROBE_PREFIX}{fresh_id()}"
    at_once = f"{key}-at-once"
    try:
        if not await _created(store, key, b"first"):
            raise CreateOnlyError("it refused to create an object under a fresh key")
        if await _created(store, key, b"second") or await store.read(PROBE_BUCKET, key) != b"first":
            raise CreateOnlyError("a second create replaced an object")
        contents = [f"creator {number}".encode() for number in range(CREATORS)]
        won = await asyncio.gather(*(_created(store, at_once, content) for content in contents))
        if won.count(True) != 1:
            raise CreateOnlyError(f"of {CREATORS} creators at once {won.count(True)} were told that they won")
        if await store.read(PROBE_BUCKET, at_once) != contents[won.index(True)]:
            raise CreateOnlyError("of several creators at once another won than the one that was told so")
    except UnsupportedError as error:
        raise CreateOnlyError(str(error)) from None
    finally:
        with suppress(StoreError):  # what went wrong before matters more than a probe of a few bytes
            for each in (key, at_once):
                await store.delete(PROBE_BUCKET, each)


async def _created(store: ObjectStore, key: str, content: bytes) -> bool:
    try:
        await store.create(PROBE_BUCKET, key, content)
    except AlreadyExistsError:
        return False
    return True
