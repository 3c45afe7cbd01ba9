"""Every service of a real stack dies while rounds run: the experiment ends by itself, with the bytes of an undisturbed
one."""

import asyncio

import pytest

from servers.fault_table import FaultTable
from servers.stack import Stack
from servers.trials import SITES, Undisturbed, adding, members_of, model_of, trial
from wardround.simulation.faults.figures import recoveries

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

HUB = ("coordinator", "coordinator-2", "aggregator", "aggregator-2", "metrics")
ROUNDS = 10
GOES_ON_WITHIN = 5.0  # seconds after what was killed works again


async def test_each_service_killed_once_changes_nothing(
    stack: Stack, undisturbed: Undisturbed, fault_table: FaultTable
) -> None:
    manifest = adding("killed-services", ROUNDS)
    async with trial(stack, manifest) as disturbed:
        async with asyncio.TaskGroup() as killing:
            for round_, program in enumerate((*HUB, *SITES), start=1):
                await disturbed.until_round(round_)
                killing.create_task(disturbed.disturber.kill(program))
        outcome = await disturbed.until_ended()

    expected = await undisturbed(manifest)
    fault_table.judge(outcome, expected)
    assert model_of(outcome) == expected
    assert members_of(outcome) == {round_: set(SITES) for round_ in range(1, ROUNDS + 1)}
    assert {fault.target for fault, _ in recoveries(outcome)} == {*HUB, *SITES}
    assert max(seconds for _, seconds in recoveries(outcome)) < GOES_ON_WITHIN


@pytest.mark.faults
@pytest.mark.timeout(400)
async def test_both_coordinators_or_all_clinics_at_once_change_nothing(
    stack: Stack, undisturbed: Undisturbed, fault_table: FaultTable
) -> None:
    manifest = adding("killed-together", 8)
    async with trial(stack, manifest) as disturbed:
        for round_, programs in enumerate((("coordinator", "coordinator-2"), HUB, SITES, (*HUB, *SITES)), start=1):
            await disturbed.until_round(round_)
            await disturbed.disturber.kill(*programs)
        outcome = await disturbed.until_ended(within=200)

    expected = await undisturbed(manifest)
    fault_table.judge(outcome, expected)
    assert model_of(outcome) == expected
