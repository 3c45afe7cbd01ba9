"""Cases drawn for the report of a simulation."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from decathlon_folder import LABELS, MODALITIES, affine_of, decathlon, subject, write_case
from safetensors.numpy import load_file, save_file
from training_folder import counting_data, fill, install

if "CI" not in os.environ:
    pytest.importorskip("torch")
import torch

from wardround.training import CaseUnreadableError, NumpyTrainer, Parameters, TaskError, run_folder
from wardround.training.imaging.cases import Case
from wardround.training.pictures import Picture, draw
from wardround.training.trainers.brain_tumour.showing import bare_name, upright
from wardround_messages.names import Task
from wardround_messages.task_folder import UPDATE

pytestmark = pytest.mark.slow

TRAINER = "brain-tumour-unet"
SMALL = {"channels": (4, 8), "patch": 16}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return decathlon(tmp_path_factory.mktemp("data") / "brain-mri", 3)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    folder = fill(tmp_path_factory.mktemp("first") / "task", Task.INITIALISE, data, trainer=TRAINER, parameters=SMALL)
    assert run_folder(folder).failure is None
    return folder / UPDATE


def drawn(model: Path, *folders: Path, count: int = 3, parameters: dict[str, Any] = SMALL) -> list[Picture]:
    return draw(TRAINER, parameters, model, folders, layout="decathlon", count=count, seed=1)


def test_a_picture_shows_the_slice_with_most_tumour_and_what_the_model_makes_of_it(data: Path, model: Path) -> None:
    one, two = drawn(model, data, count=2)
    image, label = (values[2:-2, 2:-2, 2:-2] for values in subject(1))
    place = int((label > 0).sum((0, 1)).argmax())
    np.testing.assert_array_equal(one.truth, label[:, :, place].T[::-1, ::-1])
    assert one.title == f"BRATS_001, FLAIR, axial slice {place + 1} of {label.shape[2]}"
    assert "BRATS_002" in two.title
    assert one.classes == LABELS[1:]
    assert (one.image.dtype, one.truth.dtype, one.predicted.dtype) == (np.float32, np.uint8, np.uint8)
    assert one.image.shape == one.truth.shape == one.predicted.shape == image.shape[1::-1]
    assert one.image.min() == 0
    assert one.image.max() == 1
    assert one.predicted.max() <= len(one.classes)
    brightness = np.corrcoef(one.image.ravel(), image[:, :, place, 0].T[::-1, ::-1].ravel())
    assert brightness[0, 1] > 0.9


def test_of_a_case_without_tumour_the_slice_with_most_prediction_is_shown_else_that_with_most_brain(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, label = subject(1)
    image[:, :, 6] = 0
    image[:, :, 6, 0] = 100  # FLAIR fills this slice, border and all
    folder = decathlon(tmp_path / "healthy", 1)
    write_case(folder, "BRATS_001", image, np.zeros_like(label))

    def says(amount: np.ndarray) -> None:
        def segment(_: object, case: Case, __: object) -> torch.Tensor:
            scores = torch.zeros(len(LABELS), *case.label.shape)
            scores[1] = torch.from_numpy(amount[: case.label.shape[2]] > 0).float()
            return scores

        monkeypatch.setattr("wardround.training.trainers.brain_tumour.showing.segment", segment)

    says(np.eye(1, 30, 9)[0])
    (one,) = drawn(model, folder)
    assert "axial slice 10 of" in one.title
    assert (one.truth.max(), one.predicted.min()) == (0, 1)
    says(np.zeros(30))
    (other,) = drawn(model, folder)
    assert other.predicted.max() == 0
    assert "axial slice 5 of" in other.title


def test_a_case_is_called_by_its_bare_name() -> None:
    assert bare_name("imagesTr/BRATS_501.nii.gz") == "BRATS_501"
    assert bare_name("scanner-b/imagesTr/BRATS_501.nii") == "scanner-b/BRATS_501"


def test_the_front_is_up_and_the_patients_right_is_on_the_left() -> None:
    axial = np.zeros((3, 5), np.uint8)  # [towards the right, towards the front]
    axial[2, 4] = 1
    shown = upright(axial)
    assert shown.shape == (5, 3)
    assert shown[0, 0] == 1


def test_a_scan_that_lies_in_its_file_as_radiologists_have_it_is_shown_alike(tmp_path: Path, model: Path) -> None:
    image, label = subject(1)
    usual, turned = decathlon(tmp_path / "usual", 1), decathlon(tmp_path / "turned", 1)
    to_the_left = affine_of() @ np.diag([-1, -1, 1, 1])
    write_case(turned, "BRATS_001", image[::-1, ::-1], label[::-1, ::-1], to_the_left)
    (one,), (other,) = drawn(model, usual), drawn(model, turned)
    np.testing.assert_array_equal(one.image, other.image)
    np.testing.assert_array_equal(one.truth, other.truth)


def test_another_modality_is_shown_where_there_is_no_flair(tmp_path: Path, data: Path) -> None:
    named = SMALL | {"modalities": ("T2w", "T1w")}
    folder = fill(tmp_path / "task", Task.INITIALISE, data, trainer=TRAINER, parameters=named)
    run_folder(folder)
    (one,) = drawn(folder / UPDATE, data, count=1, parameters=named)
    assert ", T2w, " in one.title
    assert "FLAIR" in MODALITIES


def test_nothing_is_drawn_twice_alike_by_chance_and_torch_is_left_as_it_was(data: Path, model: Path) -> None:
    threads = torch.get_num_threads()
    first, again = drawn(model, data), drawn(model, data)
    assert len(first) == len(again) == 3
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.predicted, other.predicted)
    assert torch.get_num_threads() == threads


def test_what_an_optimizer_left_with_the_model_is_no_matter(tmp_path: Path, data: Path, model: Path) -> None:
    save_file({**load_file(model), "optimizer.0.0.step": np.zeros((), np.float32)}, tmp_path / "model.safetensors")
    assert len(drawn(tmp_path / "model.safetensors", data)) == 3


def test_a_trainer_without_pictures_gives_none(tmp_path: Path) -> None:
    data = counting_data(tmp_path / "data")["clinic-1"]["counting"]
    folder = fill(tmp_path / "task", Task.INITIALISE, data)
    run_folder(folder)
    assert draw("adding", {}, folder / UPDATE, [data]) == []


class Odd(NumpyTrainer[Parameters]):
    def initial_weights(self, job):
        raise NotImplementedError

    def data(self, job):
        raise RuntimeError("no luck")

    def train(self, model, cases, job):
        raise NotImplementedError

    def evaluate(self, model, cases, job):
        raise NotImplementedError


def test_what_goes_wrong_is_a_task_error(
    tmp_path: Path, data: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TaskError, match="trainer_unknown"):
        draw("nobody", {}, model, [data])
    with pytest.raises(TaskError, match="parameters_invalid"):
        drawn(model, data, parameters={"patch": -1})
    with pytest.raises(TaskError, match="model_unsuitable"):
        drawn(model, data, parameters={})
    with pytest.raises(TaskError, match="model_unreadable"):
        drawn(tmp_path / "no.safetensors", data)
    with pytest.raises(TaskError, match="data_missing"):
        drawn(model, tmp_path / "nothing")
    broken = decathlon(tmp_path / "broken", 1)
    (broken / "imagesTr" / "BRATS_001.nii.gz").write_bytes(b"no scan")
    with pytest.raises(CaseUnreadableError):
        drawn(model, broken)
    install(tmp_path, monkeypatch, odd="test_brain_tumour_pictures:Odd")
    with pytest.raises(TaskError, match="trainer_error"):
        draw("odd", {}, model, [data])
