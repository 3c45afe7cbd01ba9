"""The brain tumour trainer as a clinic's task runs it."""

import hashlib
import json
import math
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from decathlon_folder import LABELS, SHAPE, decathlon, subject, write_case, write_nifti
from safetensors.numpy import load
from training_folder import fill, update_of

if "CI" not in os.environ:
    pytest.importorskip("torch")
import torch

from wardround.site_agent.outbound import failure_of
from wardround.site_agent.policy import Leave
from wardround.training import CancelledTaskError, run_folder
from wardround.training.registry import installed_trainer
from wardround.training.rehearsal import rehearse
from wardround.training.torch_trainer import TorchJob
from wardround.training.trainers.brain_tumour import measuring
from wardround.training.trainers.brain_tumour.trainer import BrainTumourUnet
from wardround_messages.names import Task
from wardround_messages.task_folder import CASES, METRICS, UPDATE, TaskResult

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

TRAINER = "brain-tumour-unet"
SMALL = {"channels": (4, 8), "patch": 16, "learning_rate": 0.01}
DICE = ("dice/wt", "dice/tc", "dice/et")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return decathlon(tmp_path_factory.mktemp("data") / "brain-mri", 6)


def run(folder: Path, data: Path | tuple[Path, ...], task: Task, model: bytes | None = None, **job: Any) -> TaskResult:
    """The salt holds two of six cases out."""
    job = {"trainer": TRAINER, "parameters": SMALL | job.pop("parameters", {}), "split_salt": "salt"} | job
    return run_folder(fill(folder, task, data, model=model, **job))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, data: Path) -> bytes:
    folder = tmp_path_factory.mktemp("first") / "task"
    assert run(folder, data, Task.INITIALISE).failure is None
    return (folder / UPDATE).read_bytes()


def values_of(result: TaskResult) -> dict[str, float | None]:
    assert result.failure is None
    assert result.received is not None
    return dict(result.received.values)


# --- what it leaves ----------------------------------------------------------------------------------------------


def test_it_is_described_with_its_parameters_and_metrics() -> None:
    described = installed_trainer(TRAINER).description
    assert described.metrics == {"loss": "min", **dict.fromkeys(DICE, "max"), "dice/mean": "max"}
    known: Any = described.parameters_schema["properties"]
    assert all(each.get("description") and "default" in each for each in known.values())


def test_training_learns_to_find_the_tumour(tmp_path: Path, data: Path, first: bytes) -> None:
    trained = run(tmp_path / "train", data, Task.TRAIN, first, epochs=30)
    assert trained.failure is None
    assert (trained.cases, trained.steps) == (4, 60)
    assert trained.trained["loss"] is not None
    before = values_of(trained)
    after = values_of(run(tmp_path / "test", data, Task.TEST, (tmp_path / "train" / UPDATE).read_bytes()))
    assert after["dice/wt"] > 0.8 > before["dice/wt"]
    assert after["loss"] < before["loss"]
    assert after["dice/mean"] == pytest.approx(sum(after[name] for name in DICE) / 3)


def test_the_split_takes_the_share_that_the_experiment_names(tmp_path: Path, data: Path, first: bytes) -> None:
    trained = run(tmp_path / "half", data, Task.TRAIN, first, parameters={"validation": 0.6})
    assert trained.received is not None
    assert (trained.cases, trained.received.cases) == (1, 5)
    tested = run(tmp_path / "test", data, Task.TEST, first)
    assert tested.received is not None
    assert tested.received.cases == 6
    names = (tmp_path / "test" / CASES).read_text().splitlines()
    assert names == [f"imagesTr/BRATS_{number:03d}.nii.gz" for number in range(1, 7)]


def test_folders_are_pooled_and_need_not_number_alike(tmp_path: Path, data: Path, first: bytes) -> None:
    other = decathlon(tmp_path / "other", 2, labels={0: "background", 1: LABELS[2], 2: LABELS[1], 4: LABELS[3]})
    for number in (1, 2):
        image, label = subject(number)
        write_case(other, f"BRATS_{number:03d}", image, np.array([0, 2, 1, 4], np.uint8)[label])
    alone = values_of(run(tmp_path / "alone", other, Task.TEST, first))
    assert alone == values_of(run(tmp_path / "usual", decathlon(tmp_path / "usual-data", 2), Task.TEST, first))
    pooled = run(tmp_path / "pooled", (data, other), Task.TEST, first)
    assert pooled.received is not None
    assert pooled.received.cases == 8


@pytest.mark.parametrize("more", [{}, {"cache_mb": 0}, {"cache_mb": 1}, {"spacing": 2.0}])
def test_the_same_job_leaves_the_same_bytes_whatever_is_kept_in_memory(
    tmp_path: Path, data: Path, first: bytes, more: dict[str, Any]
) -> None:
    expected = run(tmp_path / "one", data, Task.TRAIN, first, epochs=2)
    torch.rand(7)
    other = run(tmp_path / "other", data, Task.TRAIN, first, epochs=2, parameters=more)
    assert (tmp_path / "one" / UPDATE).read_bytes() == (tmp_path / "other" / UPDATE).read_bytes()
    assert other.trained == expected.trained
    assert other.received == expected.received


def test_another_seed_leaves_other_bytes(tmp_path: Path, data: Path, first: bytes) -> None:
    for seed in (1, 2):
        run(tmp_path / f"{seed}", data, Task.TRAIN, first, seed=seed)
    assert (tmp_path / "1" / UPDATE).read_bytes() != (tmp_path / "2" / UPDATE).read_bytes()


def test_a_batch_smaller_than_the_others_is_trained_on_too(tmp_path: Path, data: Path, first: bytes) -> None:
    result = run(tmp_path / "task", data, Task.TRAIN, first, parameters={"batch_size": 3}, epochs=2)
    assert result.failure is None
    assert (result.cases, result.steps) == (4, 4)


def test_windows_as_large_as_the_scans_measure_what_whole_scans_do(tmp_path: Path, first: bytes) -> None:
    data = decathlon(tmp_path / "data", 2)
    for number in (1, 2):
        write_case(data, f"BRATS_{number:03d}", *subject(number, (20, 20, 20)))
    measured = [
        values_of(run(tmp_path / how, data, Task.TEST, first, parameters={"inference": how}))
        for how in ("whole", "sliding")
    ]
    assert measured[0] == pytest.approx(measured[1], abs=1e-6)


def test_a_region_that_no_case_has_is_no_number_and_left_out_of_the_mean(tmp_path: Path, first: bytes) -> None:
    data = decathlon(tmp_path / "data", 2)
    for number in (1, 2):
        image, label = subject(number)
        write_case(data, f"BRATS_{number:03d}", image, np.minimum(label, 2))
    values = values_of(run(tmp_path / "task", data, Task.TEST, first))
    assert values["dice/et"] is None
    assert values["dice/mean"] == pytest.approx((values["dice/wt"] + values["dice/tc"]) / 2)
    write_case(data, "BRATS_001", subject(1)[0], np.zeros(SHAPE, np.uint8))
    write_case(data, "BRATS_002", subject(2)[0], np.zeros(SHAPE, np.uint8))
    values = values_of(run(tmp_path / "healthy", data, Task.TEST, first))
    assert [values[name] for name in (*DICE, "dice/mean")] == [None] * 4
    assert values["loss"] is not None


def test_the_regions_are_the_experiments_to_say(tmp_path: Path, data: Path, first: bytes) -> None:
    exchanged = {"whole_tumour": (2, 3), "tumour_core": (3,), "enhancing_tumour": (1, 2, 3)}
    usual = values_of(run(tmp_path / "usual", data, Task.TEST, first))
    other = values_of(run(tmp_path / "other", data, Task.TEST, first, parameters=exchanged))
    assert [other[f"dice/{name}"] for name in ("et", "wt", "tc")] == [usual[name] for name in DICE]


# --- optimizer ---------------------------------------------------------------------------------------------------


def trained(tmp_path: Path, data: Path, first: bytes, **job: Any) -> dict[str, np.ndarray]:
    folder = tmp_path / hashlib.sha256(repr(sorted(job.items())).encode()).hexdigest()[:8]
    assert run(folder, data, Task.TRAIN, first, **job).failure is None
    return dict(update_of(folder))


def distance(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    return math.sqrt(sum(float(((one[name] - other[name]) ** 2).sum()) for name in other))


def test_fedprox_keeps_the_update_near_the_received_model(tmp_path: Path, data: Path, first: bytes) -> None:
    free = trained(tmp_path, data, first, epochs=5)
    held = trained(tmp_path, data, first, epochs=5, parameters={"proximal": 10.0})
    received = load(first)
    assert 0 < distance(held, received) < distance(free, received)


def test_what_adam_remembers_is_forgotten_kept_or_averaged(tmp_path: Path, data: Path, first: bytes) -> None:
    averaged = trained(tmp_path, data, first, optimizer_state="average")
    assert {name.rpartition(".")[2] for name in averaged if name.startswith("optimizer.")} == {
        "step",
        "exp_avg",
        "exp_avg_sq",
    }
    assert not any(name.startswith("optimizer.") for name in trained(tmp_path, data, first))
    left = {}
    for treatment in ("reset", "keep"):
        model = first
        for round_ in (1, 2):
            folder = tmp_path / f"{treatment}-{round_}"
            job = {"round": round_, "optimizer_state": treatment, "carry": f"carry-{treatment}"}
            assert run(folder, data, Task.TRAIN, model, **job).failure is None
            model = (folder / UPDATE).read_bytes()
        left[treatment] = load(model)
    assert list((tmp_path / "carry-keep").iterdir())
    assert distance(left["reset"], left["keep"]) > 0


# --- progress, cancelling ----------------------------------------------------------------------------------------


def test_progress_counts_scans_when_measuring_and_steps_when_training(
    tmp_path: Path, data: Path, first: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wardround.training.metrics_file.EVERY", 0.0)
    run(tmp_path / "task", data, Task.TRAIN, first, epochs=3)
    lines = [json.loads(line) for line in (tmp_path / "task" / METRICS).read_text().splitlines()]
    said = [(line["phase"], line["done"], line["of"]) for line in lines if line["kind"] == "progress"]
    assert said == [("received", 1, 2), ("received", 2, 2), *(("train", done, 6) for done in range(1, 7))]
    assert [line["step"] for line in lines if line["kind"] == "metric"] == list(range(6))


@pytest.mark.parametrize("inference", ["whole", "sliding"])
def test_a_cancelled_task_ends_between_two_scans_or_windows(
    tmp_path: Path, data: Path, first: bytes, monkeypatch: pytest.MonkeyPatch, inference: str
) -> None:
    cancelled = threading.Event()
    forwards = []
    real = BrainTumourUnet.network

    def network(self: BrainTumourUnet, parameters: Any) -> torch.nn.Module:
        net = real(self, parameters)
        net.register_forward_hook(lambda *_: (forwards.append(1), cancelled.set())[0])
        return net

    monkeypatch.setattr(BrainTumourUnet, "network", network)
    folder = fill(
        tmp_path / "task", Task.TEST, data, model=first, trainer=TRAINER, parameters=SMALL | {"inference": inference}
    )
    with pytest.raises(CancelledTaskError):
        run_folder(folder, cancelled=cancelled)
    assert len(forwards) == 1


def test_a_check_tries_two_cases_and_one_step(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []
    real = measuring.segment
    monkeypatch.setattr(measuring, "segment", lambda *given: (measured.append(1), real(*given))[1])
    result = run(tmp_path / "task", data, Task.CHECK)
    assert (result.failure, result.steps, len(measured)) == (None, 0, 1)
    assert len((tmp_path / "task" / CASES).read_text().splitlines()) == 2


# --- what goes wrong ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [Task.TRAIN, Task.TEST, Task.CHECK])
def test_a_broken_case_ends_the_task_with_a_code_and_its_name_stays_at_the_clinic(
    tmp_path: Path, first: bytes, task: Task, caplog: pytest.LogCaptureFixture
) -> None:
    data = decathlon(tmp_path / "brain-mri", 2)
    write_nifti(data / "imagesTr" / "BRATS_001.nii.gz", subject(1)[0][..., :3])
    result = run(tmp_path / "task", data, task, first)
    assert result.failure is not None
    assert result.failure.code == "case_unreadable"
    assert "other channels" in result.failure.hint
    leaving = failure_of(result.failure, result.text, Leave(errors="text"))
    assert "BRATS" not in leaving.hint
    assert str(tmp_path) not in leaving.hint
    assert "imagesTr/BRATS_001.nii.gz" in caplog.text


def test_a_name_that_the_clinic_does_not_have_ends_the_task_with_a_code(
    tmp_path: Path, data: Path, first: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    asked = {"modalities": ("FLAIR", "T1w", "DWI", "T2w")}
    result = run(tmp_path / "task", data, Task.TRAIN, first, parameters=asked)
    assert result.failure is not None
    assert (result.failure.phase, result.failure.code) == ("data", "data_names")
    leaving = failure_of(result.failure, result.text, Leave(errors="text"))
    assert "'DWI'" in leaving.hint
    assert "t1gd" not in leaving.hint
    assert "t1gd" in caplog.text


def test_a_model_of_other_channels_is_unsuitable(tmp_path: Path, data: Path, first: bytes) -> None:
    result = run(tmp_path / "task", data, Task.TRAIN, first, parameters={"channels": (4, 16)})
    assert result.failure is not None
    assert result.failure.code == "model_unsuitable"


def test_a_data_set_without_a_listed_case_is_empty(tmp_path: Path, first: bytes) -> None:
    result = run(tmp_path / "task", decathlon(tmp_path / "empty", 0), Task.TRAIN, first)
    assert result.failure is not None
    assert result.failure.code == "data_empty"


# --- rehearsed ---------------------------------------------------------------------------------------------------


def test_rehearsed_in_processes_of_their_own_two_trainings_leave_the_same_bytes(data: Path) -> None:
    rehearsal = rehearse(TRAINER, data, SMALL, epochs=2)
    assert rehearsal.same_bytes
    assert (rehearsal.cases, rehearsal.steps) == (4, 4)
    assert rehearsal.measured is not None
    assert all(value is not None for value in rehearsal.measured.values.values())


def test_a_job_not_made_to_be_repeated_trains_too(tmp_path: Path, data: Path, first: bytes) -> None:
    assert issubclass(BrainTumourUnet.job_type, TorchJob)
    assert run(tmp_path / "task", data, Task.TRAIN, first, deterministic=False).failure is None
