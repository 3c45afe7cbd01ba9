"""One clinic of a real stack on a bad line to the hub: it holds nobody up, and takes part again by itself."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from servers.disturber import Line, line_to
from servers.fault_table import FaultTable
from servers.stack import Stack
from servers.trials import SITES, Undisturbed, adding, members_of, model_of, trial
from wardround.simulation.faults.evidence import evidence_of
from wardround_messages.journal import AnswersLate
from wardround_messages.names import AnswerKey, Task

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.asyncio(loop_scope="module")]

CUT_OFF = "clinic-3"
OTHERS = {"clinic-1", "clinic-2"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def line_of_module(stack: Stack) -> AsyncIterator[Line]:
    async with line_to(stack, CUT_OFF) as line:
        yield line


@pytest_asyncio.fixture(loop_scope="module")
async def line(line_of_module: Line) -> Line:
    await line_of_module.mend()
    return line_of_module


async def test_the_others_go_on_without_a_clinic_that_is_cut_off_and_it_joins_them_again(
    stack: Stack, line: Line, fault_table: FaultTable
) -> None:
    rounds = 24
    missed = AnswerKey(2, Task.TRAIN, CUT_OFF, 1)
    async with trial(stack, adding("cut-off", rounds, quorum=2, deadline=30, grace=2)) as disturbed:
        await disturbed.recording.until_training(CUT_OFF, 2)
        async with disturbed.disturber.during("cut off", CUT_OFF):
            await line.cut()
            await disturbed.until_round(4)
            await line.store.mend()  # it hears nothing yet, so it answers what is over
            async with asyncio.timeout(40):
                while missed not in disturbed.recording.history.answers:  # noqa: ASYNC110 - the store tells
                    await asyncio.sleep(0.05)
            await line.broker.mend()
        outcome = await disturbed.until_ended()

    fault_table.judge(outcome)
    members = members_of(outcome)
    assert members[1] == set(SITES)
    assert members[2] == members[3] == OTHERS
    assert members[rounds] == set(SITES)
    late = [
        (each.site, each.round)
        for one in evidence_of(outcome).recorded
        if isinstance(one.entry.body, AnswersLate)
        for each in one.entry.body.answers
    ]
    assert (CUT_OFF, 2) in late
    assert any(f".{CUT_OFF}." in one.id and one.id.startswith("cancel.") for one in outcome.history.commanded)


async def stalled(line: Line) -> None:
    line.worsen(stalled=True)
    await asyncio.sleep(8)


async def stalled_for_long(line: Line) -> None:
    """Longer than a connection to the broker, or a call at the store, takes to be given up."""
    line.worsen(stalled=True)
    await asyncio.sleep(40)


async def mute(line: Line) -> None:
    line.worsen(mute=True)
    await asyncio.sleep(8)


async def deaf(line: Line) -> None:
    line.worsen(deaf=True)
    await asyncio.sleep(8)


async def cut(line: Line) -> None:
    await line.cut()
    await asyncio.sleep(8)


async def flapping(line: Line) -> None:
    await line.flap(8, every=0.7)


async def slow(line: Line) -> None:
    """A model takes two seconds."""
    line.worsen(rate=100_000)
    await asyncio.sleep(8)


async def sliced(line: Line) -> None:
    line.worsen(piece=128)
    await asyncio.sleep(8)


async def breaking(line: Line) -> None:
    """Half an update passes."""
    line.worsen(breaks_after=100_000)
    await asyncio.sleep(8)


@pytest.mark.faults
@pytest.mark.parametrize("bad", [cut, flapping, stalled, stalled_for_long, mute, deaf, slow, sliced, breaking])
async def test_a_bad_line_changes_nothing_but_the_time(
    stack: Stack, line: Line, undisturbed: Undisturbed, fault_table: FaultTable, bad: Callable[[Line], Awaitable[None]]
) -> None:
    manifest = adding(f"line-{bad.__name__.replace('_', '-')}", 6)
    async with trial(stack, manifest) as disturbed:
        await disturbed.recording.until_training(CUT_OFF, 2)
        async with disturbed.disturber.during(f"line {bad.__name__.replace('_', ' ')}", CUT_OFF):
            await bad(line)
            await line.mend()
        outcome = await disturbed.until_ended()

    expected = await undisturbed(manifest)
    fault_table.judge(outcome, expected)
    assert model_of(outcome) == expected
    assert members_of(outcome) == {round_: set(SITES) for round_ in range(1, 7)}
