"""Of two coordinators of a real stack one stands still, the other takes over, the first thaws: history has no fork."""

import asyncio
import random

import pytest

from servers.fault_table import FaultTable
from servers.recorder import Recording
from servers.stack import Stack
from servers.trials import Undisturbed, adding, model_of, trial
from wardround_messages.journal import JournalEntry

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(300)]

COORDINATORS = ("coordinator", "coordinator-2")
FREEZES_FOR = 25.0  # seconds: longer than a standby takes to look around


def at_work(stack: Stack, recording: Recording) -> str:
    """The coordinator that wrote the newest entry."""
    writer = _writers(recording)[-1]
    (found,) = [name for name in COORDINATORS if f".{stack.pid(name)}." in writer]
    return found


def _writers(recording: Recording) -> list[str]:
    return [JournalEntry.model_validate_json(one.data).writer for one in recording.history.journal]


async def test_a_second_coordinator_takes_over_and_the_first_one_forks_nothing_when_it_thaws(
    stack: Stack, undisturbed: Undisturbed, fault_table: FaultTable
) -> None:
    manifest = adding("takeover", 30)
    async with trial(stack, manifest) as disturbed:
        await disturbed.until_round(2)
        frozen = at_work(stack, disturbed.recording)
        before = len(_writers(disturbed.recording))
        mark = f".{stack.pid(frozen)}."
        await disturbed.disturber.freeze(frozen, FREEZES_FOR)
        meanwhile = _writers(disturbed.recording)[before:]
        outcome = await disturbed.until_ended()

    assert any(mark not in writer for writer in meanwhile)
    expected = await undisturbed(manifest)
    fault_table.judge(outcome, expected)
    assert model_of(outcome) == expected


async def test_coordinators_that_stand_still_again_and_again_fork_nothing(
    stack: Stack, undisturbed: Undisturbed, fault_table: FaultTable, faults_seed: int
) -> None:
    dice = random.Random(f"freezes {faults_seed}")
    manifest = adding("freezes", 12)
    async with trial(stack, manifest) as disturbed:
        while not disturbed.ended:
            await asyncio.sleep(dice.uniform(0, 0.5))
            await disturbed.disturber.freeze(at_work(stack, disturbed.recording), dice.uniform(0.05, 3))
            await disturbed.until_it_goes_on()
        outcome = await disturbed.until_ended()

    expected = await undisturbed(manifest)
    fault_table.judge(outcome, expected)
    assert model_of(outcome) == expected
