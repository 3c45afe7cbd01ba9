"""Whether the store announces what is stored: an object is stored, and its announcement heard, in a queue of one's own.

The queue is the coordinator's login's right, which hears every announcement anyhow; it ends with the connection. What
lies in the probe's bucket is no experiment, so whoever hears of it does nothing.
"""

import asyncio
import time

from aio_pika import Connection
from aio_pika.abc import AbstractIncomingMessage
from aio_pika.exceptions import AMQPError
from aiormq.exceptions import ChannelAccessRefused

from wardround.client.doctor.findings import Verdict, ok, skipped, warning, wrong
from wardround.runtime.bus.port import BusError
from wardround.runtime.bus.rabbit_link import Endpoint, close_quietly
from wardround.runtime.ids import fresh_id
from wardround.runtime.store.port import ObjectStore, StoreError
from wardround.runtime.store.s3_probe import PROBE_BUCKET, PROBE_PREFIX
from wardround_messages.names import OBJECTSTORE
from wardround_messages.topology import ANNOUNCED_ROUTING_KEY, LOOK_PREFIX

PREFIX = f"{PROBE_PREFIX}announced/"
COMES_WITHIN = 10.0
SLOW = 1.0


async def look_at_announcements(endpoint: Endpoint, store: ObjectStore) -> Verdict:
    """Store a probe and wait for its announcement, as the coordinator's login."""
    probe = fresh_id()
    heard = asyncio.Event()

    async def hear(message: AbstractIncomingMessage) -> None:
        if probe.encode() in message.body:
            heard.set()

    try:
        connection = await endpoint.open("looks for an announcement")
        try:
            await _listen(connection, f"{LOOK_PREFIX}{probe}", hear)
            return await _stored_and_heard(store, f"{PREFIX}{probe}", heard)
        finally:
            await close_quietly(connection.close())
    except ChannelAccessRefused:
        return skipped(
            "the broker's definitions are of an earlier version, without the right to look: "
            "wardround hub, then rabbitmqctl import_definitions"
        )
    except (BusError, AMQPError) as error:
        return wrong(f"the broker does not let announcements be heard: {error}", "look into the broker's log")
    except StoreError as error:
        return wrong(str(error), "set the store up to announce to the broker, as the guide for operators says")


async def _listen(connection: Connection, name: str, hear: object) -> None:
    channel = connection.channel(publisher_confirms=False)
    await channel.initialize()
    queue = await channel.declare_queue(name, exclusive=True, auto_delete=True)
    await queue.bind(OBJECTSTORE, ANNOUNCED_ROUTING_KEY)
    await queue.consume(hear, no_ack=True)  # type: ignore[arg-type]


async def _stored_and_heard(store: ObjectStore, key: str, heard: asyncio.Event) -> Verdict:
    await store.make_bucket(PROBE_BUCKET)
    await store.announce(PROBE_BUCKET, [PREFIX])
    try:
        await store.create(PROBE_BUCKET, key, b"")
        stored = time.monotonic()
        async with asyncio.timeout(COMES_WITHIN):
            await heard.wait()
        took = time.monotonic() - stored
    except TimeoutError:
        return wrong(
            f"an object was stored, and not announced within {COMES_WITHIN:.0f} s; rounds go on, but late",
            "check that the store's notify settings name this broker, the login 'store' and the exchange "
            f"{OBJECTSTORE}, and look into its log",
        )
    finally:
        await store.delete(PROBE_BUCKET, key)
    if took > SLOW:
        return warning(
            f"an object was announced {took:.1f} s after it was stored",
            "without a queue folder (MINIO_NOTIFY_AMQP_QUEUE_DIR) MinIO announces in milliseconds",
        )
    return ok(f"an object is announced {took * 1000:.0f} ms after it is stored")
