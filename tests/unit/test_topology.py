"""What the broker holds: who may say what, and where it arrives."""

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from wardround.runtime.bus.memory import MemoryBroker, MemoryBus
from wardround.runtime.bus.messaging import Messenger
from wardround.runtime.bus.port import Delivery, ForbiddenError, Packet
from wardround_messages import names
from wardround_messages.commands import (
    AbortExperiment,
    AggregateStep,
    CancelTask,
    PauseExperiment,
    ReadmitSite,
)
from wardround_messages.events import CommandRefused, EntryRecorded, SiteSeen, TaskAccepted
from wardround_messages.journal import ExperimentPaused
from wardround_messages.messages import Message
from wardround_messages.names import Task
from wardround_messages.topology import ANNOUNCED_ROUTING_KEY, OPERATOR, topology

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SITES = ("clinic-1", "clinic-2")
TOPOLOGY = topology(SITES, ("researcher-a",))
PAUSED = EntryRecorded(
    experiment="exp", number=1, at=NOON, fact="experiment.paused", body=ExperimentPaused(code="asked"), claim=None
)
SEEN = SiteSeen(site="clinic-1", agent_version="1", reads=(), trainers=(), datasets=(), slots=1, free=1, tasks=())
ACCEPTED = TaskAccepted(site="clinic-1", experiment="exp", round=1, task=Task.TRAIN, attempt=1)
CANCEL = CancelTask(experiment="exp", site="clinic-2", round=1, task=Task.TRAIN, attempt=1, reason="stale_round")
AGGREGATE = AggregateStep(experiment="exp", round=1, task=Task.TRAIN, closing=4, closing_sha256="0" * 64)
REFUSED = CommandRefused(experiment="exp", command="1", command_sha256="0" * 64, code="unknown", reason="")

SAID: list[tuple[Message, str, set[str]]] = [
    (PauseExperiment(experiment="exp"), "researcher-a", {"wr.coordinator"}),
    (AbortExperiment(experiment="exp"), "researcher-a", {"wr.coordinator"}),
    (ReadmitSite(experiment="exp", site="clinic-1"), "researcher-a", {"wr.coordinator"}),
    (CANCEL, "coordinator", {"wr.site.clinic-2"}),
    (AGGREGATE, "coordinator", {"wr.aggregator"}),
    (PAUSED, "coordinator", {"wr.metrics"}),
    (REFUSED, "coordinator", {"wr.metrics"}),
    (SEEN, "clinic-1", {"wr.coordinator", "wr.metrics"}),
    (ACCEPTED, "clinic-1", {"wr.metrics"}),
]
LOGINS = [login.name for login in TOPOLOGY.logins]
OTHERS = [login for login in LOGINS if login != OPERATOR]  # it may write everything: dead letters are sent again


@pytest.fixture
async def broker() -> AsyncIterator[MemoryBroker]:
    broker = MemoryBroker(TOPOLOGY)
    yield broker
    await broker.close()


def messenger(broker: MemoryBroker, login: str) -> Messenger:
    return Messenger(MemoryBus(broker, login), service="any", origin=login, clock=lambda: NOON)


def filled(broker: MemoryBroker) -> set[str]:
    return {queue.name for queue in TOPOLOGY.queues if broker.depth(queue.name)}


@pytest.mark.parametrize(("message", "login", "queues"), SAID, ids=[type(message).__name__ for message, *_ in SAID])
async def test_message_reaches_the_queues_of_those_who_wait_for_it(
    broker: MemoryBroker, message: Message, login: str, queues: set[str]
) -> None:
    await messenger(broker, login).send(message)

    assert filled(broker) == queues


@pytest.mark.parametrize(("message", "login"), [(message, login) for message, login, _ in SAID])
async def test_nobody_else_may_say_it(broker: MemoryBroker, message: Message, login: str) -> None:
    for other in OTHERS:
        if other != login:
            with pytest.raises(ForbiddenError):
                await messenger(broker, other).send(message)

    assert filled(broker) == set()


async def test_only_the_store_may_announce_objects_and_the_coordinator_hears_of_it(broker: MemoryBroker) -> None:
    announcement = Packet(names.OBJECTSTORE, ANNOUNCED_ROUTING_KEY, b"{}")
    for login in OTHERS:
        if login != "store":
            with pytest.raises(ForbiddenError):
                await MemoryBus(broker, login).publish(announcement)

    await MemoryBus(broker, "store").publish(announcement)

    assert filled(broker) == {names.COORDINATOR_QUEUE}


def test_login_reads_its_own_queues_only() -> None:
    assert {login.name: login.reads for login in TOPOLOGY.logins} == {
        "coordinator": ("wr.coordinator",),
        "aggregator": ("wr.aggregator",),
        "metrics": ("wr.metrics",),
        "store": (),
        "operator": ("wr.dead",),
        "clinic-1": ("wr.site.clinic-1",),
        "clinic-2": ("wr.site.clinic-2",),
        "researcher-a": ("wr.metrics",),
    }


@pytest.mark.parametrize(
    ("login", "key"),
    [
        ("clinic-1", "dead.site-agent.clinic-1"),
        ("coordinator", "dead.coordinator.hub"),
        ("aggregator", "dead.aggregator.hub"),
        ("metrics", "dead.metrics.hub"),
    ],
)
async def test_consumer_parks_under_its_own_name_only(broker: MemoryBroker, login: str, key: str) -> None:
    for other in OTHERS:
        if other != login:
            with pytest.raises(ForbiddenError):
                await MemoryBus(broker, other).publish(Packet(names.DEAD, key, b""))

    await MemoryBus(broker, login).publish(Packet(names.DEAD, key, b""))

    assert filled(broker) == {names.DEAD_QUEUE}


async def test_operator_sends_a_dead_letter_again_under_the_name_of_its_sender(broker: MemoryBroker) -> None:
    event = messenger(broker, "clinic-1").packet(ACCEPTED)

    await MemoryBus(broker, OPERATOR).publish(event)

    assert filled(broker) == {names.METRICS_STREAM}
    for login in LOGINS:
        if login not in (OPERATOR, event.user_id):
            with pytest.raises(ForbiddenError):
                await MemoryBus(broker, login).publish(event)


async def test_dead_letters_outlive_any_number_of_listings(broker: MemoryBroker) -> None:
    await MemoryBus(broker, "metrics").publish(Packet(names.DEAD, "dead.metrics.hub", b"{}"))
    operator = MemoryBus(broker, OPERATOR)

    for listing in range(500):
        seen: asyncio.Queue[Delivery] = asyncio.Queue()

        async def look(delivery: Delivery, seen: asyncio.Queue[Delivery] = seen) -> None:
            seen.put_nowait(delivery)
            await asyncio.Event().wait()

        subscription = await operator.subscribe(names.DEAD_QUEUE, look, dead_key="dead.operator.hub")
        assert (await seen.get()).earlier == listing
        await subscription.close()

    assert filled(broker) == {names.DEAD_QUEUE}


@pytest.mark.parametrize("site", ["clinic-1", "c", "a-b-c"])
def test_rights_of_a_site_end_at_its_name(site: str) -> None:
    login = next(login for login in topology((site, f"{site}-2"), ()).logins if login.name == site)
    may_write = {exchange: re.compile(pattern) for exchange, pattern in login.writes.items()}

    assert may_write[names.EVENTS].search(f"evt.site-agent.{site}.none.site.seen")
    for key in (
        f"evt.site-agent.{site}-2.none.site.seen",
        f"evt.site-agent.{site}",
        f"x.evt.site-agent.{site}.none.site.seen",
        f"evt.coordinator.{site}.exp.step.opened",
        "evt.site-agent..none.site.seen",
    ):
        assert not may_write[names.EVENTS].search(key)
    for key in (f"dead.site-agent.{site}-2", f"dead.site-agent.{site}.x", f"x.dead.site-agent.{site}"):
        assert not may_write[names.DEAD].search(key)


@pytest.mark.parametrize(
    ("sites", "researchers"),
    [
        (("clinic-1", "clinic-1"), ()),
        (("same",), ("same",)),
        (("hub",), ()),
        (("coordinator",), ()),
        ((), ("store",)),
        ((), ("operator",)),
        (("Clinic",), ()),
        (("clinic.1",), ()),
        (("clinic-1\n",), ()),
        (("*",), ()),
        (("c" * 25,), ()),
        (("",), ()),
    ],
)
def test_roster_with_an_impossible_name_is_refused(sites: tuple[str, ...], researchers: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="login"):
        topology(sites, researchers)


async def test_hundred_sites_receive_each_what_is_theirs() -> None:
    sites = tuple(f"clinic-{number}" for number in range(100))
    broker = MemoryBroker(topology(sites, ()))
    coordinator = messenger(broker, "coordinator")

    for site in sites:
        await coordinator.send(CANCEL.model_copy(update={"site": site}))
        await asyncio.sleep(0)

    assert {broker.depth(names.site_queue(site)) for site in sites} == {1}
