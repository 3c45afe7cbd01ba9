"""Many experiments at once, at clinics that train one task at a time: in virtual time."""

import asyncio
import time
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

from wardround.runtime.bus.memory import MemoryBus
from wardround.runtime.bus.messaging import Messenger
from wardround.runtime.bus.port import Bus
from wardround.runtime.store.port import ObjectStore
from wardround.simulation.faults.fates import Calm, Course
from wardround.simulation.faults.history import History, Training
from wardround.simulation.faults.plan import Plan
from wardround.simulation.faults.process import Process
from wardround.simulation.faults.virtual_time import run_virtually
from wardround.simulation.faults.work import beyond
from wardround.simulation.faults.workplace import seeded, workplace
from wardround.simulation.faults.world import EPOCH, Service, World
from wardround.simulation.sites import RESEARCHER, Clinic
from wardround_messages.commands import StartExperiment
from wardround_messages.names import HUB, Task, parse_task_id

pytestmark = pytest.mark.slow

SECONDS = 10.0  # a training takes
PLAN = Plan(sites=2, rounds=4, deadline=600)
SHORT = Plan(sites=2, rounds=1, deadline=600)


class Trainings(Calm):
    def training(self, task: str) -> Course:
        return Course(SECONDS)


class TooManySlots(World):
    """Its agents train two tasks at a time, whatever the clinic's settings say."""

    def _agent(self, clinic: Clinic, process: Process, bus: Bus, store: ObjectStore) -> Service:
        scheduler = clinic.settings.scheduler.model_copy(update={"slots": 2})
        settings = clinic.settings.model_copy(update={"scheduler": scheduler})
        return super()._agent(replace(clinic, settings=settings), process, bus, store)


def run(experiments: int, plan: Plan = PLAN, *, restarted: str | None = None, worlds: type[World] = World) -> History:
    """All of them, started in the same moment, until each has finished; a service is killed again and again."""

    async def kill_now_and_then(world: World, name: str) -> None:
        while True:
            await asyncio.sleep(3.7 * SECONDS)
            await world.restart(name)

    async def main() -> History:
        world = worlds(plan, clinics, place.folder, Trainings())
        messenger = Messenger(MemoryBus(world.broker, RESEARCHER), service="client", origin=HUB, clock=lambda: EPOCH)
        try:
            for name in world.names:
                world.start(name)
            for number in range(1, experiments + 1):
                manifest = plan.manifest.model_copy(update={"id": f"experiment-{number:02}"})
                await messenger.send(StartExperiment(manifest=manifest))
            if restarted is not None:
                world.soon(kill_now_and_then(world, restarted))
            async with asyncio.timeout(100 * SECONDS * experiments):
                while len(finished(world.history)) < experiments:  # noqa: ASYNC110 - told by the store
                    await asyncio.sleep(1.0)
        finally:
            await world.close()
        return world.history

    with workplace() as place, seeded("many"):
        clinics = place.clinics(plan)
        return run_virtually(main())


def finished(history: History) -> set[str]:
    return {one.bucket for one in history.written if b'"kind":"ExperimentFinished"' in one.data}


def turns(history: History, site: str) -> list[Training]:
    """The trainings of rounds at the site, in the order in which they began."""
    at_site = [training for training in history.trainings if training.site == site]
    return [training for training in at_site if parse_task_id(training.task).task is Task.TRAIN]


def experiment_of(training: Training) -> str:
    return parse_task_id(training.task).experiment


@pytest.fixture(scope="module")
def six() -> History:
    return run(6)


@pytest.mark.parametrize("site", PLAN.clinics)
def test_all_are_trained_one_at_a_time(six: History, site: str) -> None:
    assert Counter(map(experiment_of, turns(six, site))) == {f"experiment-{number:02}": 4 for number in range(1, 7)}
    for before, after in pairwise(training for training in six.trainings if training.site == site):
        assert before.ended is not None
        assert before.ended <= after.began


def test_an_agent_that_trains_more_at_once_than_it_has_slots_is_seen(six: History) -> None:
    assert list(beyond(PLAN.slots, six.trainings)) == []
    assert any(beyond(PLAN.slots, run(2, SHORT, worlds=TooManySlots).trainings))


@pytest.mark.parametrize("site", PLAN.clinics)
def test_turns_interleave_and_nobody_waits_for_more_than_one_turn_of_each_other(six: History, site: str) -> None:
    served = [experiment_of(training) for training in turns(six, site)]
    for experiment in set(served):
        mine = [place for place, other in enumerate(served) if other == experiment]
        for last, following in pairwise(mine):
            assert max(Counter(served[last + 1 : following]).values(), default=0) <= 1


def test_all_have_gone_equally_far_at_any_time(six: History) -> None:
    done: Counter[str] = Counter({f"experiment-{number:02}": 0 for number in range(1, 7)})
    for training in turns(six, "clinic-1"):
        done[experiment_of(training)] += 1
        assert max(done.values()) - min(done.values()) <= 2


def test_together_they_take_no_longer_than_their_trainings_one_after_another(six: History) -> None:
    trainings = turns(six, "clinic-1")
    took = (trainings[-1].ended or 0.0) - trainings[0].began
    assert took <= 1.1 * SECONDS * len(trainings)


@pytest.fixture(scope="module")
def restarted() -> History:
    return run(6, restarted="clinic-1")


def test_an_agent_that_is_restarted_goes_on_with_the_turns_there_were(restarted: History) -> None:
    assert sum(line.who == "clinic-1" and line.what == "started" for line in restarted.lines) > 5
    assert list(beyond(PLAN.slots, restarted.trainings)) == []
    served = turns(restarted, "clinic-1")
    assert Counter(map(experiment_of, served)) == {f"experiment-{number:02}": 4 for number in range(1, 7)}
    assert {training.how for training in served} == {"done"}
    done: Counter[str] = Counter({f"experiment-{number:02}": 0 for number in range(1, 7)})
    for training in served:
        done[experiment_of(training)] += 1
        assert max(done.values()) - min(done.values()) <= 2


def test_ten_at_once_cost_hardly_more_than_ten_one_after_another() -> None:
    run(1, SHORT)  # what is done once in a process
    alone, together = seconds_of_work(1), seconds_of_work(10)
    assert together <= 2 * 10 * alone


def seconds_of_work(experiments: int) -> float:
    """The processor's time for all services."""
    since = time.process_time()
    run(experiments, SHORT)
    return time.process_time() - since
