"""Rounds that ask some of the clinics, and clinics that are away: whole federations in virtual time."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import pytest

from wardround.runtime.bus.memory import MemoryBus
from wardround.runtime.bus.messaging import Messenger
from wardround.simulation.faults.checker import check
from wardround.simulation.faults.evidence import Evidence, evidence_of
from wardround.simulation.faults.fates import Fates
from wardround.simulation.faults.plan import EXPERIMENT, Calls, Mail, Plan, Schedule
from wardround.simulation.faults.process import Link
from wardround.simulation.faults.run import run_seed, run_with
from wardround.simulation.faults.workplace import workplace
from wardround.simulation.faults.world import EPOCH, World
from wardround.simulation.sites import RESEARCHER, Clinic
from wardround_messages.commands import ReadmitSite
from wardround_messages.journal import ModelAdopted, SiteReadmitted, SiteSetAside, StepClosed, StepOpened
from wardround_messages.names import HUB, Task

pytestmark = pytest.mark.slow

# --- five clinics, three of them in each round -------------------------------------------------------------------

SAMPLED = Plan(sites=5, rounds=5, quorum="all", sample=3, deadline=600)
DISTURBED = {
    "kills": {"calls": Calls(killed=0.01)},
    "failing calls": {"calls": Calls(failed=0.1, timed_out=0.1, slow=0.05)},
    "mail": {"messages": Mail(lost=0.2, doubled=0.3), "announcements": Mail(lost=0.5, doubled=0.3, late=0.3)},
}


def asked_to_train(evidence: Evidence) -> list[tuple[str, ...]]:
    bodies = [one.entry.body for one in evidence.recorded]
    return [body.asked for body in bodies if isinstance(body, StepOpened) and body.task is Task.TRAIN]


def trained(evidence: Evidence) -> list[tuple[str, ...]]:
    """By round, the clinics that stored an answer to it."""
    keys = [key for key in evidence.outcome.history.answers if key.task is Task.TRAIN]
    rounds = sorted({key.round for key in keys})
    return [tuple(sorted({key.site for key in keys if key.round == round_})) for round_ in rounds]


def last_model(evidence: Evidence) -> str:
    (*_, adopted) = [one.entry.body for one in evidence.recorded if isinstance(one.entry.body, ModelAdopted)]
    return adopted.model.sha256


@pytest.fixture(scope="module")
def calm() -> Evidence:
    with workplace() as place:
        return evidence_of(run_with(SAMPLED, place))


def test_only_the_clinics_of_the_sample_train_and_each_of_them_takes_its_turn(calm: Evidence) -> None:
    assert [len(sample) for sample in asked_to_train(calm)] == [3] * 5
    assert trained(calm) == asked_to_train(calm)
    assert sorted(sum(site in sample for sample in trained(calm)) for site in SAMPLED.clinics) == [3] * 5
    assert check(calm.outcome) == []


def test_the_same_experiment_again_samples_the_same_and_ends_with_the_same_bytes(calm: Evidence) -> None:
    with workplace() as place:
        again = evidence_of(run_with(SAMPLED, place))
    assert (asked_to_train(again), last_model(again)) == (asked_to_train(calm), last_model(calm))


@pytest.mark.parametrize("profile", DISTURBED)
def test_faults_change_neither_the_samples_nor_the_bytes(calm: Evidence, profile: str) -> None:
    with workplace() as place:
        for seed in range(2):
            schedule = Schedule(seed=seed, profile=profile, plan=SAMPLED, lasts=150, **DISTURBED[profile])
            disturbed = evidence_of(run_seed(schedule, place))
            assert check(disturbed.outcome) == []
            assert disturbed.outcome.history.injected
            assert (asked_to_train(disturbed), last_model(disturbed)) == (asked_to_train(calm), last_model(calm))


# --- a clinic that is away for three rounds ----------------------------------------------------------------------

# The grace outlasts the deadline, so that rounds wait for whoever is away.
ABSENT = Plan(sites=3, rounds=6, quorum=2, deadline=120, grace=600, evaluates=True)
AWAY = "clinic-3"


def away_for_three_rounds(back: Callable[[World], Awaitable[None]]) -> Evidence:
    """A run in which the last clinic's line is cut in round 1, until it is set aside; then it is up again."""

    async def script(made: World) -> None:
        await until(made, lambda: made.journal.state is not None and made.journal.state.latest == 0)
        made.cut(AWAY, Link.CUT)
        await until(made, lambda: made.journal.state is not None and made.journal.state.sites[AWAY].set_aside)
        made.cut(AWAY, Link.UP)
        made.history.faults_over = made.history.clock()
        await back(made)

    def world(plan: Plan, clinics: Mapping[str, Clinic], folder: Path, fates: Fates) -> World:
        made = World(plan, clinics, folder, fates)
        made.soon(script(made))
        return made

    with workplace() as place:
        return evidence_of(run_with(ABSENT, place, worlds=world))


async def until(world: World, true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110 - told by the store
        await asyncio.sleep(0.01)


async def stay(_: World) -> None:
    """Nobody does anything."""


async def readmit(world: World) -> None:
    messenger = Messenger(MemoryBus(world.broker, RESEARCHER), service="client", origin=HUB, clock=lambda: EPOCH)
    await messenger.send(ReadmitSite(experiment=EXPERIMENT, site=AWAY))


def closings(evidence: Evidence) -> list[StepClosed]:
    bodies = [one.entry.body for one in evidence.recorded]
    return [body for body in bodies if isinstance(body, StepClosed) and body.task is Task.TRAIN]


def test_a_clinic_away_for_three_rounds_is_set_aside_and_holds_nobody_up_any_more() -> None:
    evidence = away_for_three_rounds(stay)
    assert check(evidence.outcome) == []
    assert [closed.why for closed in closings(evidence)] == ["deadline"] * 3 + ["complete"] * 3
    assert [AWAY in asked for asked in asked_to_train(evidence)] == [True] * 3 + [False] * 3
    assert [one.entry.body.site for one in evidence.recorded if isinstance(one.entry.body, SiteSetAside)] == [AWAY]
    assert evidence.state is not None
    assert evidence.state.phase == "finished"


def test_readmitted_it_is_asked_from_the_next_step_on_and_counted_anew() -> None:
    evidence = away_for_three_rounds(readmit)
    assert check(evidence.outcome) == []
    assert [one.entry.body.site for one in evidence.recorded if isinstance(one.entry.body, SiteReadmitted)] == [AWAY]
    assert asked_to_train(evidence)[-1] == ABSENT.clinics
    assert [closed.why for closed in closings(evidence)][-1] == "complete"
    assert evidence.state is not None
    assert (evidence.state.sites[AWAY].misses, evidence.state.sites[AWAY].set_aside) == (0, False)
