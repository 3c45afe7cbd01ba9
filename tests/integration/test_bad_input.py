"""What nobody should send, sent to a federation at work: it is parked or ignored, and all goes on."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from servers.stack import Stack
from simulation.whole import counting
from wardround.runtime.bus.messaging import Messenger
from wardround.runtime.bus.port import ForbiddenError, Packet
from wardround.runtime.bus.rabbit import RabbitBus
from wardround.runtime.clock import wall_clock
from wardround_messages.commands import PauseExperiment, StartExperiment, StartTask
from wardround_messages.events import TaskAnswered
from wardround_messages.names import HUB, OBJECTSTORE, Task
from wardround_messages.parts import ObjectRef
from wardround_messages.topology import ANNOUNCED_ROUTING_KEY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

START = StartExperiment(manifest=counting(id="never"))


@asynccontextmanager
async def as_login(stack: Stack, login: str) -> AsyncIterator[RabbitBus]:
    secret = stack.folder / "hub" / "secrets" / f"{login}.broker"
    address = f"amqp://127.0.0.1:{stack.plan.ports['broker']}"
    bus = await RabbitBus.connect(address, login=login, password=secret.read_text())
    try:
        yield bus
    finally:
        await bus.close()


def good(bus: RabbitBus, message: object = START) -> Packet:
    return Messenger(bus, service="client", origin=HUB, clock=wall_clock).packet(message)  # type: ignore[arg-type]


def bodies(whole: bytes) -> dict[str, bytes]:
    """Bodies that are no command, by what is wrong with them."""
    text = whole.decode()
    return {
        "empty": b"",
        "not UTF-8": b"\xff\xfe" + whole,
        "byte order mark": b"\xef\xbb\xbf" + whole,
        "something behind it": whole + b"{}",
        "nested": b"[" * 100_000,
        "too large": b" " * 70_000,
        "another field": whole[:-1] + b',"extra":1}',
        "a key twice": whole[:-1] + b',"manifest":{}}',
        "NaN": text.replace('"count":3', '"count":NaN').encode(),
        "infinite": text.replace('"count":3', '"count":1e999').encode(),
        "true for a number": text.replace('"count":3', '"count":true').encode(),
        "text for a number": text.replace('"count":3', '"count":"3"').encode(),
        "a float for a number": text.replace('"count":3', '"count":3.0').encode(),
        "2 to the 80th": text.replace('"count":3', f'"count":{2**80}').encode(),
        "5,000 digits": text.replace('"count":3', f'"count":{"9" * 5000}').encode(),
        "an id that climbs": text.replace('"id":"never"', '"id":"../never"').encode(),
        "an id with a NUL": text.replace('"id":"never"', '"id":"never\\u0000"').encode(),
        "an id with a line": text.replace('"id":"never"', '"id":"never\\n"').encode(),
        "full-width letters": text.replace('"id":"never"', '"id":"\\uff4eever"').encode(),
    }


async def dead(stack: Stack) -> list[str]:
    """The ids of the dead letters."""
    async with stack.hub("stack-operator") as hub:
        return [letter.id for letter in await hub.dead_letters()]


async def parked(stack: Stack, more: int, before: int) -> list[str]:
    async with asyncio.timeout(60):
        while len(found := await dead(stack)) < before + more:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    return found


async def test_commands_that_cannot_be_read_are_parked_and_the_next_is_carried_out(stack: Stack) -> None:
    before = len(await dead(stack))
    async with as_login(stack, "researcher-a") as bus:
        packet = good(bus)
        odd = {name: replace(packet, body=body) for name, body in bodies(packet.body).items()}
        assert all(changed.body != packet.body for changed in odd.values())
        odd |= {
            "compressed": replace(packet, body=gzip.compress(packet.body), content_encoding="gzip"),
            "another content type": replace(packet, content_type="application/x-pickle"),
            "no envelope": replace(packet, headers={}),
            "unknown type": replace(packet, headers={**packet.headers, "ce-type": "io.wardround.experiment.start.v9"}),
            "another address": replace(packet, routing_key="cmd.coordinator.hub.other.start"),
            "not for it": replace(
                good(bus, _task_answered()), exchange=packet.exchange, routing_key=packet.routing_key
            ),
        }
        for number, each in enumerate(odd.values()):
            await bus.publish(replace(each, message_id=f"odd-{number}"))

    found = await parked(stack, len(odd), before)

    assert len(found) == before + len(odd)
    async with stack.hub() as hub:
        assert await hub.view("never") is None
        await hub.start(counting(id="after-bad-input", count=1))
        async with asyncio.timeout(60):
            async for view in hub.watch("after-bad-input"):
                last = view
    assert last.phase == "finished"


async def test_dead_letters_are_listed_shown_replayed_and_dropped(stack: Stack) -> None:
    before = await dead(stack)
    async with as_login(stack, "researcher-a") as bus:
        broken = good(bus, PauseExperiment(experiment="nobody-knows"))
        await bus.publish(replace(broken, body=b"{}", message_id="dead-letter-of-the-test"))
    (letter,) = set(await parked(stack, 1, len(before))) - set(before)
    operator = ("--hub", "stack-operator")

    listed = [json.loads(line) for line in stack.cli("dead", "list", *operator, "--json").splitlines()]
    assert [each["sender"] for each in listed if each["id"] == letter] == ["researcher-a"]
    assert "researcher-a" in stack.cli("dead", "show", letter, *operator)
    stack.cli("dead", "replay", letter, *operator)
    again = await parked(stack, 1, len(before))  # it is as broken as before, and still of the same sender
    assert set(again) - set(before) == {letter}
    stack.cli("dead", "drop", letter, *operator)
    assert await dead(stack) == before
    assert "no dead letter" in stack.cli("dead", "show", "nothing", *operator, code=3)


async def test_a_researcher_may_neither_read_dead_letters_nor_command_a_site(stack: Stack) -> None:
    stack.cli("dead", "list", "--hub", "stack", code=3)
    async with as_login(stack, "researcher-a") as bus:
        order = StartTask(
            experiment="never",
            site="clinic-1",
            round=1,
            task=Task.TRAIN,
            attempt=1,
            requested_by="researcher-a",
            manifest_sha256="0" * 64,
            model=ObjectRef(key=f"global/r000000/{'0' * 16}.safetensors", size=1, sha256="0" * 64),
            seed=1,
        )
        with pytest.raises(ForbiddenError):
            await bus.publish(good(bus, order))


async def test_forged_and_senseless_announcements_change_nothing(stack: Stack) -> None:
    before = len(await dead(stack))
    async with as_login(stack, "store") as bus:
        for key in ("consent/..%2f..%2fx", "answers%252Fr000001", "journal/00000000.json", "folder/", "x" * 5000):
            for bucket in ("wr-nobody", "other", "wr-breast-cancer", "../wr-x"):
                await bus.publish(_announcement(bucket, key))
        await bus.publish(replace(_announcement("wr-x", "y"), body=b"no JSON"))
    await parked(stack, 1, before)
    async with stack.hub() as hub:
        await hub.start(counting(id="after-forgeries", count=1))
        async with asyncio.timeout(60):
            async for view in hub.watch("after-forgeries"):
                last = view
        assert last.phase == "finished"
        assert "nobody" not in {each.experiment for each in await hub.experiments()}


def _announcement(bucket: str, key: str) -> Packet:
    record = {"eventName": "s3:ObjectCreated:Put", "s3": {"bucket": {"name": bucket}, "object": {"key": key}}}
    return Packet(
        exchange=OBJECTSTORE,
        routing_key=ANNOUNCED_ROUTING_KEY,
        body=json.dumps({"Records": [record]}).encode(),
        content_type="application/json",
    )


def _task_answered() -> TaskAnswered:
    return TaskAnswered(experiment="never", site="clinic-1", round=1, task=Task.TRAIN, attempt=1, outcome="done")
