"""A report on what a simulation left behind: everything as it lies there, the scans drawn by the trainer."""

import base64
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wardround.client import cli
from wardround.client.report.at_hand import SitesAtHand, sites_in
from wardround.client.report.material import Compared
from wardround.client.report.overlays import draw_overlays
from wardround.client.report.reading import read_folder
from wardround.client.report.write import write_report
from wardround.training.errors import TaskError
from wardround.training.pictures import Picture
from wardround.training.trainers.adding import AddingTrainer

EXPERIMENT = """\
schema  = 1
id      = "count"
study   = "counting"
purpose = "to report on"
[cohort]
sites = ["clinic-1", "clinic-2", "clinic-3"]
[rounds]
count = 2
[training]
trainer = "adding"
dataset = "counting"
[evaluation]
test = { site = "clinic-1", dataset = "counting-test" }
"""
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `simulate` left: federated, and pooled."""
    place = tmp_path_factory.mktemp("simulated")
    (place / "count.toml").write_text(EXPERIMENT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["wardround", "simulate", str(place / "count.toml"), "--out", str(place / "runs")])
        with pytest.raises(SystemExit) as left:
            cli.run()
    assert not left.value.code
    return place / "runs" / "count"


def drawing(_: AddingTrainer, model: dict[str, Any], cases: list[Path], job: Any) -> Iterator[Picture]:
    """The model's first weight as a mask, which tells one model from another."""
    for case in cases:
        mask = np.full((4, 4), 1 if model["weights.000"][0] > 5 else 2, np.uint8)
        yield Picture(case.name, np.zeros((4, 4), np.float32), mask, mask, ("much", "little"))


def at(sites: Path, compared: Compared) -> SitesAtHand:
    return sites_in(sites, compared.run.history.manifest)


def test_a_simulation_is_reported_as_it_lies_there(folder: Path) -> None:
    written = write_report(folder)
    text = written.page.read_text()
    report = written.report
    assert report.common_test is not None
    assert [row.label for row in report.common_test.rows] == ["Federated, 3 clinics", "Pooled data"]
    # Site k adds k in each of two rounds and has k cases: 2 x 14/6; pooled adds what the first amount says.
    assert report.common_test.rows[0].values["value"].mean == pytest.approx(14 / 3, abs=1e-5)
    assert report.common_test.cases == 3
    assert report.synthetic is None
    assert "No pictures" not in text  # the trainer draws none, and nobody misses them
    assert "<img" not in text
    assert (folder / "model.safetensors").is_file()


def test_scans_of_the_common_test_are_drawn_for_every_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AddingTrainer, "pictures", drawing)
    written = write_report(folder, folder / "drawn.html")
    assert written.figures[-1].name.endswith("-pictures.png")
    (image,) = re.findall(r'<img src="data:image/png;base64,([^"]+)"', written.page.read_text())
    assert base64.b64decode(image) == written.figures[-1].read_bytes()


def test_scans_that_do_not_say_that_they_are_synthetic_make_the_report_confidential(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AddingTrainer, "pictures", drawing)
    note = "These are scans of the cases named; this file is as confidential as the data"
    written = write_report(folder, folder / "real.html")
    assert note in written.page.read_text()
    (notice,) = written.notices
    assert str(written.page) in notice
    monkeypatch.setattr("wardround.client.report.overlays.synthetic_words", lambda _: "synthetic")
    written = write_report(folder, folder / "made.html")
    assert note not in written.page.read_text()
    assert written.notices == ()


async def test_each_model_draws_the_same_cases(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AddingTrainer, "pictures", drawing)
    compared = await read_folder(folder)
    overlays = draw_overlays(folder, at(folder / "sites", compared), compared)
    assert list(overlays.by_model) == ["federated", "pooled data"]
    titles = [[picture.title for picture in pictures] for pictures in overlays.by_model.values()]
    assert titles == [["case-0001.txt", "case-0002.txt", "case-0003.txt"]] * 2


async def test_the_sites_own_folder_can_be_named(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(AddingTrainer, "pictures", drawing)
    compared = await read_folder(folder)
    missing = draw_overlays(folder, at(tmp_path, compared), compared)
    assert (missing.by_model, missing.note) == ({}, "No pictures: the test's data are not where this report was made.")
    assert draw_overlays(folder, at(folder / "sites", compared), compared).by_model
    (tmp_path / "clinic-1").mkdir()
    (tmp_path / "clinic-1" / "site.toml").write_text("schema = 7")
    broken = draw_overlays(folder, at(tmp_path, compared), compared)
    assert broken.note == "No pictures: the test's site.toml cannot be used where this report was made."
    assert str(tmp_path / "clinic-1" / "site.toml") in broken.cause


async def test_a_failure_to_draw_is_told_in_a_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = await read_folder(folder)

    def failing(*_: object) -> Iterator[Picture]:
        raise TaskError("case_unreadable", "the log names it") from ValueError("case-0001.txt is no number")

    def broken(*_: object) -> Iterator[Picture]:
        raise RuntimeError(str(folder))

    found = []
    for pictures in (failing, broken, lambda *_: iter(())):
        monkeypatch.setattr(AddingTrainer, "pictures", pictures)
        found.append(draw_overlays(folder, at(folder / "sites", compared), compared))
    unreadable, wrong, none = found
    assert unreadable.note == "No pictures: drawing them failed where this report was made (case_unreadable)."
    assert unreadable.cause == "case_unreadable: the log names it; case-0001.txt is no number"
    assert "trainer_error" in wrong.note
    assert str(folder) not in wrong.note
    assert str(folder) in wrong.cause
    assert none.note == "No pictures: the trainer drew none."


async def test_a_model_that_was_deleted_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AddingTrainer, "pictures", drawing)
    monkeypatch.setattr("wardround.client.report.overlays.model_file", lambda *_: None)
    compared = await read_folder(folder)
    note = draw_overlays(folder, at(folder / "sites", compared), compared).note
    assert note == "No pictures: the last model is not where this report was made."
