"""Objects in memory, for tests and for simulations that inject faults."""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from wardround.runtime.store.announcements import Announcements, Announcer
from wardround.runtime.store.blocking import SMALL, run
from wardround.runtime.store.content import Content, opened, read_all
from wardround.runtime.store.keys import check_bucket, check_key, check_prefix, check_range
from wardround.runtime.store.passage import Passage
from wardround.runtime.store.port import AlreadyExistsError, NotFoundError, ObjectInfo

_AFTER_ALL = "\x7f"  # sorts after every character of a key


@dataclass(frozen=True, slots=True)
class _Stored:
    data: bytes
    info: ObjectInfo


@dataclass(frozen=True, slots=True)
class _Bucket:
    """`keys` are those of `objects`, kept sorted, so that a listing costs what it finds."""

    objects: dict[str, _Stored] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)


class MemoryStore:
    """An `ObjectStore` that is gone with its process. An ETag is the number of the write."""

    def __init__(self, announcer: Announcer | None = None) -> None:
        self._buckets: dict[str, _Bucket] = {}
        self._announcements = Announcements(announcer)
        self._writes = count(1)

    async def create(self, bucket: str, key: str, data: bytes) -> None:
        if key in self._bucket_for(bucket, key).objects:
            raise AlreadyExistsError(f"{bucket}/{key} exists")
        await self._write(bucket, key, data)

    async def put(self, bucket: str, key: str, source: Content, *, passage: Passage | None = None) -> None:
        self._bucket_for(bucket, key)
        data = source if isinstance(source, bytes) else await _content(source)
        await self._write(bucket, key, data)
        if passage is not None:
            passage.begin()
            passage.passed(len(data))

    async def read(self, bucket: str, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        check_range(offset, length)
        return self._stored(bucket, key).data[offset : None if length is None else offset + length]

    async def head(self, bucket: str, key: str) -> ObjectInfo:
        return self._stored(bucket, key).info

    async def list(self, bucket: str, prefix: str = "") -> tuple[ObjectInfo, ...]:
        check_prefix(prefix)
        found = self._bucket(bucket)
        first, end = bisect_left(found.keys, prefix), bisect_left(found.keys, prefix + _AFTER_ALL)
        return tuple(found.objects[key].info for key in found.keys[first:end])

    async def delete(self, bucket: str, key: str) -> None:
        found = self._bucket_for(bucket, key)
        if found.objects.pop(key, None) is not None:
            del found.keys[bisect_left(found.keys, key)]

    async def announce(self, bucket: str, prefixes: Sequence[str]) -> None:
        self._bucket(bucket)
        self._announcements.ask(bucket, prefixes)

    async def buckets(self) -> tuple[str, ...]:
        return tuple(sorted(self._buckets))

    async def make_bucket(self, bucket: str) -> None:
        check_bucket(bucket)
        self._buckets.setdefault(bucket, _Bucket())

    async def close(self) -> None:
        """Nothing to close."""

    async def _write(self, bucket: str, key: str, data: bytes) -> None:
        found = self._buckets[bucket]
        if key not in found.objects:
            insort(found.keys, key)
        info = ObjectInfo(key, len(data), f"{next(self._writes):x}")
        found.objects[key] = _Stored(data, info)
        await self._announcements.written(bucket, info)

    def _bucket(self, bucket: str) -> _Bucket:
        check_bucket(bucket)
        if bucket not in self._buckets:
            raise NotFoundError(f"there is no bucket {bucket}")
        return self._buckets[bucket]

    def _bucket_for(self, bucket: str, key: str) -> _Bucket:
        check_key(key)
        return self._bucket(bucket)

    def _stored(self, bucket: str, key: str) -> _Stored:
        found = self._bucket_for(bucket, key).objects.get(key)
        if found is None:
            raise NotFoundError(f"there is no object {bucket}/{key}")
        return found


async def _content(source: Content) -> bytes:
    with opened(source) as (file, size):
        return await run(size <= SMALL, read_all, file)
