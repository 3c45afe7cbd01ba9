"""Scans in the Decathlon's layout: found, named, checked, prepared, and kept while there is room."""

import gzip
import json
import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from decathlon_folder import (
    EDGE,
    LABELS,
    MODALITIES,
    SHAPE,
    affine_of,
    decathlon,
    index,
    subject,
    write_case,
    write_nifti,
)

from wardround.training import CaseUnreadableError, TaskError
from wardround.training.cases import CaseFolders
from wardround.training.imaging import decathlon as decathlon_reader
from wardround.training.imaging import nifti, preparing
from wardround.training.imaging.cases import Case, CaseReader, Cases
from wardround.training.imaging.decathlon import CaseFiles, find_cases
from wardround.training.imaging.nifti import Scan
from wardround_messages.task_folder import JobData

WANTED = LABELS[1:]


def folders(*paths: Path) -> CaseFolders:
    return CaseFolders(JobData(name="data", folders=tuple(map(str, paths))))


def found(*paths: Path, modalities: tuple[str, ...] = MODALITIES, labels: tuple[str, ...] = WANTED) -> list[CaseFiles]:
    return list(find_cases(folders(*paths), modalities, labels).values())


def read(files: CaseFiles, spacing: float = 0.0) -> Case:
    return CaseReader(spacing, 0).read(files)


def rewrite(folder: Path, **changed: Any) -> None:
    file = folder / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return decathlon(tmp_path / "brain-mri", 2)


# --- which cases there are ---------------------------------------------------------------------------------------


def test_the_cases_are_those_that_the_index_lists_and_no_other_file(data: Path) -> None:
    (data / "imagesTr" / "._BRATS_001.nii.gz").write_bytes(b"left by a Macintosh")
    write_case(data, "BRATS_999", *subject(9))
    assert [files.name for files in found(data)] == ["imagesTr/BRATS_001.nii.gz", "imagesTr/BRATS_002.nii.gz"]


def test_the_cases_of_several_folders_are_pooled(tmp_path: Path, data: Path) -> None:
    other = decathlon(tmp_path / "other", 1, modalities=reversed(MODALITIES))
    cases = found(data, other)
    assert [files.name for files in cases] == [
        "brain-mri/imagesTr/BRATS_001.nii.gz",
        "brain-mri/imagesTr/BRATS_002.nii.gz",
        "other/imagesTr/BRATS_001.nii.gz",
    ]
    assert [files.legend.channels for files in cases] == [(0, 1, 2, 3), (0, 1, 2, 3), (3, 2, 1, 0)]


@pytest.mark.parametrize("entry", ["./labelsTr/BRATS_007.nii.gz", "../../outside.nii.gz", "/etc/hostname", "imagesTr"])
def test_a_listed_file_that_is_not_in_its_place_is_unreadable(tmp_path: Path, data: Path, entry: str) -> None:
    write_nifti(tmp_path / "outside.nii.gz", subject(1)[1])
    rewrite(data, training=[{"image": "./imagesTr/BRATS_001.nii.gz", "label": entry}])
    with pytest.raises(CaseUnreadableError) as raised:
        found(data)
    assert Path(entry).name not in raised.value.hint
    assert Path(entry).name in str(raised.value.__cause__)


def test_a_pipe_in_the_place_of_a_scan_holds_nothing_up(data: Path) -> None:
    scan = data / "imagesTr" / "BRATS_002.nii.gz"
    scan.unlink()
    os.mkfifo(scan)
    with pytest.raises(CaseUnreadableError):
        found(data)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path, data: Path) -> None:
    scan = data / "labelsTr" / "BRATS_002.nii.gz"
    scan.rename(tmp_path / "elsewhere.nii.gz")
    scan.symlink_to(tmp_path / "elsewhere.nii.gz")
    with pytest.raises(TaskError, match="link_out_of_folder"):
        found(data)


@pytest.mark.parametrize(
    "content",
    [
        None,
        "no JSON",
        "[]",
        json.dumps({"modality": {"0": "FLAIR"}, "labels": {"0": "background"}}),
        json.dumps(index([]) | {"modality": {"1": "FLAIR", "2": "T1w"}}),
        json.dumps(index([]) | {"labels": {"700": "edema"}}),
        json.dumps(index([]) | {"training": ["./imagesTr/BRATS_001.nii.gz"]}),
    ],
)
def test_a_folder_without_a_sound_index_is_told_by_a_code(data: Path, content: str | None) -> None:
    file = data / "dataset.json"
    file.unlink() if content is None else file.write_text(content)
    with pytest.raises(TaskError, match="data_layout"):
        found(data)


def test_a_case_that_is_listed_twice_is_told(data: Path) -> None:
    listed = index(["BRATS_001", "BRATS_002"])["training"]
    for training in (
        [*listed, listed[0] | {"label": listed[1]["label"]}],
        [{"image": (it := listed[0]["image"]), "label": it}],
    ):
        rewrite(data, training=training)
        with pytest.raises(TaskError, match="data_layout") as raised:
            found(data)
        assert "BRATS" not in raised.value.hint
        assert "BRATS_001" in str(raised.value.__cause__)


def test_an_index_is_read_up_to_a_bound(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decathlon_reader, "LISTING_AT_MOST", 100)
    with pytest.raises(TaskError, match="data_layout") as raised:
        found(data)
    assert "more than 100 bytes" in str(raised.value.__cause__)


# --- names -------------------------------------------------------------------------------------------------------


def test_channels_and_labels_are_told_by_their_names_whatever_their_numbers(tmp_path: Path) -> None:
    usual = read(found(decathlon(tmp_path / "usual", 1))[0])
    image, label = subject(1)
    brats = decathlon(
        tmp_path / "brats",
        1,
        modalities=["t2W", "flair", " T1GD", "T1w"],
        labels={0: "Background", 2: "EDEMA", 1: "non-enhancing tumor ", 4: "enhancing tumour"},
    )
    write_case(brats, "BRATS_001", image[..., [3, 0, 2, 1]], np.array([0, 2, 1, 4], np.uint8)[label])
    unusual = read(found(brats)[0])
    np.testing.assert_array_equal(unusual.image, usual.image)
    np.testing.assert_array_equal(unusual.label, usual.label)


def test_an_experiment_may_ask_for_some_channels_and_labels_in_its_own_order(data: Path) -> None:
    everything = read(found(data)[0])
    some = read(found(data, modalities=("T2w", "FLAIR"), labels=("enhancing tumour", "edema"))[0])
    np.testing.assert_array_equal(some.image, everything.image[[3, 0]])
    np.testing.assert_array_equal(some.label, np.array([0, 2, 0, 1], np.uint8)[everything.label])


@pytest.mark.parametrize(
    ("asked", "missing"),
    [({"modalities": ("FLAIR", "T1 post")}, "T1 post"), ({"labels": ("edema", "necrosis")}, "necrosis")],
)
def test_a_name_that_is_missing_is_said_in_the_experiments_words_alone(
    data: Path, asked: dict[str, tuple[str, ...]], missing: str
) -> None:
    with pytest.raises(TaskError, match="data_names") as raised:
        found(data, **asked)
    assert f"'{missing}'" in raised.value.hint
    assert not any(name in raised.value.hint for name in ("T2w", "enhancing", str(data)))
    at_the_site = str(raised.value.__cause__)
    assert all(name in at_the_site for name in (("T2w",) if "modalities" in asked else ("enhancing tumour",)))


def test_a_modality_that_is_named_twice_is_not_guessed(tmp_path: Path) -> None:
    data = decathlon(tmp_path / "brain-mri", 1, modalities=["FLAIR", "T1w", "flair ", "T2w"])
    with pytest.raises(TaskError, match="names the modality 'FLAIR' twice"):
        found(data, modalities=("FLAIR", "T2w"))
    assert found(data, modalities=("T1w", "T2w"))[0].legend.channels == (1, 3)


# --- what is wrong with a case -----------------------------------------------------------------------------------


def spoil_image(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    return lambda folder: write_nifti(folder / "imagesTr" / "BRATS_002.nii.gz", change(subject(2)[0]))


def spoil_label(change: Callable[[np.ndarray], np.ndarray], affine: np.ndarray | None = None) -> Callable[[Path], None]:
    return lambda folder: write_nifti(folder / "labelsTr" / "BRATS_002.nii.gz", change(subject(2)[1]), affine)


def spoil_bytes(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        file = folder / "imagesTr" / "BRATS_002.nii.gz"
        file.write_bytes(change(file.read_bytes()))

    return spoil


def with_value(value: float, dtype: type[np.generic]) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        values = values.astype(dtype)
        values[9, 9, 9] = value
        return values

    return change


def at_no_place(folder: Path) -> None:
    header = nibabel.Nifti1Header()
    header["sform_code"] = 1
    nibabel.save(nibabel.Nifti1Image(subject(2)[1], None, header), folder / "labelsTr" / "BRATS_002.nii.gz")


def claiming(shape: tuple[int, ...]) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        header = nibabel.Nifti1Header.from_fileobj(gzip.GzipFile(fileobj=BytesIO(content)))
        header.set_data_shape(shape)
        return gzip.compress(header.binaryblock + bytes(4))

    return change


SPOILT = {
    "a file that is no gzip": (spoil_bytes(lambda content: b"no gzip" + content), "no whole NIfTI file"),
    "a file that ends early": (spoil_bytes(lambda content: content[:-500]), "no whole NIfTI file"),
    "a file with other bytes": (
        spoil_bytes(lambda content: content[:900] + bytes(200) + content[1100:]),
        "no whole NIfTI file",
    ),
    "an empty file": (spoil_bytes(lambda content: b""), "no whole NIfTI file"),
    "a gzip of something else": (spoil_bytes(lambda content: gzip.compress(b"x" * 900)), "no whole NIfTI file"),
    "too few channels": (spoil_image(lambda image: image[..., :3]), "other channels"),
    "three axes": (spoil_image(lambda image: image[..., 0]), "four axes"),
    "five axes": (spoil_image(lambda image: image[..., None]), "four axes"),
    "another shape": (spoil_label(lambda label: label[:-1]), "another shape"),
    "another place": (spoil_label(lambda label: label, affine_of(EDGE + 0.5)), "lies elsewhere"),
    "no place": (at_no_place, "does not say where"),
    "a value without a name": (spoil_label(with_value(4, np.uint8)), "does not name"),
    "a value between two": (spoil_label(with_value(1.5, np.float32)), "does not name"),
    "a label that is no number": (spoil_label(with_value(np.nan, np.float64)), "does not name"),
    "a negative label": (spoil_label(with_value(-1, np.int16)), "does not name"),
    "no number": (spoil_image(with_value(np.nan, np.float32)), "NaN or infinity"),
    "infinity": (spoil_image(with_value(-np.inf, np.float64)), "NaN or infinity"),
    "more than float32 holds": (spoil_image(with_value(1e300, np.float64)), "NaN or infinity"),
    "nothing but zeros": (spoil_image(np.zeros_like), "empty"),
    "complex numbers": (spoil_image(lambda image: image.astype(np.complex64)), "plain numbers"),
    "absurdly many voxels": (spoil_bytes(claiming((30000, 30000, 30000, 4))), "absurdly many"),
    "no voxels": (spoil_bytes(claiming((0, 24, 18, 4))), "no voxels"),
}


@pytest.mark.parametrize("what", SPOILT)
@pytest.mark.filterwarnings("ignore::RuntimeWarning:nibabel")
def test_a_case_that_cannot_be_used_is_named_at_the_site_only(data: Path, what: str) -> None:
    spoil, said = SPOILT[what]
    spoil(data)
    whole, spoilt = found(data)
    assert read(whole).name == whole.name
    with pytest.raises(CaseUnreadableError) as raised:
        read(spoilt)
    assert raised.value.code == "case_unreadable"
    assert said in raised.value.hint
    assert "BRATS_002" not in raised.value.hint
    assert str(data) not in raised.value.hint
    assert "BRATS_002" in str(raised.value.__cause__)


def test_a_scan_of_one_modality_has_one_channel(tmp_path: Path) -> None:
    data = decathlon(tmp_path / "brain-mri", 1, modalities=["FLAIR"])
    image, label = subject(1)
    write_case(data, "BRATS_001", image[..., :1], label)
    four_axes = read(found(data, modalities=("FLAIR",))[0])
    assert four_axes.image.shape[0] == 1
    write_case(data, "BRATS_001", image[..., 0], label)
    np.testing.assert_array_equal(read(found(data, modalities=("FLAIR",))[0]).image, four_axes.image)


def test_nothing_is_written_into_the_data_folder(data: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in [data, *data.rglob("*")]}
    for files in found(data):
        read(files, spacing=3.0)
    assert {file: file.stat().st_mtime_ns for file in [data, *data.rglob("*")]} == before


# --- preparing ---------------------------------------------------------------------------------------------------


def test_a_prepared_case_is_the_brains_box_with_each_channel_of_zero_mean_and_unit_variance(data: Path) -> None:
    case = read(found(data)[0])
    image, label = subject(1)
    assert case.image.shape == (4, *(length - 4 for length in SHAPE))
    assert (case.image.dtype, case.label.dtype) == (np.float32, np.uint8)
    np.testing.assert_array_equal(case.label, label[2:-2, 2:-2, 2:-2])
    t2 = image[2:-2, 2:-2, 2:-2, 3].astype(float)
    np.testing.assert_allclose(case.image[3], (t2 - t2.mean()) / t2.std(), atol=1e-5)


def test_zeros_stay_zero_and_count_for_nothing(data: Path) -> None:
    image, label = subject(1)
    image[10, 10, 10] = 0
    image[..., 1] = 0
    image[..., 2] = 7
    write_case(data, "BRATS_001", image, label)
    case = read(found(data)[0])
    flair = case.image[0]
    assert flair[10, 10, 10] == 0
    assert flair[flair != 0].mean() == pytest.approx(0, abs=1e-5)
    assert not case.image[1].any()
    assert not case.image[2].any()


def test_tumour_outside_of_the_brains_box_is_not_cut_away(data: Path) -> None:
    image, label = subject(1)
    label[0, 0, 0] = 1
    write_case(data, "BRATS_001", image, label)
    assert read(found(data)[0]).label[0, 0, 0] == 1


@pytest.mark.parametrize("codes", [("R", "A", "S"), ("L", "P", "S"), ("P", "S", "R"), ("S", "L", "A")])
def test_however_a_scan_lies_in_its_file_it_is_read_alike(data: Path, codes: tuple[str, str, str]) -> None:
    usual = read(found(data)[0])
    for place, values in zip(("imagesTr", "labelsTr"), subject(1), strict=True):
        image = nibabel.Nifti1Image(values, affine_of())
        turning = nibabel.orientations.ornt_transform(
            nibabel.io_orientation(image.affine), nibabel.orientations.axcodes2ornt(codes)
        )
        turned = image.as_reoriented(turning)
        assert nibabel.aff2axcodes(turned.affine) == codes
        nibabel.save(turned, data / place / "BRATS_001.nii.gz")
    other = read(found(data)[0])
    np.testing.assert_array_equal(other.image, usual.image)
    np.testing.assert_array_equal(other.label, usual.label)


def test_an_oblique_scan_stays_with_its_segmentation(data: Path) -> None:
    usual = read(found(data)[0])
    turn = np.array([[1, -1, 0, 0], [1, 1, 0, 0], [0, 0, np.sqrt(2), 0], [0, 0, 0, np.sqrt(2)]]) / np.sqrt(2)
    image, label = subject(1)
    # Turned by 45 degrees, so that the least rounding decides which axis is nearest to which.
    write_nifti(data / "imagesTr" / "BRATS_001.nii.gz", image, turn @ affine_of())
    write_nifti(data / "labelsTr" / "BRATS_001.nii.gz", label, turn @ affine_of() + 1e-5 * np.eye(4))
    oblique = read(found(data)[0])
    assert oblique.image.shape[1:] == oblique.label.shape
    assert [oblique.image[0][oblique.label == value].size for value in (1, 2, 3)] == [
        usual.image[0][usual.label == value].size for value in (1, 2, 3)
    ]


def test_intensities_scaled_in_the_header_are_read_as_they_are_meant(data: Path) -> None:
    image, label = subject(1)
    scaled = nibabel.Nifti1Image(image, affine_of())
    scaled.header.set_slope_inter(0.5, 0)
    nibabel.save(scaled, data / "imagesTr" / "BRATS_001.nii.gz")
    write_nifti(data / "labelsTr" / "BRATS_001.nii.gz", label.astype(np.float32))
    whole, _ = found(data)
    np.testing.assert_allclose(
        read(whole).image, preparing.normalised(nifti.read_scan(whole).image)[:, 2:-2, 2:-2, 2:-2]
    )
    assert nifti.read_scan(whole).image.max() == image.max() / 2
    np.testing.assert_array_equal(read(whole).label, label[2:-2, 2:-2, 2:-2])


def scan_of(image: np.ndarray, label: np.ndarray, spacing: tuple[float, float, float]) -> Scan:
    return Scan(image.astype(np.float32), label.astype(np.uint8), spacing)


def test_resampling_keeps_a_ramp_a_ramp_and_takes_the_nearest_label() -> None:
    x, y, z = np.meshgrid(np.arange(8), np.arange(6), np.arange(4), indexing="ij")
    ramp = 2.0 * x - y + 0.5 * z
    fine = preparing.resampled(scan_of(ramp[None], x > 3, (2.0, 2.0, 4.0)), 1.0)
    assert fine.label.shape == (16, 12, 16)
    assert fine.spacing == (1.0, 1.0, 1.0)
    # The middle of new voxel i lies at (i + 0.5) * 1 mm, that of old voxel j at (j + 0.5) * 2 mm.
    places = np.meshgrid(
        (np.arange(16) + 0.5) / 2 - 0.5, (np.arange(12) + 0.5) / 2 - 0.5, (np.arange(16) + 0.5) / 4 - 0.5, indexing="ij"
    )
    inside = (slice(1, -1), slice(1, -1), slice(2, -2))  # further out is repeated what lies at the border
    expected = 2 * places[0] - places[1] + 0.5 * places[2]
    np.testing.assert_allclose(fine.image[0][inside], expected[inside], atol=1e-5)
    np.testing.assert_array_equal(fine.label, np.broadcast_to((np.arange(16) > 7)[:, None, None], (16, 12, 16)))


def test_resampling_to_the_spacing_of_the_scan_changes_nothing(data: Path) -> None:
    usual, same = read(found(data)[0]), read(found(data)[0], spacing=EDGE)
    np.testing.assert_array_equal(same.image, usual.image)
    np.testing.assert_array_equal(same.label, usual.label)


def test_a_spacing_that_would_make_absurdly_many_voxels_is_refused(data: Path) -> None:
    with pytest.raises(CaseUnreadableError, match="absurdly many voxels at this spacing"):
        read(found(data)[0], spacing=0.001)


# --- memory ------------------------------------------------------------------------------------------------------


def test_the_cases_used_last_are_kept_while_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = found(decathlon(tmp_path / "brain-mri", 3))
    loaded: list[str] = []
    real = nifti.read_scan

    def counting(files: CaseFiles) -> Scan:
        loaded.append(files.name[-10:-7])
        return real(files)

    monkeypatch.setattr("wardround.training.imaging.cases.read_scan", counting)
    room = 2 * read(files[0]).nbytes
    cases = Cases(files, CaseReader(0.0, room))
    loaded.clear()
    first = cases[0].image
    for number in (1, 0, 2, 0, 1):
        assert cases[number].name == files[number].name
    assert loaded == ["001", "002", "003", "002"]
    np.testing.assert_array_equal(cases[0].image, first)


def test_without_room_every_case_is_read_again_and_is_the_same(data: Path) -> None:
    cases = Cases(found(data), CaseReader(0.0, 100))
    assert len(list(cases)) == len(cases) == 2
    assert cases[1] is not cases[1]
    np.testing.assert_array_equal(cases[1].image, cases[1].image)
