"""Cases drawn: a slice of the scan, and the true and the predicted tumour in it."""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from wardround.training.imaging.cases import Cases
from wardround.training.pictures import Picture
from wardround.training.torch_trainer import TorchJob
from wardround.training.trainers.brain_tumour.measuring import segment
from wardround.training.trainers.brain_tumour.parameters import BrainTumourParameters

SHOWN = "FLAIR"
IMAGES = "imagesTr"
DARKEST, BRIGHTEST = 1, 99.5
"""Percentiles of the brain's intensities between which grey goes from black to white."""


def show(model: nn.Module, cases: Cases, job: TorchJob[BrainTumourParameters]) -> Iterator[Picture]:
    """One picture a case: the axial slice with most tumour, in FLAIR or else in the first modality.

    Of a case without tumour it is the slice with most of what the model takes for one, else with most brain.
    """
    parameters = job.parameters
    shown = next((name for name in parameters.modalities if name.casefold() == SHOWN.casefold()), None)
    modality = shown or parameters.modalities[0]
    for case in job.steps(cases):
        predicted = segment(model, case, job).argmax(0).byte().cpu().numpy()
        place = _fullest(case.label > 0, predicted > 0, (case.image != 0).any(0))
        yield Picture(
            title=f"{bare_name(case.name)}, {modality}, axial slice {place + 1} of {case.label.shape[2]}",
            image=_grey(upright(case.image[parameters.modalities.index(modality), :, :, place])),
            truth=upright(case.label[:, :, place]),
            predicted=upright(predicted[:, :, place]),
            classes=parameters.labels,
        )


def bare_name(case: str) -> str:
    """`BRATS_501` of `imagesTr/BRATS_501.nii.gz`; where a site has several data folders, with that folder's name."""
    *folders, file = PurePosixPath(case).parts
    return "/".join([*(each for each in folders if each != IMAGES), file.removesuffix(".gz").removesuffix(".nii")])


def _fullest(*masks: NDArray[np.bool_]) -> int:
    """The axial slice that has most of the first mask [x, y, z] with anything in it."""
    mask = next((mask for mask in masks if mask.any()), masks[-1])
    return int(mask.sum((0, 1)).argmax())


def upright(axial: NDArray[Any]) -> NDArray[Any]:
    """An axial slice [x, y] of a scan in RAS as radiologists look at it: front up, the patient's right on the left."""
    return np.ascontiguousarray(axial.T[::-1, ::-1])


def _grey(axial: NDArray[np.float32]) -> NDArray[np.float32]:
    """From 0 to 1; what is exactly zero lies outside the brain and is black."""
    brain = axial != 0
    if not brain.any():
        return np.zeros_like(axial)
    low, high = np.percentile(axial[brain], (DARKEST, BRIGHTEST))
    scaled = (axial - low) / max(high - low, np.finfo(np.float32).tiny)
    return np.where(brain, np.clip(scaled, 0, 1), 0).astype(np.float32)
