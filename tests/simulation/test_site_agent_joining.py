"""A clinic that declined or withdrew grants anew: the federation asks it again from the next step on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from whole import clinics_for, counting, journal_of

from wardround.simulation.federation import Federation
from wardround.simulation.researcher import Ending, carry_through
from wardround.simulation.sites import Clinic
from wardround.site_agent.app import SiteAgent
from wardround_messages.journal import StepOpened
from wardround_messages.manifest import Manifest

JOINS = "clinic-2"


async def opened(federation: Federation, experiment: str, *, asks: bool, after: int = 0) -> int:
    """The first round after `after` in which a training is opened that asks the clinic, or does not."""
    async with asyncio.timeout(20):
        while True:
            for stored in await journal_of(federation, experiment):
                step = stored.entry.body
                if isinstance(step, StepOpened) and step.round > after and (JOINS in step.asked) == asks:
                    return step.round
            await asyncio.sleep(0.01)


@asynccontextmanager
async def going_on(folder: Path, manifest: Manifest, clinics: list[Clinic]) -> AsyncIterator[Federation]:
    """A federation that carries the experiment through while the block runs, and to its end."""
    federation = Federation(folder, clinics)
    async with federation.running():
        ending = asyncio.create_task(carry_through(federation, manifest))
        yield federation
        assert await asyncio.wait_for(ending, 30) == Ending("finished")


def agent_of(federation: Federation) -> SiteAgent:
    agent = federation.services[JOINS]
    assert isinstance(agent, SiteAgent)
    return agent


async def test_a_clinic_that_withdrew_joins_at_the_next_step_once_it_grants_anew(tmp_path: Path) -> None:
    manifest = counting(count=12, quorum=2, parameters={"seconds": 0.02})
    async with going_on(tmp_path, manifest, clinics_for(tmp_path, manifest)) as federation:
        first = await opened(federation, manifest.id, asks=True)
        await agent_of(federation).withdraw(manifest.id, "the ethics board asks for it")
        without = await opened(federation, manifest.id, asks=False, after=first)
        await agent_of(federation).approve(manifest.id)
        assert await opened(federation, manifest.id, asks=True, after=without) > without


@pytest.mark.parametrize("approval", ["automatic", "manual"])
async def test_a_clinic_that_declined_joins_at_the_next_step_once_it_grants(tmp_path: Path, approval: str) -> None:
    manifest = counting(count=12, quorum=2, parameters={"seconds": 0.02})
    clinics = clinics_for(tmp_path, manifest)
    policy = next(clinic.policy for clinic in clinics if clinic.name == JOINS)
    allowing = policy.read_text()
    policy.write_text("schema = 1\n")
    async with going_on(tmp_path, manifest, clinics) as federation:
        without = await opened(federation, manifest.id, asks=False)
        policy.write_text(allowing.replace('"automatic"', f'"{approval}"'))
        await agent_of(federation).approve(manifest.id)
        assert await opened(federation, manifest.id, asks=True, after=without) > without
