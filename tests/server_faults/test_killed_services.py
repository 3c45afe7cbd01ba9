"""Every service of a real stack dies while rounds run: the experiment ends by itself, with the bytes of an undisturbed
one."""

import asyncio
import random
from collections.abc import Sequence
from statistics import median

import pytest

from servers.fault_table import FaultTable
from servers.stack import Stack
from servers.trials import SITES, Undisturbed, adding, members_of, model_of, trial
from wardround.simulation.faults.figures import recoveries
from wardround.simulation.faults.run import Outcome
from wardround_messages.manifest import Manifest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

COORDINATORS = ("coordinator", "coordinator-2")
AGGREGATORS = ("aggregator", "aggregator-2")
ALL = (*COORDINATORS, *AGGREGATORS, "metrics", *SITES)
ROUND_TAKES = 1.3  # seconds, about
GOES_ON_WITHIN = 5.0  # seconds after what was killed works again


async def test_a_process_killed_in_the_middle_changes_nothing(
    stack: Stack, undisturbed: Undisturbed, fault_table: FaultTable
) -> None:
    kills = ((*COORDINATORS, "metrics"), AGGREGATORS, *((site,) for site in SITES))
    outcome, expected = await killed_one_after_another(stack, adding("killed-services", 7), undisturbed, kills)

    fault_table.judge(outcome, expected)
    assert {fault.target for fault, _ in recoveries(outcome)} == set(ALL)
    assert median(seconds for _, seconds in recoveries(outcome)) < GOES_ON_WITHIN


@pytest.mark.faults
async def test_all_services_at_once_change_nothing(
    stack: Stack, undisturbed: Undisturbed, fault_table: FaultTable
) -> None:
    kills = (SITES, (*COORDINATORS, *AGGREGATORS), ALL)
    outcome, expected = await killed_one_after_another(stack, adding("killed-together", 5), undisturbed, kills)

    fault_table.judge(outcome, expected)


@pytest.mark.faults
@pytest.mark.parametrize("program", ["coordinator", "aggregator", "clinic-2"])
async def test_a_service_killed_at_several_moments_of_a_round_changes_nothing(
    stack: Stack, undisturbed: Undisturbed, fault_table: FaultTable, program: str, faults_seed: int
) -> None:
    moments = random.Random(f"moments {faults_seed} {program}")
    manifest = adding(f"killed-{program}", 8)
    async with trial(stack, manifest) as disturbed:
        for round_ in (2, 4, 6):
            await disturbed.until_round(round_)
            await asyncio.sleep(moments.uniform(0, ROUND_TAKES))
            await disturbed.disturber.kill(program)
        outcome = await disturbed.until_ended()

    expected = await undisturbed(manifest)
    fault_table.judge(outcome, expected)
    assert model_of(outcome) == expected


async def killed_one_after_another(
    stack: Stack, manifest: Manifest, undisturbed: Undisturbed, kills: Sequence[Sequence[str]]
) -> tuple[Outcome, str]:
    """Each time in another round, while clinics train, and when those before work again."""
    async with trial(stack, manifest) as disturbed:
        for round_, programs in enumerate(kills, start=1):
            await disturbed.until_round(round_)
            await disturbed.disturber.kill(*programs)
        outcome = await disturbed.until_ended()
    expected = await undisturbed(manifest)
    assert model_of(outcome) == expected
    assert members_of(outcome) == {round_: set(SITES) for round_ in range(1, manifest.rounds.count + 1)}
    return outcome, expected
