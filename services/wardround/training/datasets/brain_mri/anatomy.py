"""A healthy brain: the template turned, scaled, mirrored and bent into that of one person."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wardround.training.datasets.brain_mri.fields import Grid, Volume, rotation, transformed
from wardround.training.datasets.brain_mri.template import template_for

TURN = 7.0  # degrees
BEND_WIDTH = 18.0  # mm


@dataclass(frozen=True, slots=True)
class Tissue:
    """Fractions of cerebrospinal fluid, grey and white matter, float32 [X, Y, Z] in 0..1."""

    csf: Volume
    grey: Volume
    white: Volume

    def brain(self) -> NDArray[np.bool_]:
        """The largest connected part that is mostly tissue."""
        mostly = ndimage.binary_opening(self.csf + self.grey + self.white > 0.5)
        parts, count = ndimage.label(mostly)
        if count > 1:
            sizes = np.bincount(parts.ravel())[1:]
            mostly = parts == 1 + sizes.argmax()
        inside: NDArray[np.bool_] = mostly
        return inside


class Anatomy:
    """Where a person's tissue lies in the template: an affine map, and an elastic one on top."""

    def __init__(self, rng: np.random.Generator, grid: Grid) -> None:
        self._template = template_for(grid.spacing)
        turned = rotation(rng, TURN)
        stretched = np.diag(rng.uniform(0.93, 1.08, 3))
        self._linear = turned @ stretched * rng.uniform(0.96, 1.05)
        self._bend = np.stack([grid.noise(rng, BEND_WIDTH) for _ in range(3)])
        self._bend *= rng.uniform(1.5, 3.0)
        if rng.random() < 0.5:
            self._linear = np.diag([-1, 1, 1]) @ self._linear

    def inside(self, places: Volume) -> tuple[NDArray[np.bool_], Volume]:
        """Whether there is brain at each of the places, and the fraction of white matter."""
        points = self._in_template(places)
        return _sampled(self._template.brain, points) > 0.5, _sampled(self._template.white, points)

    def tissue(self, places: Volume) -> Tissue:
        """What tissue there is at each of the places, which are in mm: float32 [3, X, Y, Z]."""
        points = self._in_template(places)
        template = self._template
        return Tissue(*(_sampled(each, points) for each in (template.csf, template.grey, template.white)))

    def _in_template(self, places: Volume) -> Volume:
        points = transformed(self._linear / self._template.spacing, places + self._bend)
        points += np.array(self._template.centre, np.float32)[:, None, None, None]
        return points


def _sampled(volume: Volume, points: Volume) -> Volume:
    sampled: Volume = ndimage.map_coordinates(volume, points, order=1, mode="constant")
    return sampled
