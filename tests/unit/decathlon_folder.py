"""Small data sets in the Decathlon's layout, right and wrong."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

MODALITIES = ("FLAIR", "T1w", "t1gd", "T2w")
LABELS = ("background", "edema", "non-enhancing tumor", "enhancing tumour")
SHAPE = (20, 24, 18)
EDGE = 2.0
"""Of a voxel, in mm."""


def subject(number: int, shape: tuple[int, int, int] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """An int16 image [x, y, z, 4] with a border of two empty voxels, and a uint8 segmentation of nested boxes."""
    rng = np.random.default_rng(number)
    label = np.zeros(shape, np.uint8)
    middle = [length // 2 + int(rng.integers(-1, 2)) for length in shape]
    for value, reach in ((1, 5), (2, 3), (3, 2)):
        label[tuple(slice(place - reach, place + reach) for place in middle)] = value
    image = rng.integers(80, 120, (*shape, 4))
    image += label[..., None] * np.array([60, -15, 30, 50])
    inside = np.zeros(shape, bool)
    inside[2:-2, 2:-2, 2:-2] = True
    return (image * inside[..., None]).astype(np.int16), label


def affine_of(edge: float = EDGE) -> np.ndarray:
    return np.diag([edge, edge, edge, 1.0])


def write_nifti(file: Path, values: np.ndarray, affine: np.ndarray | None = None) -> None:
    nibabel.save(nibabel.Nifti1Image(values, affine_of() if affine is None else affine), file)


def write_case(folder: Path, name: str, image: np.ndarray, label: np.ndarray, affine: np.ndarray | None = None) -> None:
    write_nifti(folder / "imagesTr" / f"{name}.nii.gz", image, affine)
    write_nifti(folder / "labelsTr" / f"{name}.nii.gz", label, affine)


def index(
    names: Iterable[str], *, modalities: Iterable[str] = MODALITIES, labels: Mapping[int, str] | None = None
) -> dict[str, Any]:
    return {
        "modality": {str(number): name for number, name in enumerate(modalities)},
        "labels": {str(value): name for value, name in (labels or dict(enumerate(LABELS))).items()},
        "training": [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names],
        "test": [],
    }


def decathlon(folder: Path, cases: int = 4, **named: Any) -> Path:
    """A folder with so many subjects, `BRATS_001` the first."""
    for inner in ("imagesTr", "labelsTr"):
        (folder / inner).mkdir(parents=True)
    names = [f"BRATS_{number:03d}" for number in range(1, cases + 1)]
    for number, name in enumerate(names, 1):
        write_case(folder, name, *subject(number))
    (folder / "dataset.json").write_text(json.dumps(index(names, **named)))
    return folder
