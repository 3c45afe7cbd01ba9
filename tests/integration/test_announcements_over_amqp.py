"""From an object in a real store to the coordinator's queue at a real broker."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from urllib.parse import quote

import pytest

from servers.minio import MinioServer, Receiver, make_minio, require_minio
from servers.rabbitmq import Broker, RabbitServer, password
from wardround.runtime.bus.port import Delivery
from wardround.runtime.store.announcements import translate
from wardround.runtime.store.s3 import QUEUE, S3Store
from wardround.stack.ports import LOOPBACK
from wardround_messages.events import ObjectAnnounced
from wardround_messages.names import ANNOUNCED, COORDINATOR_QUEUE, OBJECTSTORE
from wardround_messages.topology import topology

pytestmark = pytest.mark.slow

BUCKET = "wr-breast-cancer"
CONSENT = "consent/clinic-1/0123456789abcdef-01.json"
RESULT = "results/c00000007.json"


def answer(number: int) -> str:
    return f"answers/r{number:06d}/train/clinic-1/a01.json"


class Heard:
    """What the coordinator's queue brought, as the coordinator understands it, and when."""

    def __init__(self) -> None:
        self.objects: list[ObjectAnnounced] = []
        self.at: list[float] = []
        self._arrived = asyncio.Condition()

    async def take(self, delivery: Delivery) -> None:
        assert delivery.packet.exchange == OBJECTSTORE
        async with self._arrived:
            self.objects += translate(delivery.packet.body)
            self.at.append(time.perf_counter())
            self._arrived.notify_all()

    async def keys(self, number: int) -> list[str]:
        async with asyncio.timeout(10), self._arrived:
            await self._arrived.wait_for(lambda: len(self.objects) >= number)
        return sorted(one.key for one in self.objects)


@pytest.fixture
async def broker(rabbit_server: RabbitServer) -> AsyncIterator[Broker]:
    async with rabbit_server.broker(topology(("clinic-1",), ("researcher-a",))) as broker:
        yield broker


@pytest.fixture
def server(broker: Broker, tmp_path: Path, webhook: Receiver) -> Iterator[MinioServer]:
    """A server that announces to this broker, not yet started."""
    require_minio()
    login = f"store:{quote(password('store'), safe='')}"
    address = f"amqp://{login}@{LOOPBACK}:{broker.server.port}/{broker.vhost}"
    server = make_minio(tmp_path / "minio", webhook, amqp=address)
    yield server
    server.child.kill()


@asynccontextmanager
async def asked(server: MinioServer) -> AsyncIterator[S3Store]:
    """The started server with a bucket whose objects are announced."""
    await server.child.start()
    store = server.store(queue=QUEUE)
    await store.make_bucket(BUCKET)
    await store.announce(BUCKET, ANNOUNCED)
    yield store
    await store.close()


async def listen(broker: Broker) -> Heard:
    heard = Heard()
    bus = await broker.connect("coordinator")
    await bus.subscribe(COORDINATOR_QUEUE, heard.take, dead_key="dead.coordinator.hub")
    return heard


async def test_consents_answers_and_results_are_announced_and_nothing_else(
    broker: Broker, server: MinioServer, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"12345678")
    heard = await listen(broker)
    async with asked(server) as store:
        await store.make_bucket("wr-another")
        for bucket in (BUCKET, "wr-another"):
            await store.create(bucket, "journal/00000000.json", b"x")
            await store.put(bucket, "updates/r000001/clinic-1/0123456789abcdef.safetensors", file)
            await store.put(bucket, "global/r000001/0123456789abcdef.safetensors", file)
            await store.put(bucket, "figures/r000001.json", b"x")
        await store.create(BUCKET, CONSENT, b"123")
        await store.put(BUCKET, answer(1), b"1234")
        await store.put(BUCKET, RESULT, file)
        assert await heard.keys(3) == [answer(1), CONSENT, RESULT]
        assert {(one.bucket, one.key, one.size) for one in heard.objects} == {
            (BUCKET, CONSENT, 3),
            (BUCKET, answer(1), 4),
            (BUCKET, RESULT, 8),
        }
        assert {one.etag for one in heard.objects} == {
            (await store.head(BUCKET, key)).etag for key in (CONSENT, answer(1), RESULT)
        }


async def test_asking_again_does_not_announce_twice(broker: Broker, server: MinioServer) -> None:
    heard = await listen(broker)
    async with asked(server) as store:
        for _ in range(3):
            await store.announce(BUCKET, ANNOUNCED)
        for number in range(1, 4):
            await store.create(BUCKET, answer(number), b"x")
        await heard.keys(3)
        await asyncio.sleep(0.5)
        assert await heard.keys(3) == [answer(number) for number in range(1, 4)]


async def test_what_was_asked_for_outlives_the_server(broker: Broker, server: MinioServer) -> None:
    heard = await listen(broker)
    async with asked(server) as store:
        server.child.kill()
        await server.child.start()
        await store.create(BUCKET, answer(1), b"x")
        assert await heard.keys(1) == [answer(1)]


async def test_an_announcement_arrives_in_milliseconds(broker: Broker, server: MinioServer) -> None:
    heard = await listen(broker)
    took = []
    async with asked(server) as store:
        for number in range(1, 41):
            begin = time.perf_counter()
            await store.create(BUCKET, answer(number), b"x" * 2000)
            await heard.keys(number)
            took.append(heard.at[-1] - begin)
    print(f"from the call to the consumer: median {median(took) * 1e3:.1f} ms, longest {max(took) * 1e3:.1f} ms")
    assert median(took) < 0.5


async def test_a_store_without_its_broker_takes_objects_and_announces_again_when_it_is_back(
    broker: Broker, server: MinioServer, rabbit_server: RabbitServer
) -> None:
    heard = await listen(broker)
    async with asked(server) as store:
        await store.create(BUCKET, answer(1), b"x")
        await heard.keys(1)
        rabbit_server.kill()
        begin = time.perf_counter()
        for number in range(2, 6):
            await store.create(BUCKET, answer(number), b"x")
            await store.announce(BUCKET, ANNOUNCED)
        assert time.perf_counter() - begin < 3
        await rabbit_server.start()
        async with asyncio.timeout(30):
            number = 100
            while not any(one.key >= answer(100) for one in heard.objects):
                await store.create(BUCKET, answer(number), b"x")
                await asyncio.sleep(0.2)
                number += 1
        assert len(await store.list(BUCKET, "answers/")) >= 6
        before = len(heard.objects)
        await store.create(BUCKET, RESULT, b"x")
        assert RESULT in await heard.keys(before + 1)


async def test_a_store_starts_and_is_asked_to_announce_while_the_broker_is_away(
    broker: Broker, server: MinioServer, rabbit_server: RabbitServer
) -> None:
    rabbit_server.kill()
    async with asked(server) as store:
        await store.create(BUCKET, answer(1), b"x")
        await rabbit_server.start()
        heard = await listen(broker)
        async with asyncio.timeout(30):
            number = 2
            while not heard.objects:
                await store.create(BUCKET, answer(number), b"x")
                await asyncio.sleep(0.2)
                number += 1
