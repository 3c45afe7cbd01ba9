"""Brings about what a schedule says, and puts everything right again."""

import asyncio
import json
import random
from typing import Any
from urllib.parse import quote_plus

from wardround.runtime.bus.port import Packet
from wardround.simulation.faults.plan import EXPERIMENT, Incident, Schedule
from wardround.simulation.faults.process import Link
from wardround.simulation.faults.seeded import SeededFates
from wardround.simulation.faults.world import World
from wardround_messages.names import OBJECTSTORE, bucket_of
from wardround_messages.topology import ANNOUNCED_ROUTING_KEY

CUT = {"cut off": Link.CUT, "mute": Link.MUTE, "deaf": Link.DEAF}


class Disturber:
    """What does not befall single calls and messages: incidents, clocks, forged announcements."""

    def __init__(self, world: World, schedule: Schedule, fates: SeededFates) -> None:
        self.schedule = schedule
        self._world = world
        self._fates = fates
        self._history = world.history
        self._at_work: list[asyncio.Task[None]] = []

    def let_loose(self) -> None:
        for name, seconds in sorted(self.schedule.clocks.items()):
            self._world.turn_clock(name, seconds)
        for incident in self.schedule.incidents:
            self._at_work.append(self._world.soon(self._befall(incident)))
        if self.schedule.forged > 0:
            self._at_work.append(self._world.soon(self._forge()))

    def put_right(self) -> None:
        """Everything works again, and stays so; but what a schedule that does not heal says of messages goes on."""
        world = self._world
        for work in self._at_work:
            work.cancel()
        if self.schedule.heals:
            self._fates.stop()
        world.broker.start()
        world.store_is_away(False)
        for name in world.names:
            world.thaw(name)
            world.disk_is_full(name, False)
            if world.link(name) is not Link.UP:  # else its connection, and what was said on it, would be renewed
                world.cut(name, Link.UP)
        self._history.faults_over = self._history.clock()
        self._history.note("all", "put right")

    async def _befall(self, incident: Incident) -> None:
        await asyncio.sleep(incident.at)
        world, name, over = self._world, incident.target, self._history.clock() + incident.lasts
        match incident.kind:
            case "killed" | "rebooted":
                self._history.inject(incident.kind, name)
                world.soon(world.restart(name, machine=incident.kind == "rebooted"))
            case "broker wiped":
                self._history.inject(incident.kind, "broker")
                world.broker.wipe()
            case "clock":
                world.turn_clock(name, incident.lasts)
            case "frozen":
                if world.alive(name):
                    self._history.inject("frozen", name, over=over)
                    world.freeze(name)
                    await asyncio.sleep(incident.lasts)
                    world.thaw(name)
            case "cut off" | "mute" | "deaf":
                self._history.inject(incident.kind, name, over=over)
                world.cut(name, CUT[incident.kind])
                await asyncio.sleep(incident.lasts)
                world.cut(name, Link.UP)
            case "disk full":
                self._history.inject(incident.kind, name, over=over)
                world.disk_is_full(name, True)
                await asyncio.sleep(incident.lasts)
                world.disk_is_full(name, False)
            case "store away":
                self._history.inject(incident.kind, "store", over=over)
                world.store_is_away(True)
                await asyncio.sleep(incident.lasts)
                world.store_is_away(False)
            case "broker away":
                self._history.inject(incident.kind, "broker", over=over)
                world.broker.stop()
                await asyncio.sleep(incident.lasts)
                world.broker.start()

    async def _forge(self) -> None:
        """Announcements of what is not there, or is somebody else's."""
        dice = random.Random(f"forged {self.schedule.seed}")  # noqa: S311 - nothing here is secret
        while self._history.clock() < self.schedule.lasts:
            await asyncio.sleep(dice.expovariate(self.schedule.forged))
            round_, site, attempt = dice.randrange(5), dice.randrange(1, 9), dice.randrange(1, 9)
            key = dice.choice(
                (
                    f"answers/r{round_:06d}/train/clinic-{site}/a{attempt:02d}.json",
                    f"results/c{dice.randrange(40):08d}.json",
                    f"journal/{dice.randrange(99):08d}.json",
                    "answers/../../etc/passwd",
                )
            )
            self._history.inject("announcement forged", "broker", about=key)
            bucket = dice.choice((bucket_of(EXPERIMENT), "wr-nowhere", "another"))
            self._world.broker.route(forged(bucket, key))


def forged(bucket: str, key: str) -> Packet:
    """An announcement by hand, as an intruder would write one."""
    record: dict[str, Any] = {
        "eventName": "s3:ObjectCreated:Put",
        "s3": {"bucket": {"name": bucket}, "object": {"key": quote_plus(key), "size": 1, "eTag": "0"}},
    }
    body = json.dumps({"Records": [record]}).encode()
    return Packet(exchange=OBJECTSTORE, routing_key=ANNOUNCED_ROUTING_KEY, body=body, user_id="store")
