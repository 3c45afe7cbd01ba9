"""Notifications of the store: said as MinIO says them, and read strictly whoever sent them."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from wardround.runtime.bus.memory import MemoryBroker, MemoryBus
from wardround.runtime.bus.port import BusUnavailableError, Delivery
from wardround.runtime.store.announcements import BusAnnouncer, notification, translate
from wardround.runtime.store.folder import FolderStore
from wardround.runtime.store.memory import MemoryStore
from wardround.runtime.store.port import ObjectInfo
from wardround_messages.codec import MalformedError
from wardround_messages.events import ObjectAnnounced
from wardround_messages.names import COORDINATOR_QUEUE
from wardround_messages.topology import topology

BUCKET = "wr-brain-tumour"
KEY = "answers/r000012/train/clinic-1/a01.json"
ENCODED = "answers%2Fr000012%2Ftrain%2Fclinic-1%2Fa01.json"

# As MinIO publishes it over AMQP, all fields present.
FROM_MINIO: dict[str, Any] = {
    "EventName": "s3:ObjectCreated:Put",
    "Key": f"{BUCKET}/{KEY}",
    "Records": [
        {
            "eventVersion": "2.0",
            "eventSource": "minio:s3",
            "awsRegion": "",
            "eventTime": "2025-03-01T07:45:13.123Z",
            "eventName": "s3:ObjectCreated:Put",
            "userIdentity": {"principalId": "clinic-1"},
            "requestParameters": {"principalId": "clinic-1", "region": "", "sourceIPAddress": "192.0.2.7"},
            "responseElements": {"x-amz-id-2": "dd9025bab4ad464b", "x-amz-request-id": "17D2B3C4E5F60718"},
            "s3": {
                "s3SchemaVersion": "1.0",
                "configurationId": "Config",
                "bucket": {
                    "name": BUCKET,
                    "ownerIdentity": {"principalId": "clinic-1"},
                    "arn": f"arn:aws:s3:::{BUCKET}",
                },
                "object": {
                    "key": ENCODED,
                    "size": 812,
                    "eTag": "3858f62230ac3c915f300c664312c63f",
                    "contentType": "application/json",
                    "userMetadata": {"content-type": "application/json"},
                    "sequencer": "17D2B3C4E5F60718",
                },
            },
            "source": {"host": "192.0.2.7", "port": "", "userAgent": "MinIO (linux; amd64) minio-py/7.2"},
        }
    ],
}


def body(*keys: str, bucket: str = BUCKET, event: str = "s3:ObjectCreated:Put", **more: Any) -> bytes:
    """A notification with a record for each key, which is taken as it is."""
    records = [{"eventName": event, "s3": {"bucket": {"name": bucket}, "object": {"key": key, **more}}} for key in keys]
    return json.dumps({"Records": records}).encode()


# --- the form ----------------------------------------------------------------------------------------------------


def test_a_notification_has_the_fields_of_minio() -> None:
    said = json.loads(notification(BUCKET, ObjectInfo(KEY, 812, "3858f62230ac3c915f300c664312c63f")))
    assert (said["EventName"], said["Key"]) == (FROM_MINIO["EventName"], FROM_MINIO["Key"])
    (record,) = said["Records"]
    (expected,) = FROM_MINIO["Records"]
    assert record["eventName"] == expected["eventName"]
    assert record["s3"]["bucket"]["name"] == expected["s3"]["bucket"]["name"]
    assert record["s3"]["object"].items() <= expected["s3"]["object"].items()


def test_what_minio_sends_is_read() -> None:
    expected = ObjectAnnounced(bucket=BUCKET, key=KEY, size=812, etag="3858f62230ac3c915f300c664312c63f")
    assert translate(json.dumps(FROM_MINIO).encode()) == (expected,)


def test_what_the_embedded_stores_say_is_read() -> None:
    expected = ObjectAnnounced(bucket=BUCKET, key=KEY, size=7, etag="1f")
    assert translate(notification(BUCKET, ObjectInfo(KEY, 7, "1f"))) == (expected,)


@pytest.mark.parametrize(
    "event", ["s3:ObjectCreated:Put", "ObjectCreated:Put", "ObjectCreated:CompleteMultipartUpload"]
)
@pytest.mark.parametrize("key", [KEY, ENCODED])
def test_other_servers_name_the_event_and_encode_the_key_in_their_way(event: str, key: str) -> None:
    assert translate(body(key, event=event)) == (ObjectAnnounced(bucket=BUCKET, key=KEY),)


def test_each_record_of_ours_yields_an_object() -> None:
    found = translate(body("results/c00000007.json", "foreign.txt", KEY))
    assert [one.key for one in found] == ["results/c00000007.json", KEY]


def test_no_records_yield_nothing() -> None:
    assert translate(b'{"Records":[]}') == ()


# --- what does not exist -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        "foreign.txt",
        "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        f"%2e%2e%2fwr-other%2f{ENCODED}",
        ENCODED.replace("%", "%25"),
        KEY.replace("/", "%252F"),
        "answers%2Fr000012%2F",
        "answers/",
        "",
        f"{ENCODED}%00",
        f"{ENCODED}%0A",
        f"+{ENCODED}",
        ENCODED.replace("clinic-1", "clinic+1"),
        ENCODED.replace("clinic-1", "hub"),
        ENCODED.replace("clinic-1", "Clinic-1"),
        ENCODED.replace("clinic-1", "%EF%BC%A1"),
        "%ff%fe",
        "%",
        "a" * 10_000,
    ],
)
def test_a_key_that_is_not_ours_is_ignored(key: str) -> None:
    assert translate(body(key)) == ()


@pytest.mark.parametrize(
    "bucket", ["", "models", "wr-", "wr-models", "wr-none", "WR-x", "wr-x/../y", "wr%2Dx", "wr-x\n", "w" * 1000]
)
def test_a_bucket_that_is_not_an_experiments_is_ignored(bucket: str) -> None:
    assert translate(body(KEY, bucket=bucket)) == ()


@pytest.mark.parametrize("event", ["s3:ObjectRemoved:Delete", "s3:ObjectAccessed:Get", "s3:TestEvent", ""])
def test_only_writing_is_announced(event: str) -> None:
    assert translate(body(KEY, event=event)) == ()


# --- what cannot be read -----------------------------------------------------------------------------------------

RECORD = b'{"eventName":"s3:ObjectCreated:Put","s3":{"bucket":{"name":"wr-x"},"object":{"key":"%s"%s}}}'


def with_object(more: bytes) -> bytes:
    return b'{"Records":[%s]}' % (RECORD % (ENCODED.encode(), more))


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (b"", "not_json"),
        (b"null", "invalid"),
        (b"[]", "invalid"),
        (b"{}", "invalid"),
        (b'{"Service":"Amazon S3","Event":"s3:TestEvent"}', "invalid"),
        (b'{"Records":{}}', "invalid"),
        (b'{"Records":[1]}', "invalid"),
        (b'{"Records":[{"eventName":"s3:ObjectCreated:Put"}]}', "invalid"),
        (b"\xff\xfe", "not_utf8"),
        (b'\xef\xbb\xbf{"Records":[]}', "not_json"),
        (b'{"Records":[]}x', "not_json"),
        (b'{"Records":[],"Records":[]}', "duplicate_key"),
        (b"[" * 60_000, "not_json"),
        (b"[" * 100_000, "too_large"),
        (b'{"Records":[]}' + b" " * 64 * 1024, "too_large"),
        (with_object(b',"size":NaN'), "not_json"),
        (with_object(b',"size":1e999'), "invalid"),
        (with_object(b',"size":-1'), "invalid"),
        (with_object(b',"size":true'), "invalid"),
        (with_object(b',"size":"1"'), "invalid"),
        (with_object(b',"size":1.0'), "invalid"),
        (with_object(b',"size":%d' % 2**80), "invalid"),
        (with_object(b',"size":' + b"9" * 5000), "not_json"),
        (with_object(b',"eTag":"%s"' % (b"e" * 101)), "invalid"),
        (with_object(b',"eTag":7'), "invalid"),
    ],
    ids=lambda value: ascii(value[:40]),
)
def test_what_is_no_notification_is_malformed(bad: bytes, code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        translate(bad)
    assert caught.value.code == code


def test_deep_nesting_is_refused_within_ten_milliseconds() -> None:
    def seconds() -> float:
        started = time.perf_counter()
        with pytest.raises(MalformedError):
            translate(b"[" * 64 * 1024)
        return time.perf_counter() - started

    assert min(seconds() for _ in range(5)) < 0.01


# --- on the bus --------------------------------------------------------------------------------------------------


async def test_the_coordinator_hears_what_is_written_below_a_prefix() -> None:
    broker = MemoryBroker(topology(("clinic-1",), ()))
    heard: asyncio.Queue[tuple[ObjectAnnounced, ...]] = asyncio.Queue()

    async def hear(delivery: Delivery) -> None:
        heard.put_nowait(translate(delivery.packet.body))

    coordinator = MemoryBus(broker, "coordinator")
    await coordinator.subscribe(COORDINATOR_QUEUE, hear, dead_key="dead.coordinator.hub")
    store = MemoryStore(BusAnnouncer(MemoryBus(broker, "store")))
    await store.make_bucket(BUCKET)
    await store.announce(BUCKET, ["answers/"])
    await store.create(BUCKET, KEY, b"answer")
    info = await store.head(BUCKET, KEY)
    async with asyncio.timeout(5):
        assert await heard.get() == (ObjectAnnounced(bucket=BUCKET, key=KEY, size=6, etag=info.etag),)
    await coordinator.close()


@pytest.mark.parametrize("kind", ["memory", "folder"])
async def test_a_lost_announcement_never_fails_the_write(kind: str, tmp_path: Path) -> None:
    async def away(bucket: str, info: ObjectInfo) -> None:
        raise BusUnavailableError("the broker is away")

    store = MemoryStore(away) if kind == "memory" else FolderStore(tmp_path, announcer=away, durable=False)
    await store.make_bucket(BUCKET)
    await store.announce(BUCKET, ["answers/"])
    await store.create(BUCKET, KEY, b"answer")
    assert await store.read(BUCKET, KEY) == b"answer"
