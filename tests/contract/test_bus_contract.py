"""What every adapter of the bus port promises."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

import pytest
from bus_fixtures import LIMIT, BusWorld, Inbox, memory_world, rabbit_world, wait_for

from wardround.runtime.bus.port import (
    Bus,
    BusUnavailableError,
    DeadLetterError,
    Delivery,
    ForbiddenError,
    Offset,
    Packet,
    Subscription,
    UnroutableError,
)

DEAD_KEY = "dead.worker.hub"


@pytest.fixture(params=["memory", pytest.param("rabbit", marks=pytest.mark.slow)])
def opening(request: pytest.FixtureRequest) -> AbstractAsyncContextManager[BusWorld]:
    return memory_world() if request.param == "memory" else rabbit_world(request.getfixturevalue("rabbit_server"))


@pytest.fixture
async def world(opening: AbstractAsyncContextManager[BusWorld]) -> AsyncIterator[BusWorld]:
    async with opening as world:
        yield world


@pytest.fixture
async def writer(world: BusWorld) -> Bus:
    return await world.connect("writer")


@pytest.fixture
async def worker(world: BusWorld) -> Bus:
    return await world.connect("worker")


@pytest.fixture
async def spare(world: BusWorld) -> Bus:
    return await world.connect("spare")


@pytest.fixture
async def dead(world: BusWorld) -> Inbox:
    """The dead letters, as they come."""
    inbox = Inbox()
    undertaker = await world.connect("undertaker")
    await undertaker.subscribe("wr.dead", inbox, dead_key="dead.undertaker.hub")
    return inbox


def command(routing_key: str, body: bytes = b"{}") -> Packet:
    return Packet("wr.commands", routing_key, body)


async def say(bus: Bus, routing_key: str, *bodies: str) -> None:
    for body in bodies:
        await bus.publish(command(routing_key, body.encode()))


async def tell(bus: Bus, *bodies: str) -> None:
    for body in bodies:
        await bus.publish(Packet("wr.events", "evt.said", body.encode()))


async def read(bus: Bus, inbox: Inbox, offset: Offset | None = None) -> Subscription:
    return await bus.subscribe("log", inbox, dead_key=DEAD_KEY, prefetch=1, offset=offset)


async def until_empty(world: BusWorld, queue: str) -> None:
    async with asyncio.timeout(10):
        while await world.depth(queue) > 0:  # noqa: ASYNC110 - a broker can only be asked
            await asyncio.sleep(0.001)


class Holding(Inbox):
    """A handler that keeps each message in hand until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = asyncio.Event()
        self.cancelled: list[bytes] = []

    async def __call__(self, delivery: Delivery) -> None:
        await super().__call__(delivery)
        try:
            await self.let_go.wait()
        except asyncio.CancelledError:
            self.cancelled.append(delivery.packet.body)
            raise


class Failing(Inbox):
    """A handler that fails on one body, always or a number of times."""

    def __init__(self, poison: bytes, times: int | None = None, error: BaseException | None = None) -> None:
        super().__init__()
        self._poison = poison
        self._left = times
        self._error = error or RuntimeError("out of order")

    async def __call__(self, delivery: Delivery) -> None:
        await super().__call__(delivery)
        if delivery.packet.body == self._poison and self._left != 0:
            self._left = None if self._left is None else self._left - 1
            raise self._error


# --- routing -----------------------------------------------------------------------------------------------------


async def test_packet_arrives_as_it_was_sent_under_the_name_of_its_login(writer: Bus, worker: Bus) -> None:
    inbox = Inbox()
    await worker.subscribe("work", inbox, dead_key=DEAD_KEY)
    sent = Packet(
        "wr.commands",
        "cmd.work.a",
        b'{"text":"\xc3\xa4"}\x00',
        headers={"ce-id": "1", "ce-type": "t"},
        message_id="1",
        correlation_id="brain-tumour",
        content_type="application/json",
        content_encoding="identity",
    )

    await writer.publish(sent)

    await wait_for(lambda: len(inbox.deliveries) == 1)
    received = inbox.deliveries[0]
    assert received.earlier == 0
    assert received.packet.user_id == "writer"
    for name in ("exchange", "routing_key", "body", "message_id", "correlation_id", "content_type", "content_encoding"):
        assert getattr(received.packet, name) == getattr(sent, name)
    assert {"ce-id": "1", "ce-type": "t"}.items() <= received.packet.headers.items()


async def test_message_reaches_every_queue_bound_for_its_key_and_no_other(world: BusWorld, writer: Bus) -> None:
    await writer.publish(command("cmd.work.a.both"))

    assert [await world.depth(queue) for queue in ("work", "twice", "single")] == [1, 1, 0]


async def test_message_bound_twice_to_one_queue_is_delivered_once(world: BusWorld, writer: Bus) -> None:
    await writer.publish(command("cmd.twice.both"))

    assert await world.depth("twice") == 1


@pytest.mark.parametrize("routing_key", ["cmd.nowhere", "cmd.single", "cmd.single.a.b", "cmd."])
async def test_message_that_no_queue_is_bound_for_is_unroutable(writer: Bus, routing_key: str) -> None:
    with pytest.raises(UnroutableError):
        await writer.publish(command(routing_key))


async def test_messages_wait_in_order_for_a_consumer(writer: Bus, worker: Bus) -> None:
    await say(writer, "cmd.work.a", "1", "2", "3")
    inbox = Inbox()

    await worker.subscribe("work", inbox, dead_key=DEAD_KEY, prefetch=1)

    await wait_for(lambda: inbox.bodies == [b"1", b"2", b"3"])


# --- rights ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "packet",
    [
        Packet("wr.commands", "cm.work.a", b""),
        Packet("wr.commands", "x.cmd.work.a", b""),
        Packet("wr.commands", "", b""),
        Packet("wr.dead", DEAD_KEY, b""),
        Packet("wr.unheard-of", "cmd.work.a", b""),
        Packet("wr.commands", "cmd.work.a", b"", user_id="worker"),
    ],
    ids=["other key", "key within", "no key", "other exchange", "no such exchange", "other name"],
)
async def test_publishing_what_the_login_may_not_is_forbidden(world: BusWorld, writer: Bus, packet: Packet) -> None:
    with pytest.raises(ForbiddenError):
        await writer.publish(packet)

    assert await world.depth("work") == 0


@pytest.mark.parametrize("queue", ["work", "wr.dead", "unheard-of"])
async def test_reading_a_queue_without_the_right_is_forbidden(world: BusWorld, queue: str) -> None:
    reader = await world.connect("reader")

    with pytest.raises(ForbiddenError):
        await reader.subscribe(queue, Inbox(), dead_key=DEAD_KEY)


async def test_unknown_login_is_turned_away(world: BusWorld) -> None:
    with pytest.raises(ForbiddenError):
        await world.connect("stranger")


async def test_refused_packet_leaves_the_connection_as_it_was(writer: Bus, worker: Bus) -> None:
    inbox = Inbox()
    await worker.subscribe("work", inbox, dead_key=DEAD_KEY)

    with pytest.raises(ForbiddenError):
        await writer.publish(command("elsewhere"))
    with pytest.raises(UnroutableError):
        await writer.publish(command("cmd.nowhere"))
    with pytest.raises(ForbiddenError):
        await worker.publish(command("cmd.work.a"))
    with pytest.raises(ForbiddenError):
        await worker.subscribe("wr.dead", inbox, dead_key=DEAD_KEY)
    await say(writer, "cmd.work.a", "1")

    await wait_for(lambda: inbox.bodies == [b"1"])


# --- acknowledgement and redelivery ------------------------------------------------------------------------------


async def test_handler_that_returns_acknowledges(world: BusWorld, writer: Bus, worker: Bus) -> None:
    holding = Holding()
    await worker.subscribe("work", holding, dead_key=DEAD_KEY)
    await say(writer, "cmd.work.a", "1")
    await wait_for(lambda: holding.bodies == [b"1"])
    assert await world.depth("work") == 1

    holding.let_go.set()

    await until_empty(world, "work")


@pytest.mark.parametrize("error", [RuntimeError("out of order"), asyncio.CancelledError()], ids=["raised", "cancelled"])
async def test_failed_message_comes_again_before_later_ones(writer: Bus, worker: Bus, error: BaseException) -> None:
    failing = Failing(b"2", times=2, error=error)
    await say(writer, "cmd.work.a", "1", "2", "3")

    await worker.subscribe("work", failing, dead_key=DEAD_KEY, prefetch=1)

    await wait_for(lambda: failing.bodies == [b"1", b"2", b"2", b"2", b"3"])
    assert [delivery.earlier for delivery in failing.deliveries] == [0, 0, 1, 2, 0]


async def test_message_is_given_up_after_the_delivery_limit_and_its_neighbours_are_unharmed(
    world: BusWorld, writer: Bus, worker: Bus, dead: Inbox
) -> None:
    failing = Failing(b"poison")
    await worker.subscribe("work", failing, dead_key=DEAD_KEY, prefetch=2)

    await say(writer, "cmd.work.a", "before", "poison", "after")

    await wait_for(lambda: len(dead.deliveries) == 1)
    await until_empty(world, "work")
    assert failing.bodies.count(b"poison") == LIMIT + 1
    assert failing.bodies.count(b"before") == failing.bodies.count(b"after") == 1
    letter = dead.dead_letters[0]
    assert (letter.reason, letter.queue, letter.body) == ("delivery_limit", "work", b"poison")
    assert (letter.exchange, letter.routing_key, letter.sender) == ("wr.commands", "cmd.work.a", "writer")
    headers = dead.deliveries[0].packet.headers
    assert (headers["x-first-death-reason"], headers["x-first-death-queue"]) == ("delivery_limit", "work")


async def test_dead_letter_error_parks_a_copy_and_acknowledges(
    world: BusWorld, writer: Bus, worker: Bus, dead: Inbox
) -> None:
    failing = Failing(b"odd", error=DeadLetterError("not_json", "line 1"))
    await worker.subscribe("work", failing, dead_key=DEAD_KEY)
    odd = Packet("wr.commands", "cmd.work.a", b"odd", {"ce-id": "7"}, message_id="7", content_type="text/plain")

    await writer.publish(odd)
    await say(writer, "cmd.work.a", "good")

    await wait_for(lambda: len(dead.deliveries) == 1)
    await until_empty(world, "work")
    assert failing.bodies == [b"odd", b"good"]
    copy = dead.deliveries[0].packet
    assert (copy.exchange, copy.routing_key, copy.user_id) == ("wr.dead", DEAD_KEY, "worker")
    assert (copy.message_id, copy.content_type, copy.headers["ce-id"]) == ("7", "text/plain", "7")
    letter = dead.dead_letters[0]
    assert (letter.reason, letter.detail, letter.sender) == ("not_json", "line 1", "writer")
    assert (letter.queue, letter.exchange, letter.routing_key) == ("work", "wr.commands", "cmd.work.a")
    assert letter.sha256 == copy.headers["wr-sha256"] == hashlib.sha256(b"odd").hexdigest()


async def test_sender_cannot_write_the_verdict_of_a_dead_letter(writer: Bus, worker: Bus, dead: Inbox) -> None:
    forged = {"wr-reason": "harmless", "wr-sender": "worker", "x-first-death-reason": "expired", "wr-note": "x"}
    await worker.subscribe("work", Failing(b"odd", error=DeadLetterError("invalid")), dead_key=DEAD_KEY)

    await writer.publish(Packet("wr.commands", "cmd.work.a", b"odd", forged))

    await wait_for(lambda: len(dead.deliveries) == 1)
    assert (dead.dead_letters[0].reason, dead.dead_letters[0].sender) == ("invalid", "writer")
    assert "wr-note" not in dead.deliveries[0].packet.headers


async def test_message_that_cannot_be_parked_is_not_lost(writer: Bus, worker: Bus, dead: Inbox) -> None:
    await worker.subscribe("work", Failing(b"odd", error=DeadLetterError("invalid")), dead_key="dead.spare.hub")

    await say(writer, "cmd.work.a", "odd")

    await wait_for(lambda: len(dead.deliveries) == 1)
    assert (dead.dead_letters[0].reason, dead.dead_letters[0].body) == ("delivery_limit", b"odd")


async def test_handler_may_publish(writer: Bus, worker: Bus) -> None:
    inbox = Inbox()

    async def pass_on(delivery: Delivery) -> None:
        await writer.publish(command("cmd.single.a", delivery.packet.body))

    await worker.subscribe("work", pass_on, dead_key=DEAD_KEY)
    await worker.subscribe("single", inbox, dead_key=DEAD_KEY)

    await say(writer, "cmd.work.a", "1")

    await wait_for(lambda: inbox.bodies == [b"1"])


# --- several at once ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefetch", [1, 3])
async def test_no_more_than_prefetch_messages_are_in_hand_at_once(
    world: BusWorld, writer: Bus, worker: Bus, prefetch: int
) -> None:
    holding = Holding()
    await say(writer, "cmd.work.a", *"12345")

    await worker.subscribe("work", holding, dead_key=DEAD_KEY, prefetch=prefetch)

    await wait_for(lambda: len(holding.bodies) == prefetch)
    await world.settle()
    assert len(holding.bodies) == prefetch
    holding.let_go.set()
    await until_empty(world, "work")
    assert holding.bodies == [b"1", b"2", b"3", b"4", b"5"]


async def test_prefetch_below_one_is_refused(worker: Bus) -> None:
    with pytest.raises(ValueError, match="prefetch"):
        await worker.subscribe("work", Inbox(), dead_key=DEAD_KEY, prefetch=0)


async def test_competing_consumers_share_a_queue(world: BusWorld, writer: Bus, worker: Bus, spare: Bus) -> None:
    first, second = Holding(), Holding()
    await worker.subscribe("work", first, dead_key=DEAD_KEY, prefetch=2)
    await spare.subscribe("work", second, dead_key="dead.spare.hub", prefetch=2)

    await say(writer, "cmd.work.a", "1", "2", "3", "4")

    await wait_for(lambda: len(first.bodies) == len(second.bodies) == 2)
    first.let_go.set()
    second.let_go.set()
    await until_empty(world, "work")
    assert sorted(first.bodies + second.bodies) == [b"1", b"2", b"3", b"4"]


async def test_busy_consumer_does_not_hold_up_an_idle_one(writer: Bus, worker: Bus, spare: Bus) -> None:
    busy, idle = Holding(), Inbox()
    await worker.subscribe("work", busy, dead_key=DEAD_KEY, prefetch=1)
    await say(writer, "cmd.work.a", "1")
    await wait_for(lambda: busy.bodies == [b"1"])
    await spare.subscribe("work", idle, dead_key="dead.spare.hub", prefetch=1)

    await say(writer, "cmd.work.a", "2", "3", "4")

    await wait_for(lambda: idle.bodies == [b"2", b"3", b"4"])


async def test_single_active_consumer_receives_all_until_it_goes(writer: Bus, worker: Bus, spare: Bus) -> None:
    active, waiting = Inbox(), Inbox()
    subscription = await worker.subscribe("single", active, dead_key=DEAD_KEY, prefetch=1)
    await spare.subscribe("single", waiting, dead_key="dead.spare.hub", prefetch=1)

    await say(writer, "cmd.single.a", "1", "2")
    await wait_for(lambda: active.bodies == [b"1", b"2"])
    assert waiting.bodies == []

    await subscription.close()
    await say(writer, "cmd.single.a", "3")
    await wait_for(lambda: waiting.bodies == [b"3"])
    assert active.bodies == [b"1", b"2"]


async def test_single_active_consumer_that_is_busy_is_not_passed_over(
    world: BusWorld, writer: Bus, worker: Bus, spare: Bus
) -> None:
    active, waiting = Holding(), Inbox()
    await worker.subscribe("single", active, dead_key=DEAD_KEY, prefetch=1)
    await spare.subscribe("single", waiting, dead_key="dead.spare.hub", prefetch=1)

    await say(writer, "cmd.single.a", "1", "2")

    await wait_for(lambda: active.bodies == [b"1"])
    await world.settle()
    assert waiting.bodies == []


async def test_next_consumer_takes_over_what_a_lost_one_had_in_hand(
    world: BusWorld, writer: Bus, worker: Bus, spare: Bus
) -> None:
    active, waiting = Holding(), Inbox()
    await worker.subscribe("single", active, dead_key=DEAD_KEY, prefetch=2)
    await spare.subscribe("single", waiting, dead_key="dead.spare.hub", prefetch=1)
    await say(writer, "cmd.single.a", "1", "2", "3")
    await wait_for(lambda: active.bodies == [b"1", b"2"])

    await world.disconnect("worker")

    await wait_for(lambda: waiting.bodies == [b"1", b"2", b"3"])
    assert [delivery.earlier for delivery in waiting.deliveries] == [1, 1, 0]


# --- closing -----------------------------------------------------------------------------------------------------


async def test_closing_a_subscription_gives_back_what_was_not_handled(
    world: BusWorld, writer: Bus, worker: Bus
) -> None:
    holding = Holding()
    subscription = await worker.subscribe("work", holding, dead_key=DEAD_KEY, prefetch=2)
    await say(writer, "cmd.work.a", "1", "2", "3")
    await wait_for(lambda: holding.bodies == [b"1", b"2"])

    await subscription.close()

    assert holding.cancelled == [b"1", b"2"]
    assert await world.depth("work") == 3
    inbox = Inbox()
    await worker.subscribe("work", inbox, dead_key=DEAD_KEY, prefetch=1)
    await wait_for(lambda: inbox.bodies == [b"1", b"2", b"3"])
    assert [delivery.earlier for delivery in inbox.deliveries] == [1, 1, 0]


async def test_closing_twice_does_nothing_more(world: BusWorld, writer: Bus, worker: Bus) -> None:
    subscription = await worker.subscribe("work", Inbox(), dead_key=DEAD_KEY)

    for _ in range(2):
        await subscription.close()
    for _ in range(2):
        await worker.close()

    await say(writer, "cmd.work.a", "1")
    assert await world.depth("work") == 1


async def test_closed_connection_neither_sends_nor_receives(world: BusWorld, writer: Bus, worker: Bus) -> None:
    await worker.subscribe("work", Inbox(), dead_key=DEAD_KEY)

    await worker.close()

    with pytest.raises(BusUnavailableError):
        await worker.publish(Packet("wr.dead", DEAD_KEY, b""))
    with pytest.raises(BusUnavailableError):
        await worker.subscribe("work", Inbox(), dead_key=DEAD_KEY)


async def test_closing_a_connection_leaves_no_task_behind(world: BusWorld, writer: Bus) -> None:
    await say(writer, "cmd.work.a", "1", "2")
    await tell(writer, "3")
    before = asyncio.all_tasks()
    bus = await world.connect("worker")
    holding = Holding()
    await bus.subscribe("work", holding, dead_key=DEAD_KEY)
    await bus.subscribe("log", holding, dead_key=DEAD_KEY, offset="first")
    await wait_for(lambda: len(holding.bodies) == 3)

    await bus.close()

    assert sorted(holding.cancelled) == [b"1", b"2", b"3"]
    assert asyncio.all_tasks() <= before


async def test_handler_may_close_its_own_subscription(world: BusWorld, writer: Bus, worker: Bus) -> None:
    closed = asyncio.Event()

    async def close(delivery: Delivery) -> None:
        await subscription.close()
        closed.set()

    subscription = await worker.subscribe("work", close, dead_key=DEAD_KEY, prefetch=1)
    await say(writer, "cmd.work.a", "1", "2")

    await asyncio.wait_for(closed.wait(), 10)
    await world.settle()
    assert await world.depth("work") == 2


# --- streams -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        (None, ["3"]),
        ("next", ["3"]),
        ("first", ["0", "1", "2", "3"]),
        (1, ["1", "2", "3"]),
        (0, ["0", "1", "2", "3"]),
        (99, ["3"]),
    ],
)
async def test_stream_is_read_from_the_offset_asked_for(
    world: BusWorld, writer: Bus, worker: Bus, offset: Offset | None, expected: list[str]
) -> None:
    await tell(writer, "0", "1", "2")
    inbox = Inbox()

    await read(worker, inbox, offset)
    await tell(writer, "3")

    await wait_for(lambda: inbox.bodies[-1:] == [b"3"])
    assert inbox.bodies == [body.encode() for body in expected]
    assert [delivery.offset for delivery in inbox.deliveries] == [int(body) for body in expected]


async def test_stream_read_from_last_brings_the_last_message_and_what_follows(writer: Bus, worker: Bus) -> None:
    await tell(writer, "0", "1", "2")
    inbox = Inbox()

    await read(worker, inbox, "last")
    await tell(writer, "3")

    # A broker may start earlier, at the chunk that holds the last message.
    await wait_for(lambda: inbox.bodies[-2:] == [b"2", b"3"])


async def test_each_reader_of_a_stream_has_a_place_of_its_own(
    world: BusWorld, writer: Bus, worker: Bus, spare: Bus
) -> None:
    slow, quick, later = Holding(), Inbox(), Inbox()
    await read(worker, slow, "first")
    await read(spare, quick, "first")

    await tell(writer, "0", "1")

    await wait_for(lambda: quick.bodies == [b"0", b"1"])
    assert slow.bodies == [b"0"]
    await read(spare, later, "first")
    await wait_for(lambda: later.bodies == [b"0", b"1"])
    slow.let_go.set()
    await wait_for(lambda: slow.bodies == [b"0", b"1"])


async def test_stream_message_that_fails_comes_again_and_is_given_up_after_the_limit(
    writer: Bus, worker: Bus, dead: Inbox
) -> None:
    failing = Failing(b"poison")
    await read(worker, failing)

    await tell(writer, "poison", "good")

    await wait_for(lambda: failing.bodies[-1:] == [b"good"])
    assert failing.bodies == [b"poison"] * (LIMIT + 1) + [b"good"]
    assert [delivery.earlier for delivery in failing.deliveries] == [*range(LIMIT + 1), 0]
    await wait_for(lambda: [letter.reason for letter in dead.dead_letters] == ["delivery_limit"])


async def test_dead_letter_of_a_stream_is_parked_and_the_reader_goes_on(writer: Bus, worker: Bus, dead: Inbox) -> None:
    failing = Failing(b"odd", error=DeadLetterError("invalid"))
    await read(worker, failing)

    await tell(writer, "odd", "good")

    await wait_for(lambda: failing.bodies == [b"odd", b"good"])
    await wait_for(lambda: [(letter.reason, letter.queue) for letter in dead.dead_letters] == [("invalid", "log")])


async def test_reader_without_the_right_to_park_goes_on_all_the_same(world: BusWorld, writer: Bus) -> None:
    reader = await world.connect("reader")
    failing = Failing(b"odd", error=DeadLetterError("invalid"))
    await read(reader, failing)

    await tell(writer, "odd", "good")

    await wait_for(lambda: failing.bodies[-1:] == [b"good"])


async def test_stream_reader_skips_nothing_over_a_lost_connection(world: BusWorld, writer: Bus, worker: Bus) -> None:
    holding = Holding()
    await worker.subscribe("log", holding, dead_key=DEAD_KEY, prefetch=2)
    await tell(writer, "0", "1")
    await wait_for(lambda: holding.bodies == [b"0", b"1"])

    await world.disconnect("worker")
    await tell(writer, "2", "3")
    holding.let_go.set()
    await world.reconnect("worker")

    await wait_for(lambda: holding.bodies == [b"0", b"1", b"0", b"1", b"2", b"3"])


# --- a lost connection -------------------------------------------------------------------------------------------


async def test_without_a_connection_publishing_and_subscribing_say_so(world: BusWorld, writer: Bus) -> None:
    await world.disconnect("writer")

    with pytest.raises(BusUnavailableError):
        await writer.publish(command("cmd.work.a"))
    with pytest.raises(BusUnavailableError):
        await writer.subscribe("work", Inbox(), dead_key=DEAD_KEY)

    await world.reconnect("writer")
    await writer.publish(command("cmd.work.a"))
    assert await world.depth("work") == 1


async def test_lost_connection_cancels_handlers_and_their_messages_come_again(
    world: BusWorld, writer: Bus, worker: Bus
) -> None:
    holding = Holding()
    await worker.subscribe("work", holding, dead_key=DEAD_KEY, prefetch=2)
    await say(writer, "cmd.work.a", "1", "2", "3")
    await wait_for(lambda: holding.bodies == [b"1", b"2"])

    await world.disconnect("worker")
    await wait_for(lambda: holding.cancelled == [b"1", b"2"])
    assert await world.depth("work") == 3
    holding.let_go.set()
    await world.reconnect("worker")

    await wait_for(lambda: holding.bodies == [b"1", b"2", b"1", b"2", b"3"])
    assert [delivery.earlier for delivery in holding.deliveries] == [0, 0, 1, 1, 0]


async def test_handler_that_outlives_its_connection_acknowledges_nothing(
    world: BusWorld, writer: Bus, worker: Bus
) -> None:
    stubborn = Holding()
    finished = asyncio.Event()

    async def ignore_the_cut(delivery: Delivery) -> None:
        try:
            await stubborn(delivery)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            finished.set()

    await worker.subscribe("work", ignore_the_cut, dead_key=DEAD_KEY, prefetch=1)
    await say(writer, "cmd.work.a", "1")
    await wait_for(lambda: stubborn.bodies == [b"1"])

    await world.disconnect("worker")
    await world.reconnect("worker")

    await wait_for(lambda: finished.is_set() and stubborn.bodies == [b"1", b"1"])
    await world.settle()
    assert await world.depth("work") == 1


async def test_those_who_ask_are_called_back_after_every_later_reconnection(world: BusWorld, worker: Bus) -> None:
    calls: list[str] = []
    worker.on_connect(lambda: calls.append("back"))
    await world.settle()
    assert calls == []

    for times in (1, 2):
        await world.disconnect("worker")
        await world.reconnect("worker")
        await wait_for(lambda times=times: len(calls) == times)


async def test_one_lost_connection_leaves_the_others_alone(world: BusWorld, writer: Bus, spare: Bus) -> None:
    inbox = Inbox()
    await spare.subscribe("work", inbox, dead_key="dead.spare.hub")

    await world.disconnect("worker")
    await say(writer, "cmd.work.a", "1")

    await wait_for(lambda: inbox.bodies == [b"1"])


async def test_messages_and_subscriptions_outlive_a_restart_of_the_broker(
    world: BusWorld, writer: Bus, worker: Bus
) -> None:
    calls: list[str] = []
    writer.on_connect(lambda: calls.append("writer"))
    inbox, events = Holding(), Inbox()
    await worker.subscribe("work", inbox, dead_key=DEAD_KEY, prefetch=1)
    await tell(writer, "0")
    await say(writer, "cmd.work.a", "1", "2")
    await wait_for(lambda: inbox.bodies == [b"1"])

    await world.stop()
    with pytest.raises(BusUnavailableError):
        await writer.publish(command("cmd.work.a"))
    inbox.let_go.set()
    await world.start()

    await wait_for(lambda: inbox.bodies == [b"1", b"1", b"2"])
    await wait_for(lambda: calls == ["writer"])
    await read(worker, events, "first")
    await wait_for(lambda: events.bodies == [b"0"])


# --- draining --------------------------------------------------------------------------------------------------------


async def test_draining_receives_nothing_more_and_waits_for_what_is_in_hand(
    world: BusWorld, writer: Bus, worker: Bus, spare: Bus
) -> None:
    inbox, after = Holding(), Inbox()
    await worker.subscribe("work", inbox, dead_key=DEAD_KEY, prefetch=1)
    await say(writer, "cmd.work.a", "1", "2")
    await wait_for(lambda: inbox.bodies == [b"1"])

    draining = asyncio.ensure_future(worker.drain(within=10))
    await world.settle()
    assert not draining.done()
    inbox.let_go.set()
    await draining

    await world.settle()
    assert (inbox.bodies, inbox.cancelled) == ([b"1"], [])
    await worker.close()
    await spare.subscribe("work", after, dead_key="dead.spare.hub")
    await wait_for(lambda: after.bodies == [b"2"])


async def test_draining_ends_in_its_time_and_what_was_not_handled_is_delivered_again(
    world: BusWorld, writer: Bus, worker: Bus, spare: Bus
) -> None:
    inbox, after = Holding(), Inbox()
    await worker.subscribe("work", inbox, dead_key=DEAD_KEY)
    await say(writer, "cmd.work.a", "1")
    await wait_for(lambda: inbox.bodies == [b"1"])

    await worker.drain(within=0.1)
    await worker.close()

    await spare.subscribe("work", after, dead_key="dead.spare.hub")
    await wait_for(lambda: after.bodies == [b"1"])


async def test_draining_what_has_nothing_in_hand_returns_at_once(worker: Bus) -> None:
    await worker.subscribe("work", Inbox(), dead_key=DEAD_KEY)
    async with asyncio.timeout(5):
        await worker.drain(within=60)
