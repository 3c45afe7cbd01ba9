"""Broker and store of a real stack die, forget everything, or stand still for a while: nothing is lost."""

import pytest

from servers.fault_table import FaultTable
from servers.stack import Stack
from servers.trials import SITES, Trial, Undisturbed, adding, members_of, model_of, trial
from wardround_messages.manifest import Manifest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


async def assert_alike(disturbed: Trial, manifest: Manifest, undisturbed: Undisturbed, table: FaultTable) -> None:
    outcome = await disturbed.until_ended()
    expected = await undisturbed(manifest)
    table.judge(outcome, expected)
    assert model_of(outcome) == expected
    assert members_of(outcome) == {round_: set(SITES) for round_ in range(1, manifest.rounds.count + 1)}


async def test_killed_servers_start_again_on_what_they_kept(
    stack: Stack, undisturbed: Undisturbed, fault_table: FaultTable
) -> None:
    manifest = adding("killed-servers", 6)
    async with trial(stack, manifest) as disturbed:
        for round_, program in enumerate(("minio", "rabbitmq", "epmd"), start=1):
            await disturbed.recording.until_training("clinic-2", round_)
            await disturbed.disturber.kill(program)
        await assert_alike(disturbed, manifest, undisturbed, fault_table)


async def test_nothing_was_only_in_the_broker(stack: Stack, undisturbed: Undisturbed, fault_table: FaultTable) -> None:
    manifest = adding("wiped-broker", 4)
    async with trial(stack, manifest) as disturbed:
        await disturbed.recording.until_training("clinic-2", 2)
        await disturbed.disturber.wipe_broker()
        await assert_alike(disturbed, manifest, undisturbed, fault_table)


@pytest.mark.faults
@pytest.mark.parametrize("program", ["minio", "rabbitmq"])
async def test_a_server_that_stays_away_is_waited_for(
    stack: Stack, undisturbed: Undisturbed, fault_table: FaultTable, program: str
) -> None:
    manifest = adding(f"away-{program}", 4)
    async with trial(stack, manifest) as disturbed:
        await disturbed.recording.until_training("clinic-2", 2)
        await disturbed.disturber.take_away(program, 12)
        await assert_alike(disturbed, manifest, undisturbed, fault_table)


@pytest.mark.faults
@pytest.mark.parametrize("program", ["minio", "rabbitmq"])
async def test_a_server_that_stands_still_is_waited_for(
    stack: Stack, undisturbed: Undisturbed, fault_table: FaultTable, program: str
) -> None:
    manifest = adding(f"frozen-{program}", 4)
    async with trial(stack, manifest) as disturbed:
        await disturbed.recording.until_training("clinic-2", 2)
        await disturbed.disturber.freeze(program, 12)
        await assert_alike(disturbed, manifest, undisturbed, fault_table)


@pytest.mark.faults
async def test_a_broker_wiped_in_every_round_loses_nothing(
    stack: Stack, undisturbed: Undisturbed, fault_table: FaultTable
) -> None:
    manifest = adding("wiped-again", 3)
    async with trial(stack, manifest) as disturbed:
        for round_ in range(1, 4):
            await disturbed.recording.until_training("clinic-2", round_)
            await disturbed.disturber.wipe_broker()
        await assert_alike(disturbed, manifest, undisturbed, fault_table)
