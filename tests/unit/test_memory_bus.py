"""What the bus in memory offers beyond the port: faults, bounds and a look inside."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import replace

import pytest

from wardround.runtime.bus.memory import MemoryBroker, MemoryBus
from wardround.runtime.bus.memory_queues import MemoryStream, Source
from wardround.runtime.bus.port import DeadLetterError, Delivery, Packet, UnroutableError
from wardround_messages.topology import Binding, Login, Queue, Topology, topology

TOPOLOGY = topology(("clinic-1", "clinic-2"), ("researcher-a",))
TO_CLINIC = Packet("wr.commands", "cmd.site-agent.clinic-1.exp.start", b"{}")
SAID = Packet("wr.events", "evt.coordinator.hub.exp.step.opened", b"{}")


@pytest.fixture
async def broker() -> AsyncIterator[MemoryBroker]:
    broker = MemoryBroker(TOPOLOGY, stream_keeps=3)
    yield broker
    await broker.close()


async def turns(number: int = 20) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def test_stream_keeps_its_last_messages_and_their_offsets(broker: MemoryBroker) -> None:
    coordinator, metrics = MemoryBus(broker, "coordinator"), MemoryBus(broker, "metrics")
    for number in range(5):
        await coordinator.publish(replace(SAID, body=b"%d" % number))
    read: list[tuple[int | None, bytes]] = []

    async def keep(delivery: Delivery) -> None:
        read.append((delivery.offset, delivery.packet.body))

    await metrics.subscribe("wr.metrics", keep, dead_key="dead.metrics.hub", offset=0)

    await turns()
    assert read == [(2, b"2"), (3, b"3"), (4, b"4")]
    assert broker.depth("wr.metrics") == 3


async def test_slow_reader_goes_on_with_the_oldest_message_kept(broker: MemoryBroker) -> None:
    coordinator, metrics = MemoryBus(broker, "coordinator"), MemoryBus(broker, "metrics")
    offsets: list[int | None] = []
    go_on = asyncio.Event()

    async def dawdle(delivery: Delivery) -> None:
        offsets.append(delivery.offset)
        await go_on.wait()

    await metrics.subscribe("wr.metrics", dawdle, dead_key="dead.metrics.hub", prefetch=1)
    for _ in range(9):
        await coordinator.publish(SAID)
        await turns(3)
    go_on.set()

    await turns()
    assert offsets == [0, 6, 7, 8]


async def test_wiped_broker_has_lost_every_message_and_works_on(broker: MemoryBroker) -> None:
    coordinator, clinic, metrics = (MemoryBus(broker, name) for name in ("coordinator", "clinic-1", "metrics"))
    received: list[bytes] = []
    back: list[str] = []
    coordinator.on_connect(lambda: back.append("coordinator"))

    async def hold(delivery: Delivery) -> None:
        received.append(delivery.packet.body)
        await asyncio.Event().wait()

    await clinic.subscribe("wr.site.clinic-1", hold, dead_key="dead.site-agent.clinic-1", prefetch=1)
    await metrics.subscribe("wr.metrics", hold, dead_key="dead.metrics.hub", prefetch=1)
    for body in (b"1", b"2"):
        await coordinator.publish(replace(TO_CLINIC, body=body))
        await coordinator.publish(replace(SAID, body=body))
    await turns()
    assert received == [b"1", b"1"]

    broker.wipe()

    assert [broker.depth(queue.name) for queue in TOPOLOGY.queues] == [0] * len(TOPOLOGY.queues)
    assert back == ["coordinator"]
    await coordinator.publish(replace(TO_CLINIC, body=b"3"))
    await coordinator.publish(replace(SAID, body=b"4"))
    await turns()
    assert received == [b"1", b"1", b"3", b"4"]


async def test_broker_wiped_while_it_was_away_stays_away(broker: MemoryBroker) -> None:
    coordinator = MemoryBus(broker, "coordinator")
    await coordinator.publish(TO_CLINIC)
    broker.stop()

    broker.wipe()

    assert not coordinator.connected
    assert broker.depth("wr.site.clinic-1") == 0


async def test_login_that_is_cut_off_stays_so_over_a_restart(broker: MemoryBroker) -> None:
    clinic, other = MemoryBus(broker, "clinic-1"), MemoryBus(broker, "clinic-2")
    back: list[str] = []
    clinic.on_connect(lambda: back.append("clinic-1"))
    other.on_connect(lambda: back.append("clinic-2"))

    broker.disconnect("clinic-1")
    broker.stop()
    broker.start()
    assert (clinic.connected, other.connected, back) == (False, True, ["clinic-2"])

    broker.reconnect("clinic-1")
    assert (clinic.connected, back) == (True, ["clinic-2", "clinic-1"])


async def test_reconnecting_and_starting_what_never_was_away_calls_nobody_back(broker: MemoryBroker) -> None:
    clinic = MemoryBus(broker, "clinic-1")
    back: list[str] = []
    clinic.on_connect(lambda: back.append("clinic-1"))

    broker.reconnect("clinic-1")
    broker.start()

    assert back == []


async def test_two_connections_of_one_login_are_cut_together(broker: MemoryBroker) -> None:
    first, second = MemoryBus(broker, "coordinator"), MemoryBus(broker, "coordinator")

    broker.disconnect("coordinator")

    assert (first.connected, second.connected) == (False, False)


async def test_stopping_spends_one_delivery_of_a_message_however_many_consumers_wait(broker: MemoryBroker) -> None:
    coordinator = MemoryBus(broker, "coordinator")
    earlier: list[int] = []

    async def hold(delivery: Delivery) -> None:
        earlier.append(delivery.earlier)
        await asyncio.Event().wait()

    for _ in range(5):
        await MemoryBus(broker, "clinic-1").subscribe("wr.site.clinic-1", hold, dead_key="dead.site-agent.clinic-1")
    await coordinator.publish(TO_CLINIC)
    await turns()

    broker.stop()
    broker.start()

    await turns()
    assert earlier == [0, 1]


async def test_handler_runs_in_the_context_of_its_subscriber(broker: MemoryBroker) -> None:
    who = ContextVar("who", default="nobody")
    seen: list[str] = []

    async def note(delivery: Delivery) -> None:
        seen.append(who.get())
        who.set("handler")

    clinic, coordinator = MemoryBus(broker, "clinic-1"), MemoryBus(broker, "coordinator")
    who.set("clinic-1")
    await clinic.subscribe("wr.site.clinic-1", note, dead_key="dead.site-agent.clinic-1")
    who.set("coordinator")
    for _ in range(2):
        await coordinator.publish(TO_CLINIC)

    await turns()
    assert seen == ["clinic-1", "clinic-1"]


async def test_what_is_routed_without_a_login_bears_no_name(broker: MemoryBroker) -> None:
    senders: list[str | None] = []

    async def note(delivery: Delivery) -> None:
        senders.append(delivery.packet.user_id)

    await MemoryBus(broker, "clinic-1").subscribe("wr.site.clinic-1", note, dead_key="dead.site-agent.clinic-1")
    broker.route(TO_CLINIC)

    await turns()
    assert senders == [None]
    with pytest.raises(UnroutableError, match="clinic-9"):
        broker.route(replace(TO_CLINIC, routing_key="cmd.site-agent.clinic-9.exp.start"))


async def test_dead_letters_can_be_looked_at_without_taking_them(broker: MemoryBroker) -> None:
    async def refuse(delivery: Delivery) -> None:
        raise DeadLetterError("invalid", "round: too small")

    await MemoryBus(broker, "clinic-1").subscribe("wr.site.clinic-1", refuse, dead_key="dead.site-agent.clinic-1")
    await MemoryBus(broker, "coordinator").publish(TO_CLINIC)
    await turns()

    for _ in range(2):
        (letter,) = broker.dead_letters()
        assert (letter.reason, letter.detail, letter.sender) == ("invalid", "round: too small", "coordinator")


async def test_dead_letter_whose_reader_always_fails_does_not_go_round_for_ever() -> None:
    broker = MemoryBroker(
        Topology(
            exchanges=("wr.dead",),
            queues=(Queue("wr.dead", delivery_limit=2),),
            bindings=(Binding("wr.dead", "wr.dead", "#"),),
            logins=(Login("undertaker", {}, ("wr.dead",)),),
        )
    )
    deliveries = 0

    async def fail(delivery: Delivery) -> None:
        nonlocal deliveries
        deliveries += 1
        raise RuntimeError("cannot read it")

    await MemoryBus(broker, "undertaker").subscribe("wr.dead", fail, dead_key="dead.undertaker.hub")
    broker.route(Packet("wr.dead", "dead.site-agent.clinic-1", b""))

    await turns()
    assert (deliveries, broker.depth("wr.dead")) == (3, 0)
    await broker.close()


async def test_same_calls_are_handled_in_the_same_order(broker: MemoryBroker) -> None:
    async def handled() -> list[tuple[int, bytes]]:
        broker = MemoryBroker(TOPOLOGY)
        order: list[tuple[int, bytes]] = []
        for number in range(3):

            async def note(delivery: Delivery, number: int = number) -> None:
                order.append((number, delivery.packet.body))
                await asyncio.sleep(0)

            await MemoryBus(broker, "aggregator").subscribe("wr.aggregator", note, dead_key="dead.aggregator.hub")
        coordinator = MemoryBus(broker, "coordinator")
        for number in range(30):
            await coordinator.publish(Packet("wr.commands", "cmd.aggregator.hub.exp.aggregate", b"%d" % number))
            if number % 7 == 0:
                broker.stop()
                broker.start()
        await turns(60)
        await broker.close()
        return order

    first = await handled()

    assert len(first) >= 30
    assert all([await handled() == first for _ in range(3)])


class Idle:
    """A consumer that never has room."""

    has_room = False

    def deliver(self, source: Source, tag: int, delivery: Delivery) -> None:
        raise AssertionError("delivered without room")


def test_stream_forgets_the_readers_that_left() -> None:
    stream = MemoryStream(Queue("log", kind="stream"), give_up=lambda packet, queue: None, keep=3)
    stream.put(SAID)
    reader, consumer = stream.source("first"), Idle()
    reader.attach(consumer)
    assert stream.readers == [reader]

    assert reader.detach(consumer) == 0

    assert stream.readers == []


@pytest.mark.parametrize("queue", ["wr.site.clinic-1", "wr.metrics"])
async def test_broker_holds_nothing_of_a_closed_connection(queue: str) -> None:
    everyone = tuple(replace(login, reads=(queue,)) for login in TOPOLOGY.logins)
    broker = MemoryBroker(replace(TOPOLOGY, logins=everyone))
    bus = MemoryBus(broker, "clinic-1")

    async def note(delivery: Delivery) -> None:
        pass

    remembered = weakref.ref(await bus.subscribe(queue, note, dead_key="dead.site-agent.clinic-1"))
    broker.disconnect("clinic-1")
    broker.reconnect("clinic-1")
    await bus.close()
    gc.collect()

    assert remembered() is None
