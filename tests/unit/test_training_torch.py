"""Trainers in torch: what travels, what is remembered, and the same bytes."""

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save
from training_folder import counting_data, fill, install, result_of, update_of

from wardround.training import run_folder
from wardround_messages.names import Task
from wardround_messages.task_folder import UPDATE, TaskResult

if "CI" not in os.environ:
    pytest.importorskip("torch")
import torch
import training_torch_trainers as trainers


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return counting_data(tmp_path / "data")["clinic-3"]["counting"]


@pytest.fixture(autouse=True)
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    names = [name for name, value in vars(trainers).items() if isinstance(value, type)]
    install(tmp_path, monkeypatch, **{name.lower(): f"training_torch_trainers:{name}" for name in names})
    return


def run(folder: Path, data: Path, task: Task, trainer: str, model: bytes | None = None, **job: Any) -> TaskResult:
    return run_folder(fill(folder, task, data, model=model, trainer=trainer, **job))


def first_model(folder: Path, data: Path, trainer: str) -> bytes:
    assert run(folder, data, Task.INITIALISE, trainer).failure is None
    return (folder / UPDATE).read_bytes()


def test_a_network_is_initialised_trained_and_measured(tmp_path: Path, data: Path) -> None:
    model = first_model(tmp_path / "first", data, "norming")
    assert {name: str(value.dtype) for name, value in load(model).items()}["1.num_batches_tracked"] == "int64"
    result = run(tmp_path / "task", data, Task.TRAIN, "norming", model, epochs=2)
    assert result == result_of(tmp_path / "task")
    assert result.failure is None
    assert result.steps == 2
    assert update_of(tmp_path / "task")["1.num_batches_tracked"] == 2
    assert result.trained["loss"] is not None
    assert result.received is not None
    assert result.received.values == {"mode": 0.0, "gradients": 0.0}


def test_the_same_job_leaves_the_same_bytes_whatever_the_process_drew_before(tmp_path: Path, data: Path) -> None:
    model = first_model(tmp_path / "first", data, "norming")
    left = set()
    for number in range(3):
        torch.manual_seed(number)
        random.seed(number)
        threads = torch.get_num_threads()
        run(tmp_path / f"task-{number}", data, Task.TRAIN, "norming", model, epochs=3)
        assert torch.get_num_threads() == threads
        assert not torch.are_deterministic_algorithms_enabled()
        left.add((tmp_path / f"task-{number}" / UPDATE).read_bytes())
        drawn = torch.rand(1)
        torch.manual_seed(number)
        assert drawn == torch.rand(1)
    assert len(left) == 1
    assert left != {model}


def test_a_deterministic_job_has_one_thread_and_the_cpu(tmp_path: Path, data: Path) -> None:
    model = first_model(tmp_path / "first", data, "telling")
    result = run(tmp_path / "task", data, Task.TRAIN, "telling", model)
    assert result.trained == {"threads": 1.0, "deterministic": 1.0, "cpu": 1.0}
    result = run(tmp_path / "free", data, Task.TRAIN, "telling", model, deterministic=False)
    assert result.trained["deterministic"] == 0.0


def test_tensors_that_share_memory_travel_apart_and_types_numpy_lacks_as_float32(tmp_path: Path, data: Path) -> None:
    model = load(first_model(tmp_path / "first", data, "sharing"))
    assert {name: str(value.dtype) for name, value in model.items()} == {
        "0.weight": "float32",
        "1.weight": "float32",
        "2.weight": "float32",
    }
    np.testing.assert_array_equal(model["0.weight"], model["1.weight"])
    result = run(tmp_path / "task", data, Task.TRAIN, "sharing", save(model))
    assert result.failure is None
    np.testing.assert_array_equal(update_of(tmp_path / "task")["0.weight"], update_of(tmp_path / "task")["1.weight"])


def test_a_model_of_another_network_is_told(tmp_path: Path, data: Path) -> None:
    result = run(tmp_path / "task", data, Task.TRAIN, "norming", save({"w": np.ones(1, np.float32)}))
    assert result.failure is not None
    assert (result.failure.phase, result.failure.code) == ("load", "model_unsuitable")


def test_a_network_with_a_state_that_is_no_tensor_is_told(tmp_path: Path, data: Path) -> None:
    result = run(tmp_path / "task", data, Task.INITIALISE, "secretive")
    assert result.failure is not None
    assert result.failure.code == "state_unsupported"


# --- optimizer state ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_has_a_code_of_its_own(tmp_path: Path, data: Path) -> None:
    model = first_model(tmp_path / "first", data, "wantinggpu")
    failure = run(tmp_path / "train", data, Task.TRAIN, "wantinggpu", model).failure
    assert failure is not None
    assert (failure.phase, failure.code) == ("train", "gpu_missing")
    checked = run(tmp_path / "check", data, Task.CHECK, "wantinggpu")
    assert (checked.failure, checked.text) == (failure, "")


def test_a_gpu_with_too_little_memory_has_a_code_of_its_own(tmp_path: Path, data: Path) -> None:
    failure = run(tmp_path / "check", data, Task.CHECK, "exhausting").failure
    assert failure is not None
    assert (failure.phase, failure.code) == ("train", "gpu_memory")


def straight(data: Path, tmp_path: Path, trainer: str) -> np.ndarray:
    """The weight after four epochs at once."""
    run(tmp_path / "straight", data, Task.TRAIN, trainer, first_model(tmp_path / "f", data, trainer), epochs=4)
    return update_of(tmp_path / "straight")["weight"]


@pytest.mark.parametrize("trainer", ["adams", "momentum", "plain"])
@pytest.mark.parametrize("treatment", ["keep", "average"])
def test_two_rounds_go_on_as_if_they_were_one(tmp_path: Path, data: Path, trainer: str, treatment: str) -> None:
    model = first_model(tmp_path / "first", data, trainer)
    for round_ in (1, 2):
        job = {"round": round_, "epochs": 2, "optimizer_state": treatment, "carry": "carry"}
        folder = tmp_path / f"round-{round_}"
        assert run(folder, data, Task.TRAIN, trainer, model, **job).failure is None
        model = (folder / UPDATE).read_bytes()
    np.testing.assert_array_equal(load(model)["weight"], straight(data, tmp_path, trainer))


def test_a_reset_optimizer_starts_afresh(tmp_path: Path, data: Path) -> None:
    model = first_model(tmp_path / "first", data, "momentum")
    for round_ in (1, 2):
        run(tmp_path / f"round-{round_}", data, Task.TRAIN, "momentum", model, round=round_, epochs=2)
        model = (tmp_path / f"round-{round_}" / UPDATE).read_bytes()
    assert (load(model)["weight"] != straight(data, tmp_path, "momentum")).any()


def test_several_optimizers_remember_apart(tmp_path: Path, data: Path) -> None:
    model = first_model(tmp_path / "first", data, "both")
    run(tmp_path / "task", data, Task.TRAIN, "both", model, optimizer_state="average")
    names = {name for name in update_of(tmp_path / "task") if name.startswith("optimizer.")}
    assert names == {
        "optimizer.0.0.momentum_buffer",
        "optimizer.1.0.exp_avg",
        "optimizer.1.0.exp_avg_sq",
        "optimizer.1.0.step",
    }
