"""A real broker that dies, cuts off, forgets, fills up, and hears from those who mean ill."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from servers.proxy import Change, Proxy
from servers.rabbitmq import Broker, RabbitServer, password
from wardround.runtime.bus.dead_letters import DeadLetter
from wardround.runtime.bus.port import BusUnavailableError, Delivery, ForbiddenError, Packet, UnroutableError
from wardround.runtime.bus.rabbit import RabbitBus
from wardround.runtime.patience import patiently
from wardround.stack.ports import free_ports
from wardround_messages import names
from wardround_messages.topology import DELIVERY_LIMIT, topology

pytestmark = pytest.mark.slow

TOPOLOGY = topology(("clinic-1", "clinic-2"), ("researcher-a",))
QUEUE = "wr.site.clinic-1"
DEAD_KEY = "dead.site-agent.clinic-1"


@pytest.fixture
def server(rabbit_server: RabbitServer) -> RabbitServer:
    return rabbit_server


@pytest.fixture
async def broker(server: RabbitServer) -> AsyncIterator[Broker]:
    async with server.broker(TOPOLOGY) as broker:
        yield broker


@asynccontextmanager
async def line_to(broker: Broker, to_server: Change = bytes) -> AsyncIterator[Proxy]:
    proxy = Proxy(broker.server.port, to_server=to_server)
    await proxy.mend()
    try:
        yield proxy
    finally:
        await proxy.cut()


def command(number: object = 0, site: str = "clinic-1", verb: str = "task.start") -> Packet:
    return Packet(names.COMMANDS, f"cmd.site-agent.{site}.exp.{verb}", str(number).encode(), message_id=str(number))


def event(number: object = 0) -> Packet:
    return Packet(names.EVENTS, "evt.coordinator.hub.exp.step.opened", str(number).encode())


class Inbox:
    """A handler that keeps what it receives; `hold` keeps each in hand until it is cancelled."""

    def __init__(self, *, hold: bool = False) -> None:
        self.deliveries: list[Delivery] = []
        self.cancelled = 0
        self._hold = hold

    async def __call__(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        if self._hold:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise

    @property
    def bodies(self) -> list[str]:
        return [delivery.packet.body.decode() for delivery in self.deliveries]


async def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the condition may be anything
            await asyncio.sleep(0.005)


async def read(bus: RabbitBus, inbox: Inbox, queue: str = QUEUE, **options: Any) -> None:
    await bus.subscribe(queue, inbox, dead_key=DEAD_KEY, **options)


# --- the broker dies ---------------------------------------------------------------------------------------------


async def test_no_confirmed_message_is_lost_when_the_broker_is_killed_and_starts_again(broker: Broker) -> None:
    coordinator, site = await broker.connect("coordinator"), await broker.connect("clinic-1")
    inbox, calls, confirmed = Inbox(), list[str](), list[str]()
    site.on_connect(lambda: calls.append("site"))
    await read(site, inbox)

    async def publish(numbers: range) -> None:
        for number in numbers:
            packet = command(number)
            await patiently(lambda packet=packet: coordinator.publish(packet), longest=0.5)
            confirmed.append(str(number))

    publishing = [asyncio.create_task(publish(range(first, 3000, 20))) for first in range(20)]
    await until(lambda: len(confirmed) > 500)
    broker.server.kill()
    await until(lambda: not coordinator.connected and not site.connected)
    with pytest.raises(BusUnavailableError):
        await coordinator.publish(command())
    await broker.server.start()
    await asyncio.gather(*publishing)

    await until(lambda: set(inbox.bodies) >= set(confirmed))
    assert len(set(confirmed)) == 3000
    assert calls == ["site"]
    assert site.connected


async def test_stream_is_read_on_from_where_the_reader_was_when_the_broker_was_killed(broker: Broker) -> None:
    coordinator, metrics = await broker.connect("coordinator"), await broker.connect("metrics")
    researcher = await broker.connect("researcher-a")
    inbox, untouched = Inbox(), Inbox()
    await read(metrics, inbox, names.METRICS_STREAM)
    for number in range(50):
        await coordinator.publish(event(number))
    await until(lambda: len(inbox.bodies) == 50)
    await read(researcher, untouched, names.METRICS_STREAM)

    broker.server.kill()
    await broker.server.start()
    await until(lambda: coordinator.connected)
    for number in range(50, 60):
        await patiently(lambda number=number: coordinator.publish(event(number)), away=_awaking, longest=0.5)

    await until(lambda: len(inbox.bodies) >= 60 and "59" in untouched.bodies)
    assert inbox.bodies == [str(number) for number in range(60)]
    assert untouched.bodies[-10:] == inbox.bodies[-10:]


def _awaking(error: BaseException) -> str | None:
    """A broker that has just started lets clients in a moment before it has its streams again."""
    return "the broker awakes" if isinstance(error, UnroutableError | BusUnavailableError) else None


async def test_broker_that_is_away_at_the_start_is_said_to_be_so_once_and_can_be_waited_for() -> None:
    (port,) = free_ports(1)

    async def connect() -> RabbitBus:
        return await RabbitBus.connect(f"amqp://127.0.0.1:{port}", login="clinic-1", password="secret")

    with pytest.raises(BusUnavailableError, match="cannot be reached"):
        await connect()


async def test_client_that_waits_connects_when_the_line_is_there(broker: Broker) -> None:
    async with line_to(broker) as line:
        await line.cut()
        waiting = asyncio.create_task(patiently(lambda: broker.connect("clinic-1", port=line.port), longest=0.5))
        await asyncio.sleep(0.5)
        assert not waiting.done()

        await line.mend()

        assert (await waiting).connected


async def test_closing_while_the_broker_is_away_leaves_nothing_behind(broker: Broker) -> None:
    async with line_to(broker) as line:
        before = asyncio.all_tasks()
        bus = await broker.connect("clinic-1", port=line.port)
        await read(bus, Inbox())
        await line.cut()
        await until(lambda: not bus.connected)

        await bus.close()

        assert asyncio.all_tasks() <= before
        assert not bus.connected


async def test_draining_lets_what_is_in_hand_be_handled_and_takes_nothing_more(broker: Broker) -> None:
    coordinator, site = await broker.connect("coordinator"), await broker.connect("clinic-1")
    inbox, let_go = Inbox(), asyncio.Event()

    async def handle(delivery: Delivery) -> None:
        await inbox(delivery)
        await let_go.wait()

    await site.subscribe(QUEUE, handle, dead_key=DEAD_KEY, prefetch=2)
    for number in range(5):
        await coordinator.publish(command(number))
    await until(lambda: len(inbox.bodies) == 2)

    draining = asyncio.create_task(site.drain(within=10))
    await asyncio.sleep(0.2)
    assert not draining.done()
    let_go.set()
    await draining
    await site.close()

    assert inbox.bodies == ["0", "1"]
    assert broker.depth(QUEUE) == 3


async def test_draining_ends_in_time_though_a_handler_does_not(broker: Broker) -> None:
    coordinator, site, inbox = await broker.connect("coordinator"), await broker.connect("clinic-1"), Inbox(hold=True)
    await read(site, inbox)
    await coordinator.publish(command())
    await until(lambda: inbox.bodies == ["0"])

    async with asyncio.timeout(5):
        await site.drain(within=0.2)

    assert inbox.cancelled == 0
    await site.close()
    assert inbox.cancelled == 1
    assert broker.depth(QUEUE) == 1


# --- it cuts off -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("purpose", ["publishes", "consumes"])
async def test_connection_that_the_broker_closes_is_made_again(broker: Broker, purpose: str) -> None:
    coordinator, site = await broker.connect("coordinator"), await broker.connect("clinic-1")
    inbox, calls = Inbox(), list[str]()
    site.on_connect(lambda: calls.append("back"))
    await read(site, inbox)

    broker.close_connections(f"clinic-1 {purpose}")

    await until(lambda: calls == ["back"])
    assert site.connected
    await coordinator.publish(command(1))
    await until(lambda: inbox.bodies == ["1"])
    await site.publish(Packet(names.EVENTS, "evt.site-agent.clinic-1.none.site.seen", b"{}"))


async def test_queue_that_is_deleted_is_read_again_once_it_is_back(broker: Broker) -> None:
    coordinator, site = await broker.connect("coordinator"), await broker.connect("clinic-1")
    inbox, calls = Inbox(hold=True), list[str]()
    site.on_connect(lambda: calls.append("back"))
    await read(site, inbox, prefetch=1)
    await coordinator.publish(command(1))
    await until(lambda: inbox.bodies == ["1"])

    broker.delete_queue(QUEUE)

    await until(lambda: inbox.cancelled == 1)
    with pytest.raises(UnroutableError):
        await coordinator.publish(command(2))
    assert site.connected
    assert calls == []
    broker.load()

    await until(lambda: calls == ["back"])
    await coordinator.publish(command(3))
    await until(lambda: inbox.bodies == ["1", "3"])


async def test_queue_that_does_not_exist_yet_can_be_waited_for(server: RabbitServer) -> None:
    async with server.broker(topology(("clinic-1",), ())) as broker:
        broker.delete_queue(QUEUE)

        bus, inbox = await broker.connect("clinic-1"), Inbox()
        with pytest.raises(BusUnavailableError, match=r"has no queue 'wr\.site\.clinic-1'"):
            await read(bus, inbox)

        reading = asyncio.create_task(patiently(lambda: read(bus, inbox), longest=0.2))
        broker.load()

        await reading
        await (await broker.connect("coordinator")).publish(command(1))
        await until(lambda: inbox.bodies == ["1"])


async def test_broker_that_was_wiped_and_holds_the_topology_anew_is_worked_with_on(broker: Broker) -> None:
    coordinator, metrics = await broker.connect("coordinator"), await broker.connect("metrics")
    site, inbox, events, calls = await broker.connect("clinic-1"), Inbox(), Inbox(), list[str]()
    site.on_connect(lambda: calls.append("back"))
    await read(site, inbox)
    await read(metrics, events, names.METRICS_STREAM)
    for number in range(20):
        await coordinator.publish(event(number))
    await until(lambda: len(events.bodies) == 20)

    broker.wipe()
    await until(lambda: not any(bus.connected for bus in (coordinator, metrics, site)))
    broker.load()
    await until(lambda: all(bus.connected for bus in (coordinator, metrics, site)))
    await coordinator.publish(event("new"))
    await coordinator.publish(command("new"))

    await until(lambda: inbox.bodies == ["new"] and events.bodies[20:] == ["new"])
    assert calls == ["back"]
    assert events.deliveries[-1].offset == 0


async def test_line_that_swallows_everything_is_an_outage_after_the_timeout(broker: Broker) -> None:
    async with line_to(broker) as line:
        coordinator = await broker.connect("coordinator", port=line.port, publish_timeout=0.3)
        await coordinator.publish(command(1))
        line.stalled = True
        with pytest.raises(BusUnavailableError, match=r"did not confirm within 0\.3 s"):
            await coordinator.publish(command(2))

        line.stalled = False

        await patiently(lambda: coordinator.publish(command(3)), longest=0.2)
        inbox = Inbox()
        await read(await broker.connect("clinic-1"), inbox)
        await until(lambda: {"1", "3"} <= set(inbox.bodies))


# --- it refuses, or is full --------------------------------------------------------------------------------------


async def test_refused_and_unroutable_packets_disturb_none_of_those_published_with_them(broker: Broker) -> None:
    coordinator, site = await broker.connect("coordinator"), await broker.connect("clinic-1")
    inbox = Inbox()
    await read(site, inbox)
    refused, unroutable = (
        Packet(names.COMMANDS, "cmd.coordinator.hub.exp.experiment.start", b""),
        command(0, "clinic-9"),
    )

    outcomes = await asyncio.gather(
        *(
            coordinator.publish(refused if number % 10 == 3 else unroutable if number % 10 == 7 else command(number))
            for number in range(300)
        ),
        return_exceptions=True,
    )

    kinds = [type(outcome) for outcome in outcomes]
    assert {kinds[number] for number in range(300) if number % 10 == 3} == {ForbiddenError}
    assert {kinds[number] for number in range(300) if number % 10 == 7} == {UnroutableError}
    assert {kinds[number] for number in range(300) if number % 10 not in (3, 7)} == {type(None)}
    expected = {str(number) for number in range(300) if number % 10 not in (3, 7)}
    await until(lambda: set(inbox.bodies) == expected)
    assert len(inbox.bodies) == len(expected)


async def test_same_unroutable_message_published_twice_at_once_fails_twice(broker: Broker) -> None:
    coordinator = await broker.connect("coordinator")

    outcomes = await asyncio.gather(
        *(coordinator.publish(command(0, "clinic-9")) for _ in range(20)), return_exceptions=True
    )

    assert {type(outcome) for outcome in outcomes} == {UnroutableError}


async def test_message_is_refused_that_is_larger_than_any_of_ours(broker: Broker) -> None:
    site = await broker.connect("clinic-1")

    with pytest.raises(ForbiddenError, match="message size"):
        await site.publish(Packet(names.EVENTS, "evt.site-agent.clinic-1.none.site.seen", bytes(300_000)))


async def publish_for_ever(bus: RabbitBus, what: str) -> None:
    async with asyncio.timeout(10):
        while True:
            await bus.publish(command(what))


async def test_during_an_alarm_publishing_is_an_outage_and_reading_goes_on(broker: Broker) -> None:
    coordinator = await broker.connect("coordinator", publish_timeout=0.5)
    site, inbox = await broker.connect("clinic-1"), Inbox()
    await coordinator.publish(command("before"))
    with broker.alarm():
        with pytest.raises(BusUnavailableError):
            await publish_for_ever(coordinator, "just before")  # an alarm takes a moment to reach the connections
        for _ in range(3):
            with pytest.raises(BusUnavailableError):
                await coordinator.publish(command("during"))
        await read(site, inbox)
        await until(lambda: "before" in inbox.bodies)
        assert site.connected

    await patiently(lambda: coordinator.publish(command("after")), longest=0.2)
    await until(lambda: "after" in inbox.bodies)
    assert "during" not in inbox.bodies


async def test_full_queue_is_an_outage_for_who_publishes_to_it_and_for_nobody_else(broker: Broker) -> None:
    coordinator = await broker.connect("coordinator")
    broker.bound_queue(QUEUE, 2)

    async def fill() -> None:
        for number in range(10):
            await coordinator.publish(command(number))
            await asyncio.sleep(0.02)

    with pytest.raises(BusUnavailableError, match="full"):
        await fill()

    await coordinator.publish(command(0, "clinic-2"))
    inbox = Inbox()
    await read(await broker.connect("clinic-1"), inbox)
    await patiently(lambda: coordinator.publish(command("again")), longest=0.2)
    await until(lambda: "again" in inbox.bodies)


async def test_message_that_fails_again_and_again_ends_among_the_dead_letters(broker: Broker) -> None:
    coordinator, site = await broker.connect("coordinator"), await broker.connect("clinic-1")
    tries, good = list[int](), Inbox()

    async def handle(delivery: Delivery) -> None:
        if delivery.packet.body != b"poison":
            return await good(delivery)
        tries.append(delivery.earlier)
        raise RuntimeError("out of order")

    await site.subscribe(QUEUE, handle, dead_key=DEAD_KEY, prefetch=4)
    for number in ("1", "poison", "2"):
        await coordinator.publish(command(number))

    letters = Inbox()
    await read(await broker.connect("operator"), letters, names.DEAD_QUEUE)
    await until(lambda: len(letters.deliveries) == 1, 60)
    assert tries == list(range(DELIVERY_LIMIT + 1))
    assert good.bodies == ["1", "2"]
    letter = DeadLetter.read(letters.deliveries[0].packet)
    assert (letter.reason, letter.queue, letter.sender) == ("delivery_limit", QUEUE, "coordinator")
    assert (letter.exchange, letter.routing_key) == (names.COMMANDS, command().routing_key)
    assert broker.depth(QUEUE) == 0


# --- those who mean ill ------------------------------------------------------------------------------------------

MARK = b"unreadable-property"
UNREADABLE = {
    "no text": MARK.replace(b"u", b"\xff"),
    "a broken character": MARK.replace(b"ea", b"\xc3("),
}


@pytest.mark.parametrize("unreadable", UNREADABLE.values(), ids=list(UNREADABLE))
@pytest.mark.parametrize("where", ["id", "name of a header"])
async def test_unreadable_properties_cut_off_no_reader_of_a_queue_or_a_stream(
    broker: Broker, where: str, unreadable: bytes
) -> None:
    coordinator, metrics = await broker.connect("coordinator"), await broker.connect("metrics")
    seen, events = Inbox(), Inbox()
    await read(coordinator, seen, names.COORDINATOR_QUEUE)
    await read(metrics, events, names.METRICS_STREAM)
    seen_event = Packet(names.EVENTS, "evt.site-agent.clinic-1.none.site.seen", b"bad")
    text = MARK.decode()
    bad = Packet(
        seen_event.exchange,
        seen_event.routing_key,
        b"bad",
        headers={text: "x"} if where == "name of a header" else {},
        message_id=text if where == "id" else None,
    )

    async with line_to(broker, lambda data: data.replace(MARK, unreadable)) as line:
        site = await broker.connect("clinic-1", port=line.port)
        await site.publish(bad)
        await site.publish(Packet(seen_event.exchange, seen_event.routing_key, b"good"))

    await until(lambda: seen.bodies == events.bodies == ["bad", "good"])
    assert seen.deliveries[1].packet.user_id == "clinic-1"
    assert coordinator.connected
    assert metrics.connected


async def test_count_of_deliveries_is_the_brokers_and_not_the_senders(broker: Broker) -> None:
    coordinator, site, inbox = await broker.connect("coordinator"), await broker.connect("clinic-1"), Inbox()
    await read(site, inbox)

    await coordinator.publish(
        Packet(names.COMMANDS, command().routing_key, b"1", headers={"x-delivery-count": 19, "x-stream-offset": 7})
    )

    await until(lambda: inbox.bodies == ["1"])
    assert (inbox.deliveries[0].earlier, inbox.deliveries[0].offset) == (0, None)


# --- TLS ---------------------------------------------------------------------------------------------------------


async def test_broker_is_spoken_to_over_tls_where_its_certificate_is_trusted(broker: Broker) -> None:
    address = f"amqps://localhost:{broker.server.tls_port}/{broker.vhost}"

    bus = await RabbitBus.connect(address, login="clinic-1", password=password("clinic-1"), ca=broker.server.ca)

    await bus.publish(Packet(names.EVENTS, "evt.site-agent.clinic-1.none.site.seen", b"{}"))
    await bus.close()
    assert broker.depth(names.COORDINATOR_QUEUE) == 1


@pytest.mark.parametrize(
    ("host", "own_ca"), [("127.0.0.1", True), ("localhost", False)], ids=["other name", "other CA"]
)
async def test_broker_whose_certificate_is_not_trusted_is_told_nothing(broker: Broker, host: str, own_ca: bool) -> None:
    address = f"amqps://{host}:{broker.server.tls_port}/{broker.vhost}"
    ca = broker.server.ca if own_ca else None

    with pytest.raises(BusUnavailableError, match=r"certificate .* is not accepted"):
        await RabbitBus.connect(address, login="clinic-1", password=password("clinic-1"), ca=ca)


async def test_password_stands_in_no_error_and_in_no_list_of_connections(broker: Broker) -> None:
    bus = await broker.connect("clinic-1")
    with pytest.raises(ForbiddenError) as refused:
        await broker.connect("clinic-1", secret="hunter2hunter2")

    assert "hunter2" not in str(refused.value)
    assert password("clinic-1") not in json.dumps([repr(bus._endpoint), str(refused.value)])
