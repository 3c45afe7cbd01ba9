"""What is stored without being announced is noticed one interval later at the latest, whatever else is announced."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from wardround.runtime.bus.port import Packet
from wardround.simulation.faults.checker import check
from wardround.simulation.faults.disturber import forged
from wardround.simulation.faults.fates import Calm, Course, Fates
from wardround.simulation.faults.plan import EXPERIMENT, Plan
from wardround.simulation.faults.run import Outcome, run_with
from wardround.simulation.faults.workplace import workplace
from wardround.simulation.faults.world import World
from wardround.simulation.sites import Clinic
from wardround_messages.names import OBJECTSTORE, bucket_of

pytestmark = pytest.mark.slow

PLAN = Plan(rounds=1)


class Silent(Calm):
    """Every announcement of the store is lost; those that are forged arrive."""

    def message(self, packet: Packet) -> tuple[float, ...]:
        lost = packet.exchange == OBJECTSTORE and packet.user_id == "store" and b"journal" not in packet.body
        return () if lost else (0.0,)

    def training(self, task: str) -> Course:
        return Course(40.0)


@pytest.mark.parametrize("woken_every", [1.0, 4.0, 11.0, 14.9])
def test_other_announcements_do_not_put_off_the_look_that_finds_it(woken_every: float) -> None:
    async def wake(world: World) -> None:
        while True:
            await asyncio.sleep(woken_every)
            world.broker.route(forged(bucket_of(EXPERIMENT), "journal/00000001.json"))

    def world(plan: Plan, clinics: Mapping[str, Clinic], folder: Path, fates: Fates) -> World:
        made = World(plan, clinics, folder, fates)
        made.soon(wake(made))
        return made

    with workplace() as place:
        outcome = run_with(PLAN, place, Silent(), world)
    assert check(outcome) == []
    written = {one.key: one.at for one in reversed(outcome.history.written)}
    waited = [at - written[key] for key, at in _read(outcome).items()]
    assert len(waited) >= 4
    assert max(waited) <= PLAN.interval + 1


def _read(outcome: Outcome) -> dict[str, float]:
    read = outcome.history.read_by_coordinators
    return {key: at for key, at in read.items() if key.startswith(("answers/", "consent/"))}
