"""A glioma: oedema along the white matter, an enhancing rim, a core that does not enhance, and what it displaces."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import expit

from wardround.training.datasets.brain_mri.anatomy import Anatomy, Tissue
from wardround.training.datasets.brain_mri.fields import Grid, Volume, rotation, transformed
from wardround.training.datasets.brain_mri.scanner import CaseMix

OEDEMA, CORE, RIM = 1, 2, 3  # the values in a label volume, as the Decathlon numbers them
DEPTH = 9.0  # mm below the surface of the brain
EDGE = 0.06  # how soft borders are, as a share of the radius


@dataclass(frozen=True, slots=True)
class Focus:
    """One place where a tumour grows.

    `distance` is float32 [X, Y, Z]: that of each voxel from the centre, skewed, and 1 where the oedema would end.
    """

    centre: NDArray[np.float64]
    distance: Volume
    push: float

    def displacement(self, places: Volume) -> Volume:
        """How far tissue was pushed outwards, in mm: float32 [3, X, Y, Z]."""
        offset = places - self.centre.astype(np.float32)[:, None, None, None]
        offset *= self.push * np.exp(-((self.distance / 0.9) ** 2))
        return offset


@dataclass(frozen=True, slots=True)
class Tumour:
    """Fractions of the tumour's compartments, float32 [X, Y, Z] in 0..1. One of low grade has no rim."""

    oedema: Volume
    core: Volume
    rim: Volume

    def all(self) -> Volume:
        return self.oedema + self.core + self.rim

    def label(self, brain: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """uint8 [X, Y, Z]: the compartment that a voxel mostly belongs to, 0 where it is mostly healthy."""
        thin = 1.5  # a thin rim would lose to partial volume otherwise
        largest = np.stack([self.oedema, self.core, thin * self.rim]).argmax(axis=0).astype(np.uint8)
        return np.where((self.all() > 0.5) & brain, largest + OEDEMA, 0).astype(np.uint8)


def seeded_foci(
    rng: np.random.Generator, anatomy: Anatomy, grid: Grid, places: Volume, mix: CaseMix, *, low_grade: bool, count: int
) -> list[Focus]:
    """Places in the white matter, well below the surface, for tumours of the sizes in the site's case mix."""
    brain, white = anatomy.inside(places)
    depth = ndimage.distance_transform_edt(brain) * grid.spacing
    candidates = np.argwhere((white > 0.55) & (depth > DEPTH))
    foci = []
    for number in range(count):
        centre = grid.place(candidates[rng.integers(len(candidates))])
        radius = rng.uniform(*mix.radius) * (0.6 if number else 1.0)
        skew = np.diag(rng.uniform(0.75, 1.3, 3)) @ rotation(rng, 60)
        offset = places - centre.astype(np.float32)[:, None, None, None]
        distance = np.sqrt((transformed(skew / radius, offset) ** 2).sum(axis=0))
        foci.append(Focus(centre, distance, rng.uniform(0.15, 0.40) * (0.4 if low_grade else 1.0)))
    return foci


def grown(
    rng: np.random.Generator,
    foci: Sequence[Focus],
    grid: Grid,
    tissue: Tissue,
    brain: NDArray[np.bool_],
    *,
    low_grade: bool,
) -> Tumour:
    """The tumour that grows from these foci into this tissue."""
    oedema, tumour, core = (np.zeros(grid.shape, np.float32) for _ in range(3))
    along_white = 0.28 * (tissue.white - 0.5) - 0.9 * np.clip(tissue.csf - 0.35, 0, 1)
    for focus in foci:
        of_oedema = rng.uniform(0.8, 1.0)
        of_tumour = rng.uniform(0.62, 0.9) if low_grade else rng.uniform(0.5, 0.72)
        of_core = of_tumour * rng.uniform(0.55, 0.78)
        ragged = focus.distance + 0.12 * grid.noise(rng, 8) + 0.10 * grid.noise(rng, 16)
        np.maximum(oedema, _within(of_oedema, ragged - along_white), out=oedema)
        ragged = focus.distance + 0.08 * grid.noise(rng, 7) + 0.07 * grid.noise(rng, 14)
        solid = _within(of_tumour, ragged)
        np.maximum(tumour, solid, out=tumour)
        ragged = focus.distance + 0.12 * grid.noise(rng, 7) + 0.07 * grid.noise(rng, 14)
        np.maximum(core, np.minimum(solid, _within(of_core, ragged)), out=core)
    if low_grade:
        core = tumour
    return Tumour(
        oedema=np.clip(oedema - tumour, 0, 1) * brain, core=core * brain, rim=np.clip(tumour - core, 0, 1) * brain
    )


def _within(border: float, distance: Volume) -> Volume:
    """1 inside the border, 0 outside, 0.5 on it."""
    within: Volume = expit((border - distance) / EDGE)
    return within
