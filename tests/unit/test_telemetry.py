"""What services count of themselves, with bus and store behaving as before."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from prometheus_client import CollectorRegistry

from wardround.runtime.bus.memory import MemoryBroker, MemoryBus
from wardround.runtime.bus.port import (
    BusUnavailableError,
    DeadLetterError,
    Delivery,
    ForbiddenError,
    Packet,
    UnroutableError,
)
from wardround.runtime.store.memory import MemoryStore
from wardround.runtime.store.port import AlreadyExistsError, NotFoundError, ObjectStore, StoreUnavailableError
from wardround.runtime.telemetry import MeasuredBus, MeasuredStore
from wardround_messages.names import COMMANDS, site_queue
from wardround_messages.topology import topology

SITE = "clinic-1"
KEY = f"cmd.site-agent.{SITE}.exp.start"


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def packet(body: bytes = b"{}", key: str = KEY) -> Packet:
    return Packet(exchange=COMMANDS, routing_key=key, body=body)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.002)


# --- the bus ---------------------------------------------------------------------------------------------------------


async def test_messages_are_counted_by_what_became_of_them(registry: CollectorRegistry) -> None:
    broker = MemoryBroker(topology((SITE,), ()))
    bus = MeasuredBus(MemoryBus(broker, SITE), registry)
    coordinator = MemoryBus(broker, "coordinator")

    async def handler(delivery: Delivery) -> None:
        if delivery.packet.body == b"dead":
            raise DeadLetterError("never")
        if delivery.packet.body == b"later" and delivery.earlier == 0:
            raise RuntimeError("not now")

    def counted(outcome: str) -> float:
        return registry.get_sample_value("wardround_messages_handled_total", {"outcome": outcome}) or 0

    subscription = await bus.subscribe(site_queue(SITE), handler, dead_key=f"dead.site-agent.{SITE}")
    for body in (b"fine", b"dead", b"later"):
        await coordinator.publish(packet(body))
    await until(lambda: counted("handled") == 2)
    assert (counted("dead"), counted("given_back")) == (1, 1)
    assert len(broker.dead_letters()) == 1
    await subscription.close()
    await broker.close()


async def test_publishing_is_timed_by_the_brokers_word(registry: CollectorRegistry) -> None:
    broker = MemoryBroker(topology((SITE,), ()))
    bus = MeasuredBus(MemoryBus(broker, "coordinator"), registry)
    assert bus.login == "coordinator"
    await bus.publish(packet())
    with pytest.raises(UnroutableError):
        await bus.publish(packet(key="cmd.site-agent.nobody.exp.start"))
    with pytest.raises(ForbiddenError):
        await bus.publish(packet(key="cmd.coordinator.hub.exp.start"))
    broker.disconnect("coordinator")
    with pytest.raises(BusUnavailableError):
        await bus.publish(packet())
    for outcome in ("confirmed", "unroutable", "forbidden", "unavailable"):
        assert registry.get_sample_value("wardround_publish_seconds_count", {"outcome": outcome}) == 1
    await bus.close()


async def test_reconnections_are_counted_and_told_on(registry: CollectorRegistry) -> None:
    broker = MemoryBroker(topology((SITE,), ()))
    bus = MeasuredBus(MemoryBus(broker, SITE), registry)
    told: list[str] = []
    bus.on_connect(lambda: told.append("back"))
    for _ in range(2):
        broker.disconnect(SITE)
        broker.reconnect(SITE)
    assert registry.get_sample_value("wardround_reconnections_total") == 2
    assert told == ["back", "back"]
    await bus.close()


# --- the store -------------------------------------------------------------------------------------------------------


class Away(MemoryStore):
    """A store that is away while `away` is set."""

    away = False

    async def buckets(self) -> tuple[str, ...]:
        if self.away:
            raise StoreUnavailableError("away")
        return await super().buckets()


Step = Callable[[ObjectStore], Awaitable[object]]


@pytest.mark.parametrize(
    ("method", "outcome", "call"),
    [
        ("create", "exists", lambda store: store.create("wr-exp", "a", b"2")),
        ("put", "ok", lambda store: store.put("wr-exp", "b", b"2")),
        ("read", "ok", lambda store: store.read("wr-exp", "a", offset=1, length=2)),
        ("read", "not_found", lambda store: store.read("wr-exp", "c")),
        ("head", "not_found", lambda store: store.head("wr-exp", "c")),
        ("list", "ok", lambda store: store.list("wr-exp")),
        ("delete", "ok", lambda store: store.delete("wr-exp", "c")),
        ("announce", "ok", lambda store: store.announce("wr-exp", ("a",))),
        ("buckets", "ok", lambda store: store.buckets()),
        ("make_bucket", "ok", lambda store: store.make_bucket("wr-exp")),
        ("list", "failed", lambda store: store.list("wr-exp", "../")),
    ],
)
async def test_every_call_does_the_same_as_before_and_is_counted(
    registry: CollectorRegistry, method: str, outcome: str, call: Step
) -> None:
    plain, measured = MemoryStore(), MeasuredStore(MemoryStore(), registry)
    results: list[object] = []
    for store in (plain, measured):
        await store.make_bucket("wr-exp")
        await store.create("wr-exp", "a", b"12345")
    before = registry.get_sample_value("wardround_store_seconds_count", {"method": method, "outcome": outcome}) or 0
    for store in (plain, measured):
        try:
            results.append(await call(store))
        except Exception as error:
            results.append((type(error), str(error)))
    assert results[0] == results[1]
    labels = {"method": method, "outcome": outcome}
    assert registry.get_sample_value("wardround_store_seconds_count", labels) == before + 1
    await measured.close()


async def test_errors_come_through_as_they_are(registry: CollectorRegistry) -> None:
    store = MeasuredStore(MemoryStore(), registry)
    await store.make_bucket("wr-exp")
    await store.create("wr-exp", "a", b"1")
    with pytest.raises(AlreadyExistsError):
        await store.create("wr-exp", "a", b"1")
    with pytest.raises(NotFoundError):
        await store.read("wr-exp", "b")


async def test_a_store_that_does_not_answer_for_half_a_minute_is_a_trouble(registry: CollectorRegistry) -> None:
    now = [0.0]
    inner = Away()
    store = MeasuredStore(inner, registry, monotonic=lambda: now[0])
    assert store.trouble is None
    await store.buckets()
    inner.away = True
    for now[0] in (10.0, 25.0):
        with pytest.raises(StoreUnavailableError):
            await store.buckets()
    assert store.trouble is None
    now[0] = 31.0
    assert store.trouble == "the object store has not answered for 31 s"
    inner.away = False
    await store.buckets()
    assert store.trouble is None


async def test_a_store_that_never_answered_is_a_trouble_at_once(registry: CollectorRegistry) -> None:
    inner = Away()
    inner.away = True
    store = MeasuredStore(inner, registry)
    with pytest.raises(StoreUnavailableError):
        await store.buckets()
    assert store.trouble == "the object store has not answered yet"


async def test_labels_do_not_grow_with_experiments_and_sites(registry: CollectorRegistry) -> None:
    sites = tuple(f"clinic-{number}" for number in range(50))
    broker = MemoryBroker(topology(sites, ()))
    bus, store = MeasuredBus(MemoryBus(broker, "coordinator"), registry), MeasuredStore(MemoryStore(), registry)

    async def busy(number: int) -> None:
        await bus.publish(packet(key=f"cmd.site-agent.{sites[number % 50]}.exp-{number}.start"))
        await store.make_bucket(f"wr-exp-{number}")
        await store.put(f"wr-exp-{number}", f"journal/{number:08d}.json", b"{}")

    def series() -> int:
        return sum(len(metric.samples) for metric in registry.collect())

    await busy(0)
    few = series()
    for number in range(1, 1000):
        await busy(number)
    assert series() == few
    await bus.close()
