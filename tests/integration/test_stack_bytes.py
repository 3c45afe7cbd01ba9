"""The same experiment over real servers, with every service a process of its own: the same bytes, whatever dies."""

import asyncio
from pathlib import Path

import pytest

from servers.stack import Stack
from simulation.whole import counting, run
from wardround.client.experiment_file import load_experiment
from wardround.metrics.view import ExperimentView
from wardround.simulation.run import Embedding, run_federation
from wardround.simulation.sites import make_clinics
from wardround_messages.manifest import Manifest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROUNDS = 8
HUB_PROGRAMS = ("coordinator", "coordinator-2", "aggregator", "aggregator-2", "metrics", "rabbitmq", "minio", "epmd")


def manifest_of(name: str, *, count: int = ROUNDS) -> Manifest:
    return counting(id=name, count=count, parameters={"size_mb": 0.5})


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of the last model of the simulation."""
    _, state = asyncio.run(run(tmp_path_factory.mktemp("simulated"), manifest_of("count")))
    return state.models[ROUNDS].sha256


async def carried_through(stack: Stack, manifest: Manifest, *, kill: str | None = None) -> ExperimentView:
    """The experiment as it ended; `kill` dies when the third round is done."""
    async with stack.hub() as hub:
        await hub.start(manifest)
        async with asyncio.timeout(150):
            async for view in hub.watch(manifest.id):
                if kill is not None and view.rounds_done >= 3:
                    stack.kill(kill)
                    kill = None
        assert kill is None
        return view


async def test_breast_cancer_ends_with_the_bytes_of_the_simulation(stack: Stack, tmp_path: Path) -> None:
    manifest = load_experiment(Path("examples/breast-cancer.toml"))
    clinics = make_clinics(tmp_path / "sites", manifest, scheduler="inline")
    simulated = await run_federation(manifest, clinics, tmp_path, Embedding(), watch=lambda *_: None)
    assert simulated.view is not None
    assert simulated.view.model is not None

    view = await carried_through(stack, manifest)

    assert (view.phase, view.rounds_done) == ("finished", 10)
    assert view.model is not None
    assert view.model.sha256 == simulated.view.model.sha256
    assert view.tested == simulated.view.tested


@pytest.mark.parametrize("program", [*HUB_PROGRAMS, "clinic-1", "clinic-3"])
async def test_a_process_killed_in_the_middle_changes_nothing(stack: Stack, simulated: str, program: str) -> None:
    before = stack.restarts(program)

    view = await carried_through(stack, manifest_of(f"killed-{program}"), kill=program)

    assert (view.phase, view.rounds_done) == ("finished", ROUNDS)
    assert view.model is not None
    assert view.model.sha256 == simulated
    assert all(site.rounds == ROUNDS for site in view.sites)
    await stack.until_running(program, restarts=before + 1)
