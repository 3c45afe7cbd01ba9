"""Clinics on their own Airflow, each process killed once in mid-training: the experiment ends by itself, with the same
bytes, and nobody trains more often than it must."""

import asyncio
import os
import signal
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from servers.stack import Stack
from simulation.whole import counting, run
from wardround.metrics.view import ExperimentView
from wardround.stack.folder import ProgramState, read_state
from wardround.training.folder_lock import LOCK
from wardround_messages.manifest import Manifest
from wardround_messages.names import Task, TaskId

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROUNDS = 2
KILLED_IN = 1
VICTIM = "clinic-2"
TRAINING_TAKES = 3.0  # seconds
PROGRAMS = ("coordinator", "aggregator", "metrics", "rabbitmq", "minio", VICTIM)
OF_AIRFLOW = (f"{VICTIM}.api-server", f"{VICTIM}.scheduler", f"{VICTIM}.dag-processor")


class Trainings:
    """The trainings that were begun, by site and round: each leaves a line in its task's folder."""

    def __init__(self, folder: Path, experiment: str) -> None:
        self._sites = folder / "sites"
        self._experiment = experiment
        self._lines: defaultdict[tuple[str, int], set[str]] = defaultdict(set)

    def counted(self, site: str, round_: int) -> int:
        return len(self._lines[site, round_])

    async def begun(self, site: str, round_: int) -> None:
        async with asyncio.timeout(120):
            while not self.counted(site, round_):  # noqa: ASYNC110 - another process writes it
                await asyncio.sleep(0.02)

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        watching = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.wait({watching})

    async def _watch(self) -> None:
        while True:
            for site in ("clinic-1", "clinic-2", "clinic-3"):
                for round_ in range(1, ROUNDS + 1):
                    self._look(site, round_)
            await asyncio.sleep(0.05)

    def _look(self, site: str, round_: int) -> None:
        for file in self._sites.glob(f"{site}/spool/{self._experiment}.r{round_:06}.train.{site}.a*/{LOCK}"):
            try:
                lines = file.read_text().splitlines()
            except FileNotFoundError:  # cleared just now
                continue
            self._lines[site, round_] |= {f"{file.parent.name} {line}" for line in lines}


def manifest_of(name: str) -> Manifest:
    return counting(id=name, count=ROUNDS, parameters={"size_mb": 0.5, "seconds": TRAINING_TAKES})


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of the last model of the simulation, where trainings take no time."""
    manifest = counting(id="count", count=ROUNDS, parameters={"size_mb": 0.5})
    _, state = asyncio.run(run(tmp_path_factory.mktemp("simulated"), manifest))
    return state.models[ROUNDS].sha256


async def carried_through(stack: Stack, manifest: Manifest, kill: str) -> tuple[ExperimentView, Trainings]:
    """The experiment as it ended, and its trainings; what is named is killed in the middle of one."""
    trainings = Trainings(stack.folder, manifest.id)
    async with stack.hub() as hub, trainings.watched():
        await hub.start(manifest)
        await trainings.begun(VICTIM, KILLED_IN)
        await asyncio.sleep(TRAINING_TAKES / 3)
        if kill == "training":
            kill_training(TaskId(manifest.id, KILLED_IN, Task.TRAIN, VICTIM, 1))
        else:
            stack.kill(kill)
        async with asyncio.timeout(200):
            views = [view async for view in hub.watch(manifest.id)]
    return views[-1], trainings


def kill_training(task: TaskId) -> None:
    """SIGKILL to every process of the training itself, not to the Airflow task that runs it."""
    found = [
        each.pid
        for each in psutil.process_iter(["cmdline"])
        if "wardround.training" in (each.info["cmdline"] or ()) and each.info["cmdline"][-1].endswith(f"/{task}")
    ]
    assert found
    for pid in found:
        os.kill(pid, signal.SIGKILL)


def assert_alike(view: ExperimentView, simulated: str) -> None:
    assert (view.phase, view.rounds_done) == ("finished", ROUNDS)
    assert view.model is not None
    assert view.model.sha256 == simulated
    assert all(site.rounds == ROUNDS for site in view.sites)


@pytest.mark.parametrize("program", PROGRAMS)
async def test_a_killed_process_costs_no_training(airflow_stack: Stack, simulated: str, program: str) -> None:
    before = airflow_stack.restarts(program)

    view, trainings = await carried_through(airflow_stack, manifest_of(f"killed-{program}"), program)

    assert_alike(view, simulated)
    for site in ("clinic-1", "clinic-2", "clinic-3"):
        assert [trainings.counted(site, round_) for round_ in range(1, ROUNDS + 1)] == [1] * ROUNDS
    await airflow_stack.until_running(program, restarts=before + 1)


@pytest.mark.parametrize("program", OF_AIRFLOW)
async def test_a_killed_part_of_an_airflow_costs_one_training_at_most(
    airflow_stack: Stack, simulated: str, program: str
) -> None:
    before = airflow_stack.restarts(program)
    name = f"killed-{program.rpartition('.')[2]}"

    view, trainings = await carried_through(airflow_stack, manifest_of(name), program)

    assert_alike(view, simulated)
    assert_one_more_at_most(trainings)
    await airflow_stack.until_running(program, restarts=before + 1, within=90)


async def test_a_killed_training_is_begun_once_more(airflow_stack: Stack, simulated: str) -> None:
    view, trainings = await carried_through(airflow_stack, manifest_of("killed-training"), "training")

    assert_alike(view, simulated)
    assert trainings.counted(VICTIM, KILLED_IN) == 2
    assert_one_more_at_most(trainings)


def assert_one_more_at_most(trainings: Trainings) -> None:
    for site in ("clinic-1", "clinic-2", "clinic-3"):
        for round_ in range(1, ROUNDS + 1):
            hit = (site, round_) == (VICTIM, KILLED_IN)
            assert trainings.counted(site, round_) in ((1, 2) if hit else (1,)), (site, round_)


def test_every_program_of_the_stack_is_killed_somewhere(airflow_stack: Stack) -> None:
    state = read_state(airflow_stack.folder)
    assert state is not None
    killed_elsewhere = {"epmd"}
    others = {"clinic-1", "clinic-3"}
    assert {kind(each) for each in state.programs if kind(each) not in others} == (
        {*PROGRAMS, *OF_AIRFLOW} | killed_elsewhere
    )


def kind(program: ProgramState) -> str:
    """The program of the killed clinic that stands for those of all clinics."""
    site, dot, component = program.name.partition(".")
    return f"{VICTIM}.{component}" if dot else site
