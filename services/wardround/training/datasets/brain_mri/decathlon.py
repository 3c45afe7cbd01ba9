"""Task01_BrainTumour of the Medical Segmentation Decathlon, file for file, with a word in each that it is synthetic.

Antonelli et al., "The Medical Segmentation Decathlon", Nature Communications 13, 2022; http://medicaldecathlon.com
"""

import json
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

from wardround.training.datasets.brain_mri.acquisition import CONTRASTS
from wardround.training.datasets.brain_mri.subject import Subject
from wardround.training.imaging.decathlon import DATASET

LABELS = ("background", "edema", "non-enhancing tumor", "enhancing tumour")
SYNTHETIC = "SYNTHETIC, not patient data, not for clinical use"
NOTICE = (
    "Made from the ICBM 2009a template of the MNI, (c) 1993-2009 Louis Collins, McConnell Brain Imaging Centre, "
    "Montreal Neurological Institute, McGill University: free to use, copy, modify and distribute for any purpose and "
    "without fee if this notice appears in all copies; provided as is"
)


def make_folders(folder: Path) -> None:
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / name).mkdir(parents=True, exist_ok=True)


def write_case(folder: Path, number: int, subject: Subject, spacing: float) -> None:
    """Write one training case; the same subject always gives the same bytes."""
    _save(folder / "imagesTr" / _file(number), subject.image, spacing)
    _save(folder / "labelsTr" / _file(number), subject.label, spacing)


def write_index(folder: Path, numbers: Sequence[int]) -> None:
    """Write `dataset.json`, last of all: where it is, the data set is whole."""
    index = {
        "name": "BRATS",
        "description": f"{SYNTHETIC}: gliomas and their oedema in simulated MRI of the brain",
        "reference": f"{SYNTHETIC}: made by wardround.training.datasets.brain_mri",
        "licence": f"{SYNTHETIC}: CC0 1.0. {NOTICE}",
        "release": "synthetic 1.0",
        "tensorImageSize": "4D",
        "modality": {str(channel): name for channel, name in enumerate(CONTRASTS)},
        "labels": {str(value): name for value, name in enumerate(LABELS)},
        "numTraining": len(numbers),
        "numTest": 0,
        "training": [
            {"image": f"./imagesTr/{_file(number)}", "label": f"./labelsTr/{_file(number)}"} for number in numbers
        ],
        "test": [],
    }
    (folder / DATASET).write_text(json.dumps(index, indent=2) + "\n")


def _file(number: int) -> str:
    return f"BRATS_{number:03d}.nii.gz"


def _save(path: Path, volume: NDArray[np.int16] | NDArray[np.uint8], spacing: float) -> None:
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = [-(side - 1) / 2 * spacing for side in volume.shape[:3]]
    image = nibabel.Nifti1Image(volume, affine)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = f"{SYNTHETIC}; from MNI ICBM 2009a".encode()
    nibabel.save(image, path)
