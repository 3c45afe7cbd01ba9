"""A clinic that declined or withdrew grants anew: the federation asks it again from the next step on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from whole import clinics_for, counting, journal_of

from wardround.runtime.bus.memory import MemoryBus
from wardround.runtime.bus.messaging import Messenger
from wardround.simulation.federation import Federation
from wardround.simulation.researcher import Ending, carry_through
from wardround.simulation.sites import RESEARCHER, Clinic
from wardround.site_agent.app import SiteAgent
from wardround_messages.commands import ExtendExperiment, StartExperiment
from wardround_messages.journal import ExperimentFinished, Fact, SiteConsented, StepClosed, StepOpened
from wardround_messages.manifest import Manifest
from wardround_messages.messages import Command
from wardround_messages.names import HUB, Task

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


@asynccontextmanager
async def started(folder: Path, manifest: Manifest) -> AsyncIterator[Federation]:
    """A federation that works on the experiment while the block runs; a person at `JOINS` is asked, for a second."""
    manifest = manifest.model_copy(update={"cohort": manifest.cohort.model_copy(update={"enrol": 1})})
    clinics = clinics_for(folder, manifest)
    policy = next(clinic.policy for clinic in clinics if clinic.name == JOINS)
    policy.write_text(policy.read_text().replace('"automatic"', '"manual"'))
    federation = Federation(folder, clinics)
    async with federation.running():
        await say(federation, StartExperiment(manifest=manifest))
        yield federation


async def test_a_clinic_that_leaves_it_to_a_person_joins_at_the_next_step_after_the_word(tmp_path: Path) -> None:
    manifest = counting(count=12, quorum=2, parameters={"seconds": 0.02})
    async with started(tmp_path, manifest) as federation:
        without = await opened(federation, manifest.id, asks=False)
        await agent_of(federation).approve(manifest.id, by="alice")
        assert await opened(federation, manifest.id, asks=True, after=without) > without
        await written(federation, manifest.id, ExperimentFinished)


async def test_a_person_who_refuses_keeps_nobody_waiting(tmp_path: Path) -> None:
    manifest = counting(count=2, quorum=2)
    async with started(tmp_path, manifest) as federation:
        await written(federation, manifest.id, SiteConsented, site=JOINS, verdict="pending")
        await agent_of(federation).refuse(manifest.id, "not this year", by="alice")
        await written(federation, manifest.id, SiteConsented, site=JOINS, verdict="declined", code="refused_by_person")
        assert await opened(federation, manifest.id, asks=False) == 1
        await written(federation, manifest.id, ExperimentFinished)


async def test_more_rounds_are_trained_without_a_clinic_until_its_person_agrees_to_them(tmp_path: Path) -> None:
    manifest = counting(count=2, quorum=2, parameters={"seconds": 0.02})
    async with started(tmp_path, manifest) as federation:
        await written(federation, manifest.id, SiteConsented, site=JOINS, verdict="pending")
        await agent_of(federation).approve(manifest.id)
        await written(federation, manifest.id, ExperimentFinished)
        await say(federation, ExtendExperiment(experiment=manifest.id, rounds=16))
        without = await opened(federation, manifest.id, asks=False, after=2)
        await agent_of(federation).approve(manifest.id)
        assert await opened(federation, manifest.id, asks=True, after=without) > without


async def test_a_stopped_clinic_holds_nobody_up_and_works_again_at_the_next_step_once_resumed(tmp_path: Path) -> None:
    manifest = counting(count=14, quorum=2, parameters={"seconds": 0.02})
    async with going_on(tmp_path, manifest, clinics_for(tmp_path, manifest)) as federation:
        await opened(federation, manifest.id, asks=True)
        await agent_of(federation).stop("fire drill", by="alice")
        missing = await counted(federation, manifest.id, is_member=False)
        await agent_of(federation).resume(by="alice")
        assert await counted(federation, manifest.id, is_member=True, after=missing) > missing


async def say(federation: Federation, command: Command) -> None:
    bus = MemoryBus(federation.broker, RESEARCHER)
    await Messenger(bus, service="client", origin=HUB, clock=federation.clock).send(command)
    await bus.close()


async def written(federation: Federation, experiment: str, kind: type[Fact], **parts: str) -> None:
    """Return when the journal holds such an entry."""
    async with asyncio.timeout(20):
        while True:
            for stored in await journal_of(federation, experiment):
                body = stored.entry.body
                if isinstance(body, kind) and all(getattr(body, name) == value for name, value in parts.items()):
                    return
            await asyncio.sleep(0.01)


async def counted(federation: Federation, experiment: str, *, is_member: bool, after: int = 0) -> int:
    """The first training after round `after` that closed with the clinic among the members, or without it."""
    async with asyncio.timeout(20):
        while True:
            for stored in await journal_of(federation, experiment):
                step = stored.entry.body
                if not isinstance(step, StepClosed) or step.task is not Task.TRAIN or step.round <= after:
                    continue
                if (JOINS in [member.site for member in step.members]) == is_member:
                    return step.round
            await asyncio.sleep(0.01)
