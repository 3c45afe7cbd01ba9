"""Whatever runs in a real stack is killed again and again, several at once, as a seed draws it."""

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from servers.fault_table import FaultTable
from servers.stack import Stack
from servers.trials import SITES, Undisturbed, adding, members_of, model_of, trial

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(600)]

LASTS = 60.0  # seconds
EVERY = 4.0
ROUNDS = 30
PROGRAMS = ("coordinator", "coordinator-2", "aggregator", "aggregator-2", "metrics", *SITES, "rabbitmq", "minio")


@dataclass(frozen=True, slots=True)
class Kill:
    """`at` is seconds from the beginning."""

    at: float
    programs: tuple[str, ...]


def kills_of(seed: int) -> Iterator[Kill]:
    """What the seed stands for."""
    dice = random.Random(f"kills {seed}")
    at = dice.expovariate(1 / EVERY)
    while at < LASTS:
        yield Kill(at, tuple(dice.sample(PROGRAMS, dice.choice((1, 1, 2, 3)))))
        at += dice.expovariate(1 / EVERY)


def test_a_seed_is_the_same_plan_again() -> None:
    assert list(kills_of(3)) == list(kills_of(3)) != list(kills_of(4))
    assert {program for seed in range(20) for kill in kills_of(seed) for program in kill.programs} == set(PROGRAMS)


async def test_random_kills_change_nothing(
    stack: Stack, undisturbed: Undisturbed, fault_table: FaultTable, faults_seed: int
) -> None:
    manifest = adding("random-kills", ROUNDS, deadline=300)
    async with trial(stack, manifest) as disturbed:
        clock = disturbed.recording.history.clock
        began = clock()
        async with asyncio.TaskGroup() as killing:
            for kill in kills_of(faults_seed):
                await asyncio.sleep(max(began + kill.at - clock(), 0))
                if disturbed.ended:
                    break
                alive = [program for program in kill.programs if stack.is_running(program)]
                killing.create_task(disturbed.disturber.kill(*alive))
        outcome = await disturbed.until_ended(within=300)

    expected = await undisturbed(manifest)
    fault_table.judge(outcome, expected)
    assert model_of(outcome) == expected
    assert members_of(outcome) == {round_: set(SITES) for round_ in range(1, ROUNDS + 1)}
