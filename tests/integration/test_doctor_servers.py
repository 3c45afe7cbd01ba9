"""What the doctor proves at a real broker and a real store without leaving a trace, and what it finds where they lack
something."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from servers.minio import MinioServer
from servers.rabbitmq import Broker, RabbitServer, password
from wardround.client.doctor import announcing
from wardround.client.doctor.announcing import look_at_announcements
from wardround.client.doctor.at_broker import AtBroker
from wardround.client.doctor.broker import Looker
from wardround.client.doctor.rights import rights_to_try
from wardround.client.doctor.site import look_at_queue
from wardround.client.doctor.store import look_at_login, look_at_rights, rights_of_person, rights_of_site
from wardround.hub.store_admin import StoreLogin, apply_logins
from wardround.hub.store_policies import operator, researcher, site_policy
from wardround.runtime.bus.port import Delivery, Packet
from wardround.runtime.bus.rabbit_link import Endpoint
from wardround.runtime.hub_settings import Hub
from wardround.runtime.secrets import Secret, StoreKey
from wardround.stack.ports import LOOPBACK
from wardround_messages import names
from wardround_messages.topology import topology

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

TOPOLOGY = topology(("clinic-1", "clinic-2"), ("researcher-a",))
QUEUES = [queue.name for queue in TOPOLOGY.queues]
NOWHERE = "doctor-0c0ffee0"


@pytest.fixture
async def broker(rabbit_server: RabbitServer) -> AsyncIterator[Broker]:
    async with rabbit_server.broker(TOPOLOGY) as broker:
        yield broker


def endpoint(broker: Broker, login: str) -> Endpoint:
    return Endpoint.parse(
        f"amqp://{LOOPBACK}:{broker.server.port}/{broker.vhost}", login=login, password=password(login)
    )


def at(broker: Broker, login: str, folder: Path, closing: AsyncExitStack, *, site: str | None = None) -> AtBroker:
    (folder / "secret").write_text(password(login))
    (folder / "secret").chmod(0o600)
    secret = Secret(file=str(folder / "secret"))  # type: ignore[arg-type]
    hub = Hub.model_construct(
        broker=f"amqp://{LOOPBACK}:{broker.server.port}/{broker.vhost}",
        store="http://127.0.0.1:1",
        ca=None,
        username=login,
        password=secret,
        store_key=StoreKey.model_construct(id=login, file=secret.file),
    )
    return AtBroker(hub, closing, site=site)


# --- broker ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("login", TOPOLOGY.logins, ids=lambda login: login.name)
async def test_rights_of_every_login_are_found_as_the_topology_gives_them(broker: Broker, login: object) -> None:
    name = login.name  # type: ignore[attr-defined]
    site = name if name.startswith("clinic") else "clinic-1"
    async with await Looker.open(endpoint(broker, name)) as looker:
        found = await looker.rights(login, rights_to_try(site))  # type: ignore[arg-type]
    assert [each.right.words for each in found if each.may != each.should] == []
    assert any(each.may for each in found)


async def test_proving_rights_publishes_nothing_and_takes_nobodys_turn(broker: Broker) -> None:
    """A clinic's agent that is on duty goes on receiving, and no queue holds a message more or less."""
    heard: asyncio.Queue[Delivery] = asyncio.Queue()
    agent = await broker.connect("clinic-1")
    await agent.subscribe(names.site_queue("clinic-1"), heard.put, dead_key="dead.site-agent.clinic-1")
    for login in ("clinic-1", "operator", "coordinator", "researcher-a"):
        async with await Looker.open(endpoint(broker, login)) as looker:
            for right in rights_to_try("clinic-1"):
                await looker.may(right)
            assert {queue: (await looker.queue(queue)).waiting for queue in QUEUES} == dict.fromkeys(QUEUES, 0)  # type: ignore[union-attr]

    coordinator = await broker.connect("coordinator")
    await coordinator.publish(Packet(names.COMMANDS, "cmd.site-agent.clinic-1.exp.start", b"{}", message_id="1"))

    async with asyncio.timeout(10):
        assert (await heard.get()).packet.body == b"{}"


async def test_queue_that_nobody_reads_is_told_with_what_waits(broker: Broker, tmp_path: Path) -> None:
    bus = await broker.connect("researcher-a")
    await bus.publish(Packet(names.COMMANDS, "cmd.coordinator.hub.exp.pause", b"{}", message_id="1"))
    async with AsyncExitStack() as closing:
        looking = at(broker, "researcher-a", tmp_path, closing)
        assert (await looking.look_at_login()).state == "ok"
        nobody = await looking.look_at_readers(names.COORDINATOR_QUEUE, "coordinator", "start it")
        absent = await looking.look_at_readers("wr.absent", "coordinator", "start it")
    assert (nobody.state, nobody.to_do) == ("wrong", "start it")
    assert nobody.what == "no coordinator is connected; 1 messages wait for it"
    assert absent.what == "the broker has no queue wr.absent"


async def test_clinic_whose_agent_is_away_or_whom_the_hub_does_not_know(broker: Broker, tmp_path: Path) -> None:
    async with AsyncExitStack() as closing:
        looking = at(broker, "clinic-1", tmp_path, closing, site="clinic-1")
        assert (await looking.look_at_login()).state == "ok"
        away = await look_at_queue(looking, "clinic-1")
        broker.delete_queue(names.site_queue("clinic-1"))
        unknown = await look_at_queue(looking, "clinic-1")
    assert (away.state, unknown.state) == ("warning", "wrong")
    assert "no agent is connected" in away.what
    assert "wardround hub add-site clinic-1" in unknown.to_do


async def test_login_without_its_rights_lacks_them(broker: Broker, tmp_path: Path) -> None:
    """The broker still holds what an earlier roster said: there `clinic-2` was nobody."""
    broker.server.ask(
        f'rabbit_auth_backend_internal:set_permissions(<<"clinic-2">>, <<"{broker.vhost}">>, '
        '<<"^$">>, <<"^$">>, <<"^$">>, <<"test">>).'
    )
    async with AsyncExitStack() as closing:
        looking = at(broker, "clinic-2", tmp_path, closing, site="clinic-2")
        assert (await looking.look_at_login()).state == "ok"
        rights = await looking.look_at_rights()
    assert rights.state == "wrong"
    assert rights.what == "'clinic-2' may not speak as this clinic, park this clinic's dead letters and read its queue"


# --- store -----------------------------------------------------------------------------------------------------------

POLICIES = {"clinic-1": site_policy("clinic-1"), "researcher-a": researcher(), "operator": operator()}


@pytest.mark.parametrize("login", POLICIES)
async def test_rights_at_the_store_are_found_as_the_policies_give_them(minio_server: MinioServer, login: str) -> None:
    await apply_logins(minio_server.administrator, {login: StoreLogin(f"secret of {login}", POLICIES[login])})
    tried = rights_of_site(login) if login.startswith("clinic") else rights_of_person()
    store = minio_server.store(login, f"secret of {login}")
    assert (await look_at_login(store, login)).state == "ok"
    assert (await look_at_rights(store, login, tried, nowhere=NOWHERE)).state == "ok"
    await store.close()
    root = minio_server.store()
    assert await root.buckets() == ()
    await root.close()


async def test_login_that_may_do_everything_is_a_warning(minio_server: MinioServer) -> None:
    root = minio_server.store()
    verdict = await look_at_rights(root, "root", rights_of_site("clinic-1"), nowhere=NOWHERE)
    assert verdict.state == "warning"
    assert "write the journal, list objects, which it should not" in verdict.what
    assert await root.buckets() == ()
    await root.close()


async def test_store_that_does_not_know_the_login(minio_server: MinioServer) -> None:
    store = minio_server.store("clinic-8", "whatever it is")
    verdict = await look_at_login(store, "clinic-8")
    assert verdict.state == "wrong"
    assert "does not know the login 'clinic-8'" in verdict.what
    assert "whatever" not in verdict.what
    await store.close()


# --- announcements ---------------------------------------------------------------------------------------------------


async def test_store_that_announces_elsewhere_is_found(
    broker: Broker, minio_server: MinioServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcing, "COMES_WITHIN", 1.0)
    store = minio_server.store()  # which tells a server of the tests, and no broker
    verdict = await look_at_announcements(endpoint(broker, "coordinator"), store)
    assert verdict.state == "wrong"
    assert "not announced within 1 s" in verdict.what
    assert await store.list("wr-hub") == ()
    await store.close()


async def test_store_that_has_nowhere_to_announce_to_is_found(broker: Broker, minio_server: MinioServer) -> None:
    store = minio_server.store(queue="arn:minio:sqs::HUB:amqp")
    verdict = await look_at_announcements(endpoint(broker, "coordinator"), store)
    assert verdict.state == "wrong"
    assert "no queue of that name to announce to" in verdict.what
    await store.close()


async def test_broker_with_earlier_definitions_is_passed_over(broker: Broker, minio_server: MinioServer) -> None:
    store = minio_server.store()
    verdict = await look_at_announcements(endpoint(broker, "metrics"), store)  # a login without the right to look
    assert verdict.state == "skipped"
    assert "import_definitions" in verdict.what
    await store.close()
