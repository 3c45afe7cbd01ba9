"""Clinics of a real stack that train on Airflow: each program dies in mid-training, and nobody trains oftener than it
must."""

import asyncio
import os
import signal
from collections import Counter

import psutil
import pytest

from servers.fault_table import FaultTable
from servers.stack import Stack
from servers.trials import SITES, Trial, Undisturbed, adding, members_of, model_of, trial
from wardround.simulation.faults.run import Outcome
from wardround.stack.folder import read_state
from wardround_messages.manifest import Manifest
from wardround_messages.names import Task, TaskId

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(400)]

VICTIM = "clinic-2"
TRAINING_TAKES = 3.0  # seconds
OF_AIRFLOW = ("api-server", "scheduler", "dag-processor")
OTHERS = ("coordinator", "aggregator", "metrics", "rabbitmq", "minio", VICTIM)


async def in_mid_training(disturbed: Trial, round_: int) -> None:
    await disturbed.recording.until_training(VICTIM, round_, within=120)
    await asyncio.sleep(TRAINING_TAKES / 3)


async def ended_alike(
    disturbed: Trial, manifest: Manifest, undisturbed: Undisturbed, table: FaultTable
) -> Counter[tuple[str, int]]:
    """How often each clinic trained in each round, of an experiment that nothing else changed."""
    outcome = await disturbed.until_ended(within=200)
    expected = await undisturbed(manifest)
    table.judge(outcome, expected)
    assert model_of(outcome) == expected
    assert members_of(outcome) == {round_: set(SITES) for round_ in range(1, manifest.rounds.count + 1)}
    return trainings_of(outcome)


def trainings_of(outcome: Outcome) -> Counter[tuple[str, int]]:
    steps = (each.step for each in outcome.history.trainings)
    return Counter((site, round_) for _, round_, task, site in steps if task == Task.TRAIN)


def once(rounds: int) -> Counter[tuple[str, int]]:
    return Counter((site, round_) for site in SITES for round_ in range(1, rounds + 1))


async def test_a_killed_process_costs_no_training(
    airflow_stack: Stack, undisturbed: Undisturbed, fault_table: FaultTable
) -> None:
    manifest = adding("killed-beside", len(OTHERS) + 1, seconds=TRAINING_TAKES)
    async with trial(airflow_stack, manifest) as disturbed:
        for round_, program in enumerate(OTHERS, start=1):
            await in_mid_training(disturbed, round_)
            await disturbed.disturber.kill(program)
        trainings = await ended_alike(disturbed, manifest, undisturbed, fault_table)

    assert trainings == once(manifest.rounds.count)


@pytest.mark.parametrize("components", [*((name,) for name in OF_AIRFLOW), OF_AIRFLOW], ids=[*OF_AIRFLOW, "all of it"])
async def test_a_killed_part_of_an_airflow_costs_one_training_at_most(
    airflow_stack: Stack, undisturbed: Undisturbed, fault_table: FaultTable, components: tuple[str, ...]
) -> None:
    name = components[0] if len(components) == 1 else "all"
    manifest = adding(f"killed-{name}", 2, seconds=TRAINING_TAKES)
    async with trial(airflow_stack, manifest) as disturbed:
        await in_mid_training(disturbed, 1)
        await disturbed.disturber.kill(*(f"{VICTIM}.{component}" for component in components))
        trainings = await ended_alike(disturbed, manifest, undisturbed, fault_table)

    assert trainings - once(2) in (Counter(), Counter({(VICTIM, 1): 1}))


async def test_a_killed_training_is_begun_once_more(
    airflow_stack: Stack, undisturbed: Undisturbed, fault_table: FaultTable
) -> None:
    manifest = adding("killed-training", 2, seconds=TRAINING_TAKES)
    async with trial(airflow_stack, manifest) as disturbed:
        await in_mid_training(disturbed, 1)
        async with disturbed.disturber.during("training killed", VICTIM):
            kill_training(TaskId(manifest.id, 1, Task.TRAIN, VICTIM, 1))
        trainings = await ended_alike(disturbed, manifest, undisturbed, fault_table)

    assert trainings == once(2) + Counter({(VICTIM, 1): 1})


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


def test_every_program_of_the_stack_is_killed_somewhere(airflow_stack: Stack) -> None:
    """Those of one clinic stand for those of all."""
    state = read_state(airflow_stack.folder)
    assert state is not None
    others = {f"{site}.{component}" for site in SITES for component in OF_AIRFLOW} | set(SITES) | {"epmd"}
    assert {each.name for each in state.programs} - others == {*OTHERS} - {VICTIM}
