"""Announcements that lie, repeat themselves or come from nowhere have no effect beyond a wake-up."""

import asyncio
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pytest
from whole import clinics_for, counting, finish, journal_of, run, state_of

from wardround.runtime.bus.port import Packet
from wardround.simulation.federation import Federation
from wardround.simulation.researcher import Ending, carry_through
from wardround_messages.names import COORDINATOR_QUEUE, OBJECTSTORE, AnswerKey, ResultKey, Task, bucket_of
from wardround_messages.topology import ANNOUNCED_ROUTING_KEY


def announcement(bucket: str, key: str, **more: Any) -> bytes:
    record = {"eventName": "s3:ObjectCreated:Put", "s3": {"bucket": {"name": bucket}, "object": {"key": key, **more}}}
    return json.dumps({"EventName": "s3:ObjectCreated:Put", "Key": f"{bucket}/{key}", "Records": [record]}).encode()


def forge(federation: Federation, body: bytes) -> None:
    packet = Packet(exchange=OBJECTSTORE, routing_key=ANNOUNCED_ROUTING_KEY, body=body, user_id="store")
    federation.broker.route(packet)


BUCKET = bucket_of("count")
FORGED = [
    announcement("somebody-elses", "answers/r000001/train/clinic-1/a01.json"),
    announcement("wr-unknown", "answers/r000001/train/clinic-1/a01.json"),
    announcement(BUCKET, "journal/00000099.json"),
    announcement(BUCKET, "answers/r000001/train/clinic-9/a01.json"),
    announcement(BUCKET, "answers/%2e%2e%2f%2e%2e%2fetc/passwd"),
    announcement(BUCKET, quote_plus(quote_plus("answers/r000001/train/clinic-1/a01.json"))),
    announcement(BUCKET, "answers/"),
    announcement(BUCKET, str(AnswerKey(1, Task.TRAIN, "clinic-1", 7)), size=2**62),
    announcement(BUCKET, str(ResultKey(99))),
]


async def test_forged_announcements_change_nothing(tmp_path: Path) -> None:
    manifest = counting(count=3)
    _, undisturbed = await run(tmp_path / "plain", manifest)
    federation = Federation(tmp_path / "forged", clinics_for(tmp_path / "forged", manifest))
    async with federation.running():
        ending = asyncio.create_task(carry_through(federation, manifest))
        while not ending.done():
            for body in FORGED:
                forge(federation, body)
            await asyncio.sleep(0.02)
        assert ending.result() == Ending("finished")
        assert state_of(await journal_of(federation, manifest.id)).models == undisturbed.models
        assert {letter.reason for letter in federation.broker.dead_letters()} <= {"invalid"}
        assert set(await federation.store.buckets()) == {BUCKET}


@pytest.mark.parametrize("body", [b"", b"[" * 100_000, b"\xff", b"{}", b'{"Records": 7}', b"x" * 2**20], ids=len)
async def test_what_is_no_announcement_is_a_dead_letter_and_the_next_is_heard(tmp_path: Path, body: bytes) -> None:
    manifest = counting(count=1)
    federation = Federation(tmp_path, clinics_for(tmp_path, manifest))
    async with federation.running():
        forge(federation, body)
        assert await carry_through(federation, manifest) == Ending("finished")
        assert federation.broker.depth(COORDINATOR_QUEUE) == 0
        (letter,) = federation.broker.dead_letters()
        assert letter.queue == COORDINATOR_QUEUE


async def test_announcements_that_are_doubled_change_nothing(tmp_path: Path) -> None:
    manifest = counting(count=3)
    _, undisturbed = await run(tmp_path / "plain", manifest)
    federation = Federation(tmp_path / "doubled", clinics_for(tmp_path / "doubled", manifest))
    route = federation.broker.route

    def twice(packet: Packet) -> None:
        route(packet)
        if packet.exchange == OBJECTSTORE:
            route(packet)

    federation.broker.route = twice  # type: ignore[method-assign]
    ending, state = await finish(federation, manifest)
    assert (ending, state.models) == (Ending("finished"), undisturbed.models)


async def test_an_answer_that_is_no_answer_costs_the_site_an_attempt_and_nobody_else_anything(tmp_path: Path) -> None:
    """A clinic that stores rubbish under its own key cannot undo it: the next attempt is asked for."""
    manifest = counting(count=2)
    federation = Federation(tmp_path, clinics_for(tmp_path, manifest))
    _, undisturbed = await run(tmp_path / "plain", manifest)
    async with federation.running():
        await federation.store.make_bucket(BUCKET)
        await federation.store.create(BUCKET, str(AnswerKey(1, Task.TRAIN, "clinic-2", 1)), b"\x80\x04rubbish")
        assert await asyncio.wait_for(carry_through(federation, manifest), 30) == Ending("finished")
        state = state_of(await journal_of(federation, manifest.id))
    assert state.models == undisturbed.models
    assert {("clinic-2", 1), ("clinic-2", 2)} <= state.accounted[(1, Task.TRAIN)]


async def test_one_lost_among_many_is_noticed_within_an_interval(tmp_path: Path) -> None:
    """Other announcements, however many, do not put off the look that finds it."""
    manifest = counting(count=1)
    federation = Federation(tmp_path, clinics_for(tmp_path, manifest), interval=1.0)
    route, lost = federation.broker.route, str(AnswerKey(1, Task.TRAIN, "clinic-2", 1))

    def losing(packet: Packet) -> None:
        if packet.exchange != OBJECTSTORE or lost.encode() not in packet.body.replace(b"%2F", b"/"):
            route(packet)

    federation.broker.route = losing  # type: ignore[method-assign]
    other = announcement(BUCKET, str(AnswerKey(1, Task.TRAIN, "clinic-1", 1)))
    async with federation.running(), asyncio.timeout(10):
        ending = asyncio.create_task(carry_through(federation, manifest))
        while not ending.done():
            forge(federation, other)
            await asyncio.sleep(0.05)
        assert ending.result() == Ending("finished")
