"""Whole federations for tests: the adding trainer, whose weights can be computed by hand."""

import asyncio
import random
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Event
from typing import Any

from wardround.coordinator.evolve import evolve
from wardround.coordinator.state import State
from wardround.runtime.journal import Journal, Stored
from wardround.simulation.federation import Federation
from wardround.simulation.researcher import Ending, carry_through
from wardround.simulation.sites import Clinic, make_clinics
from wardround.site_agent.scheduler.inline import InlineScheduler
from wardround.site_agent.scheduler.port import Scheduler
from wardround.training.runner import run_folder
from wardround_messages.manifest import Cohort, Evaluation, Manifest, Rounds, Training


def counting(sites: int = 3, *, count: int = 3, quorum: Any = "all", **parts: Any) -> Manifest:
    """Site k adds k in each round and has k cases, so that the weights can be computed by hand."""
    return Manifest(
        id=parts.pop("id", "count"),
        study="counting",
        purpose="",
        cohort=Cohort(sites=tuple(f"clinic-{number}" for number in range(1, sites + 1)), quorum=quorum),
        rounds=Rounds(count=count, **parts.pop("rounds", {})),
        training=Training(trainer="adding", dataset="counting", parameters=parts.pop("parameters", {})),
        evaluation=parts.pop("evaluation", Evaluation(final=False)),
        **parts,
    )


class ShuffledFederation(Federation):
    """Trainings end in an order drawn by a seed, not in that of the sites."""

    def __init__(self, folder: Path, clinics: Sequence[Clinic], *, seed: int, **options: Any) -> None:
        self._rng = random.Random(seed)
        super().__init__(folder, clinics, **options)

    def _training(self, clinic: Clinic) -> Scheduler:
        def late(folder: Path, *, cancelled: Event) -> object:
            time.sleep(self._rng.choice([0.0, 0.01, 0.03]))
            return run_folder(folder, cancelled=cancelled)

        return InlineScheduler(clinic.settings.paths.spool, late)


def clinics_for(folder: Path, manifest: Manifest) -> list[Clinic]:
    return make_clinics(folder / "sites", manifest, scheduler="inline")


async def run(folder: Path, manifest: Manifest, **options: Any) -> tuple[Ending, State]:
    """Carry the experiment through; returns how it ended and the state that its journal gives."""
    federation = Federation(folder, clinics_for(folder, manifest), **options)
    return await finish(federation, manifest)


async def finish(federation: Federation, manifest: Manifest) -> tuple[Ending, State]:
    async with federation.running():
        async with asyncio.timeout(60):
            ending = await carry_through(federation, manifest)
        return ending, state_of(await journal_of(federation, manifest.id))


async def journal_of(federation: Federation, experiment: str) -> list[Stored]:
    return await Journal(federation.store, experiment, writer="test", clock=federation.clock).read_on()


def state_of(entries: list[Stored]) -> State:
    state: State | None = None
    for stored in entries:
        state = evolve(state, stored.entry)
    assert state is not None
    return state
