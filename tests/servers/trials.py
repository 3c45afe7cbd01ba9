"""Experiments on a real stack that are disturbed while they are recorded, and end by themselves."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from servers.disturber import Disturber
from servers.recorder import Recording
from servers.stack import Stack
from simulation.whole import counting, run
from wardround.simulation.faults.evidence import evidence_of
from wardround.simulation.faults.run import Outcome
from wardround_messages.journal import StepClosed
from wardround_messages.manifest import Manifest
from wardround_messages.names import Task

SITES = ("clinic-1", "clinic-2", "clinic-3")
TRAINING_TAKES = 1.0  # seconds
SETTLES_IN = 1.0


def adding(name: str, rounds: int, *, seconds: float = TRAINING_TAKES, **limits: Any) -> Manifest:
    """Three clinics, a small model; `limits` are of the rounds, and the quorum."""
    quorum = limits.pop("quorum", "all")
    parameters = {"size_mb": 0.2, "seconds": seconds}
    return counting(id=name, count=rounds, quorum=quorum, rounds={"deadline": 150} | limits, parameters=parameters)


@dataclass(frozen=True, slots=True)
class Trial:
    """An experiment that was accepted, and goes on."""

    recording: Recording
    disturber: Disturber

    @property
    def ended(self) -> bool:
        state = self.recording.state
        return state is not None and state.ended

    async def until_round(self, number: int) -> None:
        """Wait until that round is open, or over."""
        await self.recording.until(lambda state: state.latest >= number - 1)

    async def until_it_goes_on(self) -> None:
        """Wait until the journal has one entry more than now, or has ended."""
        state = self.recording.state
        entries = 0 if state is None else state.entries
        await self.recording.until(lambda state: state.entries > entries or state.ended)

    async def until_ended(self, within: float = 120) -> Outcome:
        """It has ended by itself, and nothing goes on any more."""
        await self.recording.until(lambda state: state.ended, within=within)
        await asyncio.sleep(SETTLES_IN)
        return await self.recording.outcome()


@asynccontextmanager
async def trial(stack: Stack, manifest: Manifest) -> AsyncIterator[Trial]:
    async with stack.recording(manifest) as recording, stack.hub() as hub:
        await hub.start(manifest)
        begun = Trial(recording, Disturber(stack, recording))
        try:
            yield begun
        except Exception:
            if not begun.ended:
                await hub.abort(manifest.id)  # else it would be in the way of those that follow
            raise


Undisturbed = Callable[[Manifest], Awaitable[str]]


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """The digest of the last model of an experiment that nothing disturbs: of the simulation, where time is not spent
    on waiting."""
    known: dict[int, str] = {}

    async def model_of(manifest: Manifest) -> str:
        rounds = manifest.rounds.count
        if rounds not in known:
            hasty = adding("undisturbed", rounds, seconds=0)
            _, state = await asyncio.to_thread(asyncio.run, run(tmp_path_factory.mktemp("undisturbed"), hasty))
            known[rounds] = state.models[rounds].sha256
        return known[rounds]

    return model_of


def model_of(outcome: Outcome) -> str:
    """The digest of the last model."""
    state = evidence_of(outcome).state
    assert state is not None
    assert state.phase == "finished"
    return state.models[-1].sha256


def members_of(outcome: Outcome) -> dict[int, set[str]]:
    """Who was counted in each round of training."""
    return {
        closed.round: {member.site for member in closed.members}
        for _, closed in evidence_of(outcome).closings
        if closed.task is Task.TRAIN and isinstance(closed, StepClosed)
    }
