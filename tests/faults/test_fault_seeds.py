"""Real services under faults that seeds draw: no promise is broken, and a seed is a schedule."""

import os
import subprocess
import sys

import pytest

from wardround.simulation.faults.campaign import Verdict, campaign, judge_seeds
from wardround.simulation.faults.figures import Figures
from wardround.simulation.faults.profiles import PROFILES, schedule_of

SEEDS = 320
# What a campaign must have brought about to be worth its name.
KINDS = {
    *("kill", "killed", "rebooted", "frozen", "cut off", "mute", "deaf", "clock"),
    *("store away", "broker away", "broker wiped", "stale listing", "training crashed"),
    *("announcement lost", "announcement doubled", "announcement late", "announcement forged"),
    *("message lost", "message doubled", "message late"),
    *("store call failed", "store call timed out", "bus call failed", "bus call timed out"),
    *("scheduler call failed", "scheduler call timed out", "disk call failed", "disk full"),
    *("bit flipped in an update", "bit flipped in a model", "bit flipped in a journal entry"),
}


@pytest.fixture(scope="module")
def verdicts() -> list[Verdict]:
    return list(campaign(range(SEEDS)))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_no_schedule_breaks_a_promise(verdicts: list[Verdict]) -> None:
    assert {verdict.seed for verdict in verdicts} == set(range(SEEDS))
    assert {verdict.seed: verdict.violations for verdict in verdicts if verdict.violations} == {}


@pytest.mark.slow
def test_every_kind_of_fault_was_injected_and_something_was_trained(verdicts: list[Verdict]) -> None:
    together = Figures()
    for verdict in verdicts:
        together.add(verdict.figures)
    assert together.injected.keys() >= KINDS
    assert {verdict.profile for verdict in verdicts} == PROFILES.keys()
    assert together.runs == SEEDS
    assert together.attempted >= together.acknowledged >= together.counted > 2 * SEEDS
    assert (together.lost, together.counted_twice, together.unexpected) == (0, 0, 0)
    assert together.refused_appends > 0  # two coordinators did get in each other's way


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_seed_is_the_same_schedule_in_another_process(verdicts: list[Verdict]) -> None:
    seeds = [2, 3, 5, 7, 11, 13]
    known = {verdict.seed: verdict.digest for verdict in verdicts}
    program = (
        "from wardround.simulation.faults.campaign import judge_seeds\n"
        f"print(*(verdict.digest for verdict in judge_seeds({seeds})))"
    )
    for hash_seed in ("0", "4711"):
        printed = subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert printed.split() == [known[seed] for seed in seeds]


@pytest.mark.slow
def test_two_seeds_are_two_schedules() -> None:
    one, other = judge_seeds([21, 22])
    assert one.digest != other.digest


def test_what_a_seed_stands_for_needs_no_run() -> None:
    assert schedule_of(7) == schedule_of(7) != schedule_of(8)
