"""The store's notifications: said by the embedded stores as MinIO says them, understood from any S3 server.

The form is that of Amazon S3 event notifications, with the two fields that MinIO adds on top:
https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated
from urllib.parse import quote_plus, unquote_plus

import structlog
from pydantic import BaseModel, ConfigDict, Field

from wardround.runtime.bus.port import Bus, Packet
from wardround.runtime.store.keys import check_prefix
from wardround.runtime.store.port import ObjectInfo
from wardround_messages.base import Count, canonical_bytes
from wardround_messages.codec import CONTENT_TYPE, MESSAGE_AT_MOST, parse
from wardround_messages.events import ObjectAnnounced
from wardround_messages.names import OBJECTSTORE, experiment_of, parse_key
from wardround_messages.topology import ANNOUNCED_ROUTING_KEY

CREATED = "s3:ObjectCreated:Put"

Announcer = Callable[[str, ObjectInfo], Awaitable[None]]

log = structlog.get_logger()


class Announcements:
    """Which objects of an embedded store are announced, and the telling of it.

    What was asked for lives as long as the store object and is not known to others on the same folder.
    """

    def __init__(self, announcer: Announcer | None) -> None:
        self._announcer = announcer
        self._asked: dict[str, tuple[str, ...]] = {}

    def ask(self, bucket: str, prefixes: Sequence[str]) -> None:
        """Announce what is written below these prefixes of the bucket from now on, and nothing else of it.

        Raises:
            InvalidKeyError: a prefix cannot begin a key.
        """
        for prefix in prefixes:
            check_prefix(prefix)
        self._asked[bucket] = tuple(prefixes)

    async def written(self, bucket: str, info: ObjectInfo) -> None:
        """Announce the object if that was asked for. The object stands: a lost announcement is no error."""
        if self._announcer is None or not info.key.startswith(self._asked.get(bucket, ())):
            return
        try:
            await self._announcer(bucket, info)
        except Exception as error:
            log.debug("announcement_lost", bucket=bucket, key=info.key, error=repr(error))


class BusAnnouncer:
    """Says on `wr.objectstore` what was written; the bus is that of the login `store`."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def __call__(self, bucket: str, info: ObjectInfo) -> None:
        await self._bus.publish(
            Packet(
                exchange=OBJECTSTORE,
                routing_key=ANNOUNCED_ROUTING_KEY,
                body=notification(bucket, info),
                content_type=CONTENT_TYPE,
            )
        )


def notification(bucket: str, info: ObjectInfo) -> bytes:
    """The body in which MinIO announces over AMQP that an object was written."""
    written = {"key": quote_plus(info.key), "size": info.size, "eTag": info.etag}
    record = {
        "eventVersion": "2.0",
        "eventSource": "minio:s3",
        "eventName": CREATED,
        "s3": {"s3SchemaVersion": "1.0", "bucket": {"name": bucket}, "object": written},
    }
    return canonical_bytes({"EventName": CREATED, "Key": f"{bucket}/{info.key}", "Records": [record]})


def translate(body: bytes) -> tuple[ObjectAnnounced, ...]:
    """The objects of ours that a notification says were written; whatever else it speaks of does not exist.

    MinIO, RustFS, Ceph and Amazon are understood: they agree on `Records` and differ in what they add.

    Raises:
        MalformedError: over 64 KiB, not JSON, or without the fields that all of them send.
    """
    found = parse(_Notification, body, at_most=MESSAGE_AT_MOST)
    announced = (_announced(record) for record in found.records if "ObjectCreated" in record.event_name)
    return tuple(one for one in announced if one is not None)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)


class _Bucket(_Part):
    name: str


class _Object(_Part):
    key: str
    size: Count | None = None
    etag: Annotated[str | None, Field(alias="eTag", max_length=100)] = None


class _S3(_Part):
    bucket: _Bucket
    object: _Object


class _Record(_Part):
    event_name: Annotated[str, Field(alias="eventName")]
    s3: _S3


class _Notification(_Part):
    records: Annotated[tuple[_Record, ...], Field(alias="Records")]


def _announced(record: _Record) -> ObjectAnnounced | None:
    bucket, written = record.s3.bucket.name, record.s3.object
    # Decoded once, as it was encoded once: what still holds a `%` then is no key of ours.
    key = unquote_plus(written.key)
    if experiment_of(bucket) is None or parse_key(key) is None:
        return None
    return ObjectAnnounced(bucket=bucket, key=key, size=written.size, etag=written.etag)
