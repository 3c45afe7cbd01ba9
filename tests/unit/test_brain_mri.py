"""Synthetic MRI of brain tumours: the Decathlon's layout, the same bytes each time, images with the right contrasts."""

import json
import threading
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import nibabel
import numpy as np
import pytest

from wardround.training.datasets import brain_mri
from wardround.training.datasets.brain_mri import SHIFTS, Cohort, Grid, Shift, write_cohort
from wardround.training.datasets.brain_mri import cohort as module
from wardround.training.datasets.brain_mri.acquisition import CONTRASTS, RELAXATION, acquired
from wardround.training.datasets.brain_mri.scanner import scanner_of
from wardround.training.datasets.brain_mri.subject import made_subject
from wardround.training.registry import dataset_writer

TINY = Grid((24, 28, 24), 7.0)
SMALL = Cohort(cases=3, test_cases=2, grid=TINY)
NAMES = ("clinic-1", "clinic-2")
KEYS = [
    "name",
    "description",
    "reference",
    "licence",
    "release",
    "tensorImageSize",
    "modality",
    "labels",
    "numTraining",
    "numTest",
    "training",
    "test",
]
FLAIR, T1, GADOLINIUM, T2 = range(4)


def made(out: Path, cohort: Cohort = SMALL, *, sites: Sequence[str] = NAMES, seed: int = 7, workers: int = 2) -> Path:
    write_cohort(cohort, [out / site for site in sites], out / "test", seed, workers=workers)
    return out


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("data"))


def index(folder: Path) -> dict[str, object]:
    return json.loads((folder / "dataset.json").read_text())  # type: ignore[no-any-return]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}


def cases(folder: Path) -> list[tuple[bytes, bytes]]:
    """Image and label of each case, in the order of their numbers."""
    return [
        (path.read_bytes(), (folder / "labelsTr" / path.name).read_bytes())
        for path in sorted((folder / "imagesTr").iterdir())
    ]


def loaded(path: Path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj)


# --- the layout ------------------------------------------------------------------------------------------------------


def test_the_index_has_the_keys_and_words_of_the_decathlon(data: Path) -> None:
    read = index(data / "clinic-2")
    assert list(read) == KEYS
    assert read["name"] == "BRATS"
    assert read["modality"] == {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}
    assert read["labels"] == {
        "0": "background",
        "1": "edema",
        "2": "non-enhancing tumor",
        "3": "enhancing tumour",
    }
    assert (read["tensorImageSize"], read["numTraining"], read["numTest"], read["test"]) == ("4D", 3, 0, [])
    assert read["training"] == [
        {"image": f"./imagesTr/BRATS_{number:03d}.nii.gz", "label": f"./labelsTr/BRATS_{number:03d}.nii.gz"}
        for number in (4, 5, 6)
    ]
    assert sorted(path.name for path in (data / "clinic-2").iterdir()) == [
        "dataset.json",
        "imagesTr",
        "imagesTs",
        "labelsTr",
    ]


def test_every_case_has_a_number_of_its_own_and_test_cases_begin_at_501(data: Path) -> None:
    numbers = [path.name for path in sorted(data.rglob("imagesTr/*"))]
    assert sorted(numbers) == [f"BRATS_{number:03d}.nii.gz" for number in (1, 2, 3, 4, 5, 6, 501, 502)]
    assert sorted(path.name for path in data.rglob("labelsTr/*")) == sorted(numbers)


def test_images_are_16_bit_with_four_channels_and_labels_lie_in_the_brain(data: Path) -> None:
    found: set[int] = set()
    for path in data.rglob("imagesTr/*"):
        image, label = nibabel.load(path), nibabel.load(path.parents[1] / "labelsTr" / path.name)
        assert (image.shape, image.get_data_dtype()) == ((*TINY.shape, 4), np.int16)
        assert (label.shape, label.get_data_dtype()) == (TINY.shape, np.uint8)
        assert image.header.get_zooms() == (7, 7, 7, 1)
        assert np.array_equal(image.affine, label.affine)
        assert image.header.get_xyzt_units() == ("mm", "sec")
        values, brain = loaded(path), loaded(path).any(axis=-1)
        outside = ~brain
        assert 0.2 < brain.mean() < 0.5
        assert values.min() == 0
        assert outside[0].all()
        assert outside[:, :, -1].all()
        compartments = np.asarray(label.dataobj)
        assert not compartments[outside].any()
        found |= set(np.unique(compartments).tolist())
    assert found == {0, 1, 2, 3}


def test_each_file_says_that_it_is_synthetic_and_where_its_anatomy_is_from(data: Path) -> None:
    read = index(data / "test")
    for key in ("description", "reference", "licence"):
        assert "SYNTHETIC, not patient data, not for clinical use" in str(read[key])
    assert "(c) 1993-2009 Louis Collins" in str(read["licence"])
    for path in data.rglob("*.nii.gz"):
        said = nibabel.load(path).header["descrip"].item()
        assert said.startswith(b"SYNTHETIC, not patient data, not for clinical use")
        assert len(said) < 80


def test_the_notice_of_the_template_lies_beside_it() -> None:
    package = resources.files(brain_mri)
    assert package.joinpath("mni_tissue_2p5mm.npz").is_file()
    notice = package.joinpath("mni_tissue_notice.txt").read_text()
    assert "(c) 1993-2009 Louis Collins, McConnell Brain Imaging Centre" in notice


# --- the same bytes --------------------------------------------------------------------------------------------------


def test_a_data_set_has_the_same_bytes_each_time_however_many_work_on_it(tmp_path: Path, data: Path) -> None:
    assert contents(made(tmp_path / "alone", workers=1)) == contents(data)
    assert contents(made(tmp_path / "many", workers=4)) == contents(data)


def test_files_carry_no_time(data: Path) -> None:
    for path in data.rglob("*.nii.gz"):
        head = path.read_bytes()[:10]
        assert head[:3] == b"\x1f\x8b\x08"
        assert head[4:8] == bytes(4)


def test_more_cases_and_more_sites_leave_the_earlier_cases_as_they_are(tmp_path: Path, data: Path) -> None:
    more = made(tmp_path, Cohort(cases=4, test_cases=3, grid=TINY), sites=(*NAMES, "clinic-3"))
    for site in NAMES:
        assert cases(more / site)[:3] == cases(data / site)
    assert cases(more / "test")[:2] == cases(data / "test")


def test_no_case_is_another_and_another_seed_makes_others(tmp_path: Path, data: Path) -> None:
    first = [case for folder in (*NAMES, "test") for case in cases(data / folder)]
    other = made(tmp_path, seed=8)
    assert len({*first, *(case for folder in (*NAMES, "test") for case in cases(other / folder))}) == 2 * len(first)


# --- what sites differ in --------------------------------------------------------------------------------------------


def test_without_a_shift_all_sites_have_one_scanner_and_with_one_their_own() -> None:
    assert len({scanner_of(site, "none") for site in range(5)}) == 1
    for shift in ("mild", "strong"):
        assert len({scanner_of(site, shift) for site in range(4)}) == 4
        assert scanner_of(4, shift) == scanner_of(0, shift)
    assert len({scanner_of(site, "mild").patients for site in range(4)}) == 1
    assert len({scanner_of(site, "strong").patients for site in range(4)}) == 4


def test_a_strong_shift_shows_in_the_intensities_and_none_does_not() -> None:
    def levels(shift: Shift) -> list[float]:
        """How bright the brain is in T2 at each site, the same two patients everywhere."""
        images = [
            [made_subject(np.random.default_rng([7, case]), scanner_of(site, shift), TINY).image for case in range(2)]
            for site in range(3)
        ]
        return [float(np.mean([image[..., T2][image[..., T2] > 0].mean() for image in some])) for some in images]

    same, different = levels("none"), levels("strong")
    assert max(same) == min(same)
    assert max(different) > 5 * min(different)


def test_the_scanners_of_all_sites_take_turns_in_the_test_set(tmp_path: Path) -> None:
    cohort = Cohort(cases=1, test_cases=4, shift="strong", grid=TINY)
    made(tmp_path, cohort)
    levels = [
        float(np.percentile(loaded(path)[..., T2], 99)) for path in sorted((tmp_path / "test/imagesTr").iterdir())
    ]
    assert min(levels[0], levels[2]) > 2 * max(levels[1], levels[3])


# --- contrasts -------------------------------------------------------------------------------------------------------


def of_pure_tissue(site: int, shift: Shift) -> dict[str, list[float]]:
    """What each contrast shows of each tissue: slabs of one tissue each, relative to white matter."""
    amounts = {name: np.zeros(TINY.shape, np.float32) for name in RELAXATION}
    slabs = {name: slice(4 * place, 4 * place + 4) for place, name in enumerate(RELAXATION)}
    for name, slab in slabs.items():
        amounts[name][slab] = 1
    brain = np.ones(TINY.shape, bool)
    image = acquired(np.random.default_rng(1), scanner_of(site, shift), TINY, amounts, brain)
    white = image[slabs["white"]].mean(axis=(0, 1, 2))
    return {name: (image[slab].mean(axis=(0, 1, 2)) / white).tolist() for name, slab in slabs.items()}


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("site", [0, 2])
def test_tissues_look_as_in_mri(site: int, shift: Shift) -> None:
    shown = of_pure_tissue(site, shift)
    assert shown["oedema"][FLAIR] > 1.1
    assert shown["csf"][FLAIR] < 0.6
    assert shown["csf"][T2] > 2
    assert shown["csf"][T1] < shown["grey"][T1] < 1
    assert 1 < shown["grey"][T2] < shown["oedema"][T2]
    assert shown["rim"][GADOLINIUM] > 1.3 * shown["rim"][T1]
    assert shown["core"][GADOLINIUM] < shown["rim"][GADOLINIUM]


def test_a_tumour_stands_out_where_radiologists_look_for_it(data: Path) -> None:
    oedema, enhancement = [], []
    for path in data.rglob("imagesTr/*"):
        image, label = loaded(path).astype(float), loaded(path.parents[1] / "labelsTr" / path.name)
        usual = [np.median(image[..., channel][(label == 0) & (image[..., channel] > 0)]) for channel in range(4)]
        if (label == 1).any():
            oedema.append(image[label == 1, FLAIR].mean() / usual[FLAIR])
        if (label == 3).any():
            rim = image[label == 3].mean(axis=0) / usual
            enhancement.append(rim[GADOLINIUM] / rim[T1])
    assert np.mean(oedema) > 1.2
    assert np.mean(enhancement) > 1.3


def test_contrasts_are_named_in_the_order_of_the_channels() -> None:
    assert CONTRASTS == ("FLAIR", "T1w", "t1gd", "T2w")


# --- as example data -------------------------------------------------------------------------------------------------


def test_it_is_installed_as_example_data_of_eighteen_cases_a_site_and_twelve_for_testing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert dataset_writer("brain-mri") is brain_mri.write
    assert Cohort() == Cohort(cases=18, test_cases=12, shift="mild", grid=Grid((48, 56, 48), 3.5))
    monkeypatch.setattr(brain_mri, "Cohort", lambda: SMALL)
    written = brain_mri.write(tmp_path, NAMES, 7)
    assert written == {
        "clinic-1": {
            "brain-mri": tmp_path / "clinic-1" / "brain-mri",
            "brain-mri-test": tmp_path / "clinic-1" / "brain-mri-test",
        },
        "clinic-2": {"brain-mri": tmp_path / "clinic-2" / "brain-mri"},
    }
    counts = [index(folder)["numTraining"] for folders in written.values() for folder in folders.values()]
    assert counts == [3, 2, 3]


def test_without_test_cases_there_is_no_test_set(tmp_path: Path) -> None:
    made(tmp_path, Cohort(cases=1, test_cases=0, grid=TINY), sites=["clinic-1"])
    assert [path.name for path in tmp_path.iterdir()] == ["clinic-1"]


@pytest.mark.parametrize(
    ("sites", "cohort", "said"),
    [
        (28, Cohort(), "28 sites with 18 cases each are too many"),
        (100, Cohort(cases=1), "at most 99 sites"),
        (1, Cohort(cases=501), "500 cases in all"),
        (1, Cohort(test_cases=500), "500 test cases are too many: at most 499"),
    ],
)
def test_there_are_no_more_cases_than_numbers(tmp_path: Path, sites: int, cohort: Cohort, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        write_cohort(cohort, [tmp_path / f"clinic-{number}" for number in range(sites)], tmp_path / "test", 7)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("shape", "spacing", "said"),
    [
        ((28, 28, 28), 3.5, "28 x 28 x 28 voxels of 3.5 mm shows too little of a brain: must cover at least 100 mm"),
        ((300, 300, 300), 1.0, "at most 20,000,000 voxels"),
        ((48, 56, 48), 9.0, "between 0.5 and 8 mm"),
        ((48, 56, 48), float("nan"), "between 0.5 and 8 mm"),
    ],
)
def test_a_volume_shows_a_brain_and_fits_into_memory(shape: tuple[int, int, int], spacing: float, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Grid(shape, spacing)


@pytest.mark.parametrize("grid", [Grid((13, 13, 13), 8.0), Grid((32, 25, 40), 4.0)])
def test_the_smallest_volumes_show_a_tumour(grid: Grid) -> None:
    subject = made_subject(np.random.default_rng(7), scanner_of(1, "strong"), grid)
    assert subject.label.any()


def test_fewer_large_cases_are_made_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda pid: set(range(16)))
    assert module._side_by_side(Grid((240, 240, 155), 1.0)) == 2
    assert module._side_by_side(Grid((48, 56, 48), 3.5)) == 16


def test_progress_is_told_case_by_case_to_the_caller(tmp_path: Path) -> None:
    told: list[tuple[int, int, int]] = []

    def tell(done: int, of: int) -> None:
        told.append((done, of, threading.get_ident()))

    cohort = Cohort(cases=2, test_cases=1, grid=TINY)
    write_cohort(cohort, [tmp_path / "clinic-1"], tmp_path / "test", 7, progress=tell)
    assert told == [(done, 3, threading.get_ident()) for done in (1, 2, 3)]


def test_a_data_set_that_could_not_be_finished_has_no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path, *_: object) -> None:
        raise OSError(28, "No space left on device", str(folder))

    monkeypatch.setattr(module, "write_case", full)
    with pytest.raises(OSError, match="No space left"):
        made(tmp_path)
    assert not list(tmp_path.rglob("dataset.json"))
