"""Who may do what at a real broker that holds the real topology: the second lock is tried without the first."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime

import aiormq
import pytest
from aiormq.abc import AbstractChannel
from aiormq.exceptions import ChannelAccessRefused

from servers.rabbitmq import Broker, RabbitServer, password
from wardround.runtime.bus.messaging import Messenger
from wardround.runtime.bus.port import Delivery, ForbiddenError, Packet
from wardround_messages import names
from wardround_messages.commands import AbortExperiment, AggregateStep, CancelTask, PauseExperiment
from wardround_messages.events import EntryRecorded, SiteSeen, TaskAccepted
from wardround_messages.journal import ExperimentPaused
from wardround_messages.messages import Message
from wardround_messages.names import Task
from wardround_messages.topology import ANNOUNCED_ROUTING_KEY, LOOK_PREFIX, topology

pytestmark = pytest.mark.slow

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
TOPOLOGY = topology(("clinic-1", "clinic-2"), ("researcher-a",))
LOGINS = [login.name for login in TOPOLOGY.logins]
QUEUES = [queue.name for queue in TOPOLOGY.queues]
READS = {login.name: login.reads for login in TOPOLOGY.logins}

SEEN = SiteSeen(site="clinic-1", agent_version="1", reads=(), trainers=(), datasets=(), slots=1, free=1, tasks=())
ACCEPTED = TaskAccepted(site="clinic-1", experiment="exp", round=1, task=Task.TRAIN, attempt=1)
CANCEL = CancelTask(experiment="exp", site="clinic-2", round=1, task=Task.TRAIN, attempt=1, reason="stale_round")
AGGREGATE = AggregateStep(experiment="exp", round=1, task=Task.TRAIN, closing=4, closing_sha256="0" * 64)
PAUSED = EntryRecorded(
    experiment="exp", number=1, at=NOON, fact="experiment.paused", body=ExperimentPaused(code="asked"), claim=None
)


@pytest.fixture(scope="module")
def server(rabbit_server: RabbitServer) -> RabbitServer:
    return rabbit_server


@pytest.fixture
async def broker(server: RabbitServer) -> AsyncIterator[Broker]:
    async with server.broker(TOPOLOGY) as broker:
        yield broker


@pytest.fixture
async def channel_of(broker: Broker) -> AsyncIterator[Callable[[str], Awaitable[AbstractChannel]]]:
    """A login's bare channel, that asks the broker for whatever it likes."""
    connections: list[aiormq.Connection] = []

    async def channel_of(login: str) -> AbstractChannel:
        secret = password(login).replace(" ", "%20")
        connection = aiormq.Connection(f"amqp://{login}:{secret}@127.0.0.1:{broker.server.port}/{broker.vhost}")
        await connection.connect()
        connections.append(connection)
        return await connection.channel()

    yield channel_of
    for connection in connections:
        await connection.close()


def packet(exchange: str, routing_key: str, user_id: str | None = None) -> Packet:
    return Packet(exchange, routing_key, b"{}", user_id=user_id)


# --- what each must be able to do --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "login", "reader", "queue"),
    [
        (PauseExperiment(experiment="exp"), "researcher-a", "coordinator", "wr.coordinator"),
        (AbortExperiment(experiment="exp"), "researcher-a", "coordinator", "wr.coordinator"),
        (SEEN, "clinic-1", "coordinator", "wr.coordinator"),
        (CANCEL, "coordinator", "clinic-2", "wr.site.clinic-2"),
        (AGGREGATE, "coordinator", "aggregator", "wr.aggregator"),
        (ACCEPTED, "clinic-1", "metrics", "wr.metrics"),
        (PAUSED, "coordinator", "researcher-a", "wr.metrics"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else None,
)
async def test_message_goes_from_who_says_it_to_who_waits_for_it(
    broker: Broker, message: Message, login: str, reader: str, queue: str
) -> None:
    heard: asyncio.Queue[object] = asyncio.Queue()
    listener = Messenger(await broker.connect(reader), service="any", origin=reader, clock=lambda: NOON)
    await listener.listen(queue, heard.put)

    await Messenger(await broker.connect(login), service="any", origin=login, clock=lambda: NOON).send(message)

    async with asyncio.timeout(10):
        received = await heard.get()
    assert (received.message, received.login) == (message, login)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("login", "key"),
    [
        ("clinic-1", "dead.site-agent.clinic-1"),
        ("coordinator", "dead.coordinator.hub"),
        ("aggregator", "dead.aggregator.hub"),
        ("metrics", "dead.metrics.hub"),
    ],
)
async def test_consumer_parks_under_its_own_name(broker: Broker, login: str, key: str) -> None:
    await (await broker.connect(login)).publish(packet(names.DEAD, key))

    assert broker.depth(names.DEAD_QUEUE) == 1


async def test_store_declares_its_exchange_and_announces_an_object(
    broker: Broker, channel_of: Callable[[str], Awaitable[AbstractChannel]]
) -> None:
    store = await channel_of("store")

    await store.exchange_declare(names.OBJECTSTORE, exchange_type="topic", durable=True)
    await store.basic_publish(b"{}", exchange=names.OBJECTSTORE, routing_key=ANNOUNCED_ROUTING_KEY, mandatory=True)

    assert broker.depth(names.COORDINATOR_QUEUE) == 1


async def test_coordinator_sees_announcements_in_a_queue_of_its_own_that_takes_none_from_the_other(
    broker: Broker, channel_of: Callable[[str], Awaitable[AbstractChannel]]
) -> None:
    looking, store, queue = await channel_of("coordinator"), await channel_of("store"), f"{LOOK_PREFIX}7d1e-4a"
    await looking.queue_declare(queue, exclusive=True, auto_delete=True)
    await looking.queue_bind(queue, names.OBJECTSTORE, ANNOUNCED_ROUTING_KEY)

    await store.basic_publish(b"{}", exchange=names.OBJECTSTORE, routing_key=ANNOUNCED_ROUTING_KEY, mandatory=True)

    assert (await looking.basic_get(queue)).body == b"{}"
    assert broker.depth(names.COORDINATOR_QUEUE) == 1


@pytest.mark.parametrize("exchange", [names.COMMANDS, names.EVENTS, names.DEAD])
async def test_coordinator_sees_nothing_but_announcements_in_a_queue_of_its_own(
    channel_of: Callable[[str], Awaitable[AbstractChannel]], exchange: str
) -> None:
    looking, queue = await channel_of("coordinator"), f"{LOOK_PREFIX}7d1e-4a"
    await looking.queue_declare(queue, exclusive=True, auto_delete=True)

    with pytest.raises(ChannelAccessRefused):
        await looking.queue_bind(queue, exchange, ANNOUNCED_ROUTING_KEY)


async def test_operator_reads_the_dead_letters_and_sends_one_again_under_its_senders_name(broker: Broker) -> None:
    await (await broker.connect("metrics")).publish(packet(names.DEAD, "dead.metrics.hub"))
    operator = await broker.connect("operator")
    letters: asyncio.Queue[Delivery] = asyncio.Queue()
    await operator.subscribe(names.DEAD_QUEUE, letters.put, dead_key="dead.operator.hub")

    await operator.publish(packet(names.EVENTS, "evt.site-agent.clinic-1.none.site.seen", user_id="clinic-1"))

    async with asyncio.timeout(10):
        assert (await letters.get()).packet.user_id == "metrics"
    heard: asyncio.Queue[Delivery] = asyncio.Queue()
    await (await broker.connect("coordinator")).subscribe("wr.coordinator", heard.put, dead_key="dead.coordinator.hub")
    async with asyncio.timeout(10):
        assert (await heard.get()).packet.user_id == "clinic-1"


async def test_dead_letters_outlive_hundreds_of_listings(broker: Broker) -> None:
    parker = await broker.connect("metrics")
    for _ in range(3):
        await parker.publish(packet(names.DEAD, "dead.metrics.hub"))
    operator = await broker.connect("operator")

    for listing in range(200):
        seen: list[int] = []
        all_seen = asyncio.Event()

        async def look(delivery: Delivery, seen: list[int] = seen, all_seen: asyncio.Event = all_seen) -> None:
            seen.append(delivery.earlier)
            if len(seen) == 3:
                all_seen.set()
            await asyncio.Event().wait()

        subscription = await operator.subscribe(names.DEAD_QUEUE, look, dead_key="dead.operator.hub")
        async with asyncio.timeout(10):
            await all_seen.wait()
        await subscription.close()
        assert seen == [listing] * 3

    assert broker.depth(names.DEAD_QUEUE) == 3


# --- what nobody may do ------------------------------------------------------------------------------------------

SEEN_BY_1 = ("wr.events", "evt.site-agent.clinic-1.none.site.seen")
START_AT_1 = ("wr.commands", "cmd.site-agent.clinic-1.exp.task.start")
PAUSE = ("wr.commands", "cmd.coordinator.hub.exp.experiment.pause")
AGGREGATE_KEY = ("wr.commands", "cmd.aggregator.hub.exp.step.aggregate")
OPENED = ("wr.events", "evt.coordinator.hub.exp.step.opened")
ANNOUNCED = (names.OBJECTSTORE, ANNOUNCED_ROUTING_KEY)
PARKED = (names.DEAD, "dead.site-agent.clinic-1")

MAY = {
    SEEN_BY_1: {"clinic-1"},
    START_AT_1: {"coordinator"},
    PAUSE: {"researcher-a"},
    AGGREGATE_KEY: {"coordinator"},
    OPENED: {"coordinator"},
    ANNOUNCED: {"store"},
    PARKED: {"clinic-1"},
    ("", "wr.coordinator"): set(),  # the default exchange reaches every queue by its name
    ("amq.topic", "evt.site-agent.clinic-1.none.site.seen"): set(),
}


@pytest.mark.parametrize("login", [login for login in LOGINS if login != "operator"])
async def test_login_says_nothing_that_is_not_its_own_to_say(broker: Broker, login: str) -> None:
    bus = await broker.connect(login)

    for (exchange, routing_key), may in MAY.items():
        if login not in may:
            with pytest.raises(ForbiddenError):
                await bus.publish(packet(exchange, routing_key))

    assert [broker.depth(queue) for queue in QUEUES if queue != names.METRICS_STREAM] == [0] * (len(QUEUES) - 1)


@pytest.mark.parametrize("key", ["evt.site-agent.clinic-1", "evt.site-agent.clinic-11.none.site.seen", "x.evt", ""])
async def test_rights_of_a_site_end_at_its_name(broker: Broker, key: str) -> None:
    site = await broker.connect("clinic-1")

    with pytest.raises(ForbiddenError):
        await site.publish(packet(names.EVENTS, key))


@pytest.mark.parametrize("login", [login for login in LOGINS if login != "operator"])
async def test_login_speaks_under_no_other_name(broker: Broker, login: str) -> None:
    bus = await broker.connect(login)
    (exchange, routing_key) = next((said for said, may in MAY.items() if login in may), PARKED)
    for other in LOGINS:
        if other != login:
            with pytest.raises(ForbiddenError):
                await bus.publish(packet(exchange, routing_key, user_id=other))


@pytest.mark.parametrize("login", LOGINS)
async def test_login_reads_no_queue_but_its_own(broker: Broker, login: str) -> None:
    async def ignore(delivery: Delivery) -> None: ...

    bus = await broker.connect(login)

    for queue in QUEUES:
        if queue not in READS[login]:
            with pytest.raises(ForbiddenError):
                await bus.subscribe(queue, ignore, dead_key="dead.x")


Attempt = Callable[[AbstractChannel], Awaitable[object]]
ATTEMPTS: dict[str, Attempt] = {
    "declare a queue": lambda channel: channel.queue_declare("wr.site.clinic-3", durable=True),
    "declare a queue of the broker's naming": lambda channel: channel.queue_declare("", exclusive=True),
    "delete a queue": lambda channel: channel.queue_delete("wr.coordinator"),
    "delete its own queue": lambda channel: channel.queue_delete("wr.site.clinic-1"),
    "declare an exchange": lambda channel: channel.exchange_declare("wr.other", exchange_type="topic"),
    "delete an exchange": lambda channel: channel.exchange_delete("wr.events"),
    "bind its queue": lambda channel: channel.queue_bind("wr.site.clinic-1", "wr.events", "#"),
    "bind the dead letters": lambda channel: channel.queue_bind("wr.dead", "wr.commands", "#"),
    "bind an exchange": lambda channel: channel.exchange_bind("wr.dead", "wr.events", "#"),
    "unbind a queue": lambda channel: channel.queue_unbind("wr.coordinator", "wr.commands", "cmd.coordinator.hub.#"),
    "empty another's queue": lambda channel: channel.queue_purge("wr.site.clinic-2"),
    "take from another's queue": lambda channel: channel.basic_get("wr.aggregator"),
}


@pytest.mark.parametrize("attempt", ATTEMPTS.values(), ids=list(ATTEMPTS))
@pytest.mark.parametrize("login", ["clinic-1", "researcher-a", "metrics", "store"])
async def test_login_changes_nothing_in_the_broker(
    channel_of: Callable[[str], Awaitable[AbstractChannel]], login: str, attempt: Attempt
) -> None:
    channel = await channel_of(login)

    with pytest.raises(ChannelAccessRefused):
        await attempt(channel)


async def test_store_changes_no_exchange_but_its_own(
    channel_of: Callable[[str], Awaitable[AbstractChannel]],
) -> None:
    for exchange in ("wr.commands", "wr.events", "wr.dead"):
        with pytest.raises(ChannelAccessRefused):
            await (await channel_of("store")).exchange_declare(exchange, exchange_type="topic", durable=True)


@pytest.mark.parametrize(("login", "secret"), [("clinic-1", "wrong"), ("guest", "guest"), ("clinic-3", "")])
async def test_unknown_login_or_wrong_password_is_turned_away(broker: Broker, login: str, secret: str) -> None:
    with pytest.raises(ForbiddenError, match=f"refuses the login '{login}'"):
        await broker.connect(login, secret=secret)
