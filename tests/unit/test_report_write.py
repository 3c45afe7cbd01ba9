"""The files of a report, and what is found in the folder of a run."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from metrics_story import SITES, manifest
from report_material import Told, course, lay_compared

from wardround.client.cli import comparing
from wardround.client.errors import UnusableError
from wardround.client.report import reading
from wardround.client.report.at_hand import DATASET_FILE, SITE_FILE, declared_metrics, sites_in, synthetic_data
from wardround.client.report.material import Synthetic
from wardround.client.report.reading import read_folder, read_seeds
from wardround.client.report.write import write_report
from wardround.simulation import references, run, sites
from wardround.training.imaging import decathlon
from wardround_messages.base import canonical_json

TEST = manifest().evaluation.test
TEST_SITE = "" if TEST is None else TEST.site
AT = datetime(2026, 12, 1, 8, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lay_compared(tmp_path_factory.mktemp("run"), 1)


def laid(folder: Path, story: Told) -> Path:
    folder.mkdir(exist_ok=True)
    asyncio.run(story.lay_in(folder))
    return folder


# --- reading ---------------------------------------------------------------------------------------------------------


def test_a_folder_is_read_as_a_simulation_lays_it_out() -> None:
    assert (reading.MANIFEST_FILE, reading.POOLED, reading.ALONE, reading.SEEDS) == (
        run.MANIFEST_FILE,
        references.POOLED,
        references.ALONE,
        comparing.SEEDS,
    )
    assert (SITE_FILE, DATASET_FILE) == (sites.SITE_FILE, decathlon.DATASET)


def test_what_a_run_is_held_against_is_read_with_it(folder: Path) -> None:
    found = asyncio.run(read_folder(folder))
    assert found.run.history.manifest.id == "brain-tumour"
    assert found.pooled is not None
    assert found.pooled.history.manifest.cohort.sites == ("pooled",)
    assert list(found.alone) == list(SITES)


def test_other_seeds_are_read_by_their_seed(folder: Path, tmp_path: Path) -> None:
    laid(tmp_path, course(1))
    for seed in (3, 11):
        (tmp_path / "seeds" / str(seed)).mkdir(parents=True)
        laid(tmp_path / "seeds" / str(seed), course(1, seed=seed))
    assert sorted(asyncio.run(read_seeds(tmp_path))) == [3, 11]


def test_a_reference_that_has_not_begun_is_left_out(tmp_path: Path) -> None:
    laid(tmp_path, course(1))
    (tmp_path / "pooled").mkdir()
    (tmp_path / "pooled" / "experiment.json").write_bytes(canonical_json(manifest("brain-tumour-pooled")))
    assert asyncio.run(read_folder(tmp_path)).pooled is None


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, "is not the folder of a run"),
        ({"experiment.json": b"{"}, "cannot be used"),
        ({"experiment.json": canonical_json(manifest())}, "there is no hub/ in it"),
        ({"experiment.json": canonical_json(manifest()), "hub/x": b""}, "has no journal"),
    ],
)
def test_a_folder_without_figures_is_named(tmp_path: Path, files: dict[str, bytes], told: str) -> None:
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UnusableError, match=told):
        write_report(tmp_path)
    assert [path for path in sorted(tmp_path.rglob("*")) if path.name != ".unfinished"] == before


# --- what lies at hand -----------------------------------------------------------------------------------------------


def site_with(folder: Path, told: object, *, site: str = "clinic-2", test: object = None) -> Path:
    held = {"brain-mri": told} | ({} if test is None else {"brain-mri-test": test})
    for name, index in held.items():
        (folder / site / name).mkdir(parents=True)
        (folder / site / name / DATASET_FILE).write_text(index if isinstance(index, str) else json.dumps(index))
    (folder / site / SITE_FILE).write_text(
        f'schema = 1\nsite = "{site}"\n[paths]\ninbox = "i"\nlog = "l"\nspool = "s"\n'
        + "".join(f'[datasets.{name}]\npath = "{name}"\n' for name in held)
    )
    return folder


def synthetic_in(folder: Path) -> Synthetic | None:
    return synthetic_data(sites_in(folder, manifest()), manifest())


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"name": "BRATS", "description": "SYNTHETIC scans"}, "SYNTHETIC scans"),
        ({"name": "BRATS", "synthetic": True}, "BRATS"),
        ({"synthetic": True}, ""),
        ({"name": "BRATS", "description": "scans of people"}, None),
        ({"name": "BRATS", "description": "not synthetic"}, None),
        ({"name": 7, "synthetic": "yes"}, None),
        ([1], None),
        ("{", None),
    ],
)
def test_data_that_say_so_are_synthetic(tmp_path: Path, told: object, said: str | None) -> None:
    expected = None if said is None else Synthetic(("clinic-2",), False, said)
    assert synthetic_in(site_with(tmp_path, told)) == expected


def test_data_are_synthetic_as_a_whole_only_where_every_data_set_of_every_site_says_so(tmp_path: Path) -> None:
    made, real = {"description": "synthetic"}, {"description": "scans of people"}
    for site in SITES:
        site_with(tmp_path / "all", made, site=site, test=made if site == TEST_SITE else None)
        site_with(tmp_path / "tested", made, site=site, test=real if site == TEST_SITE else None)
    assert synthetic_in(tmp_path / "all") == Synthetic(SITES, True, "synthetic")
    others = tuple(site for site in SITES if site != TEST_SITE)
    assert synthetic_in(tmp_path / "tested") == Synthetic(others, False, "synthetic")


def test_a_data_set_of_several_folders_is_synthetic_where_all_of_them_say_so(tmp_path: Path) -> None:
    site_with(tmp_path, {"synthetic": True})
    (tmp_path / "clinic-2" / "brain-mri" / "more").mkdir()
    (tmp_path / "clinic-2" / "brain-mri" / "more" / DATASET_FILE).write_text("{}")
    assert synthetic_in(tmp_path) is None


def test_a_site_toml_that_cannot_be_used_is_told_as_that(tmp_path: Path) -> None:
    site_with(tmp_path, {"synthetic": True})
    (tmp_path / "clinic-2" / SITE_FILE).write_text("schema = 7")
    found = sites_in(tmp_path, manifest())
    assert found.settings == {}
    assert "clinic-2/site.toml" in str(found.faults["clinic-2"])


def test_a_trainer_that_is_not_installed_declares_nothing() -> None:
    assert declared_metrics("no-such-trainer") == {}
    assert declared_metrics("adding") == {"value": "max"}


# --- writing ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_report_lies_in_the_folder_with_its_figures_beside_it(folder: Path) -> None:
    written = write_report(folder, made_at=AT)
    assert written.page == folder / "report.html"
    assert "No pictures: " in written.page.read_text()
    names = [figure.name for figure in written.figures]
    assert sorted(path.name for path in (folder / "report-figures").iterdir()) == names
    assert names[0] == "01-model-dice-mean.png"
    assert "09-taking-part.png" in names
    assert all(figure.read_bytes().startswith(b"\x89PNG") for figure in written.figures)
    assert written.page.read_text().count("<svg") == len(names)


@pytest.mark.slow
def test_the_same_run_at_the_same_time_makes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    first = write_report(folder, tmp_path / "a.html", made_at=AT)
    second = write_report(folder, tmp_path / "b.html", made_at=AT)
    assert first.page.read_text().replace("a-figures", "b-figures") == second.page.read_text()
    for one, other in zip(first.figures, second.figures, strict=True):
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.slow
def test_figures_of_an_earlier_report_go_and_other_files_stay(tmp_path: Path) -> None:
    laid(tmp_path, Told(manifest()))
    beside = tmp_path / "report-figures"
    beside.mkdir()
    for name in ("07-drift.png", "holiday.png"):
        (beside / name).touch()
    assert write_report(tmp_path).figures == ()
    assert [path.name for path in beside.iterdir()] == ["holiday.png"]
