"""One run: faults for a while, then none, until the experiment has ended; then all that is left of it is looked at."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from wardround.runtime.bus.memory import MemoryBus
from wardround.runtime.bus.messaging import Messenger
from wardround.simulation.faults.disturber import Disturber
from wardround.simulation.faults.fates import Calm, Fates
from wardround.simulation.faults.history import History, Part
from wardround.simulation.faults.plan import EXPERIMENT, HOUR, Plan, Schedule
from wardround.simulation.faults.seeded import SeededFates
from wardround.simulation.faults.virtual_time import run_virtually
from wardround.simulation.faults.workplace import Workplace, seeded
from wardround.simulation.faults.world import EPOCH, World
from wardround.simulation.sites import RESEARCHER, Clinic
from wardround_messages.commands import ResumeExperiment, StartExperiment
from wardround_messages.names import HUB, bucket_of

LOOKS_EVERY = 2.0
ASKS_AGAIN_AFTER = 20.0
RESUMES_AFTER = 45.0
RESUMES_AT_MOST = 5
SETTLES_IN = 70.0  # seconds: each site has been seen once more, and told what is over
READS_IN = 20.0
LIMIT = 3 * HOUR  # after the last fault; a clock of the hub may be two hours off

Worlds = Callable[[Plan, Mapping[str, Clinic], Path, Fates], World]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run as it is judged: what was planned, what happened, what lies in the store, where journals are broken.

    `broken` tells for each coordinator of the end at which entry it stopped, None where it did not. `unrecorded` names
    the parts of a history that nobody could see: what they would show is not judged.
    """

    plan: Plan
    schedule: Schedule | None
    history: History
    objects: dict[str, bytes]
    broken: dict[str, int | None]
    unrecorded: frozenset[Part] = frozenset()


def run_seed(schedule: Schedule, place: Workplace, worlds: Worlds = World) -> Outcome:
    """Run the schedule: the same seed is the same run, to the last step."""

    async def main() -> Outcome:
        fates = SeededFates(schedule, asyncio.get_running_loop().time)
        world = worlds(schedule.plan, clinics, place.folder, fates)
        return await _Run(world, schedule.plan, Disturber(world, schedule, fates)).outcome()

    clinics = place.clinics(schedule.plan)
    with seeded(f"seed {schedule.seed}"):
        return run_virtually(main())


def run_with(plan: Plan, place: Workplace, fates: Fates | None = None, worlds: Worlds = World) -> Outcome:
    """Run an experiment with these fates; undisturbed without any."""

    async def main() -> Outcome:
        return await _Run(worlds(plan, clinics, place.folder, fates or Calm()), plan, None).outcome()

    clinics = place.clinics(plan)
    with seeded("no seed"):
        return run_virtually(main())


class _Run:
    def __init__(self, world: World, plan: Plan, disturber: Disturber | None) -> None:
        self._world = world
        self._plan = plan
        self._disturber = disturber
        self._gave_up = False

    async def outcome(self) -> Outcome:
        world = self._world
        try:
            for name in world.names:
                world.start(name)
            world.soon(self._researcher())
            if self._disturber is not None:
                await self._disturbed(self._disturber)
            await self._ended()
            for name in sorted(world.coordinators):
                await world.restart(name)  # a later start reads the same history
            await asyncio.sleep(READS_IN)
            broken = {name: broken_at(world, name) for name in sorted(world.coordinators)}
        finally:
            await world.close()
        schedule = None if self._disturber is None else self._disturber.schedule
        return Outcome(self._plan, schedule, world.history, await _objects(world), broken)

    async def _disturbed(self, disturber: Disturber) -> None:
        """Let the faults loose until their time is over, or the experiment is."""
        disturber.let_loose()
        clock, schedule = self._world.history.clock, disturber.schedule
        while schedule.heals and clock() < schedule.lasts and not self._is_over():  # noqa: ASYNC110 - told by the store
            await asyncio.sleep(LOOKS_EVERY)
        disturber.put_right()

    async def _researcher(self) -> None:
        """Asks for the experiment until it is there, and lets it go on where it stands and a person decides."""
        bus = MemoryBus(self._world.broker, RESEARCHER)
        messenger = Messenger(bus, service="client", origin=HUB, clock=lambda: EPOCH)
        while (state := self._world.journal.state) is None:
            await messenger.send(StartExperiment(manifest=self._plan.manifest))
            await asyncio.sleep(ASKS_AGAIN_AFTER)
        for _ in range(RESUMES_AT_MOST):
            while state is None or state.paused is None:
                await asyncio.sleep(ASKS_AGAIN_AFTER)
                state = self._world.journal.state
            await asyncio.sleep(RESUMES_AFTER)
            self._world.history.note("researcher", "resumes")
            await messenger.send(ResumeExperiment(experiment=EXPERIMENT))
            await asyncio.sleep(ASKS_AGAIN_AFTER)
            state = self._world.journal.state
        self._gave_up = True

    async def _ended(self) -> None:
        """Return when the experiment has ended, or only an operator could help it on, and nothing is under way."""
        history = self._world.history
        limit = history.clock() + LIMIT
        while history.clock() < limit and not self._is_over():  # noqa: ASYNC110 - told by the store
            await asyncio.sleep(LOOKS_EVERY)
        history.ended = history.clock()
        await asyncio.sleep(max(self._world.fates.last_arrival - history.clock(), 0.0) + SETTLES_IN)

    def _is_over(self) -> bool:
        state = self._world.journal.state
        if self._world.journal.illegal or (state is not None and state.ended):
            return True
        if self._gave_up and state is not None and state.paused is not None:
            return True
        return all(broken_at(self._world, name) is not None for name in self._world.coordinators)


def broken_at(world: World, coordinator: str) -> int | None:
    """The entry at which that coordinator has stopped the experiment."""
    experiment = world.coordinators[coordinator].experiments.get(EXPERIMENT)
    return None if experiment is None or experiment.broken is None else experiment.broken.number


async def _objects(world: World) -> dict[str, bytes]:
    bucket = bucket_of(EXPERIMENT)
    if bucket not in await world.store.buckets():
        return {}
    return {info.key: await world.store.read(bucket, info.key) for info in await world.store.list(bucket)}
