"""Same experiment, same bytes: whatever carries the messages, keeps the objects, runs the trainings, or dies."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load
from whole import ShuffledFederation, clinics_for, counting, finish, run

from wardround.coordinator.state import State
from wardround.simulation.federation import Federation
from wardround_messages.manifest import Evaluation, Manifest, Strategy
from wardround_messages.names import bucket_of


def sha256(state: State) -> str:
    model = state.models[-1]
    assert model is not None
    return model.sha256


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return counting(count=3, evaluation=Evaluation(final=True), parameters={"size_mb": 0.05, "tensors": 3})


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, manifest: Manifest) -> str:
    ending, state = asyncio.run(run(tmp_path_factory.mktemp("plain"), manifest))
    assert ending.state == "finished"
    return sha256(state)


@pytest.mark.parametrize("weight", ["cases", "equal"])
async def test_the_weights_are_those_computed_by_hand(tmp_path: Path, weight: str) -> None:
    manifest = counting(count=3, strategy=Strategy(weight=weight))  # type: ignore[arg-type]
    federation = Federation(tmp_path, clinics_for(tmp_path, manifest))
    _, state = await finish(federation, manifest)
    model = state.models[-1]
    assert model is not None
    each_round = (1 * 1 + 2 * 2 + 3 * 3) / 6 if weight == "cases" else (1 + 2 + 3) / 3
    data = (tmp_path / "hub" / bucket_of(manifest.id) / model.key).read_bytes()
    for tensor in load(data).values():
        np.testing.assert_allclose(tensor, 3 * each_round, rtol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"store": "memory"},
        {"threads": False},
        {"threads": False, "store": "memory"},
        {"scheduler": "local"},
        {"coordinators": 2, "aggregators": 2},
    ],
    ids=str,
)
async def test_the_model_has_the_same_bytes_on_other_adapters(
    tmp_path: Path, manifest: Manifest, expected: str, options: dict[str, object]
) -> None:
    ending, state = await run(tmp_path, manifest, **options)
    assert ending.state == "finished"
    assert sha256(state) == expected


@pytest.mark.parametrize("seed", range(3))
async def test_the_model_has_the_same_bytes_in_any_order_of_arrival(
    tmp_path: Path, manifest: Manifest, expected: str, seed: int
) -> None:
    federation = ShuffledFederation(tmp_path, clinics_for(tmp_path, manifest), seed=seed)
    _, state = await finish(federation, manifest)
    assert sha256(state) == expected


@pytest.mark.slow
async def test_a_real_trainer_gives_the_same_bytes_in_threads_and_in_child_processes(tmp_path: Path) -> None:
    manifest = counting(count=2, id="mlp").model_copy(
        update={
            "training": counting().training.model_copy(
                update={"trainer": "breast-cancer-mlp", "dataset": "breast-cancer"}
            )
        }
    )
    digests = set()
    for number, scheduler in enumerate(("inline", "local")):
        _, state = await run(tmp_path / str(number), manifest, scheduler=scheduler)
        digests.add(sha256(state))
    assert len(digests) == 1
