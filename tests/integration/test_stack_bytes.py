"""The same experiment over real servers, with every service a process of its own: the same bytes."""

import asyncio
from pathlib import Path

import pytest

from servers.stack import Stack
from wardround.client.experiment_file import load_experiment
from wardround.simulation.run import Embedding, run_federation
from wardround.simulation.sites import make_clinics

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


async def test_breast_cancer_ends_with_the_bytes_of_the_simulation(stack: Stack, tmp_path: Path) -> None:
    manifest = load_experiment(Path("examples/breast-cancer.toml"))
    clinics = make_clinics(tmp_path / "sites", manifest, scheduler="inline")
    simulated = await run_federation(manifest, clinics, tmp_path, Embedding(), watch=lambda *_: None)
    assert simulated.view is not None
    assert simulated.view.model is not None

    async with stack.hub() as hub:
        await hub.start(manifest)
        async with asyncio.timeout(150):
            async for view in hub.watch(manifest.id):
                last = view

    assert (last.phase, last.rounds_done) == ("finished", 10)
    assert last.model is not None
    assert last.model.sha256 == simulated.view.model.sha256
    assert last.tested == simulated.view.tested
