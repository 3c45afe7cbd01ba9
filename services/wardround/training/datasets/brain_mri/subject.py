"""One synthetic subject: a brain with a tumour in it, as a scanner shows it, and the label of every voxel."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wardround.training.datasets.brain_mri.acquisition import acquired
from wardround.training.datasets.brain_mri.anatomy import Anatomy, Tissue
from wardround.training.datasets.brain_mri.fields import Grid, Volume
from wardround.training.datasets.brain_mri.lesion import Tumour, grown, seeded_foci
from wardround.training.datasets.brain_mri.scanner import Scanner


@dataclass(frozen=True, slots=True)
class Subject:
    """`image` is int16 [X, Y, Z, 4] (FLAIR, T1w, t1gd, T2w), 0 outside the brain; `label` uint8 [X, Y, Z] in 0..3."""

    image: NDArray[np.int16]
    label: NDArray[np.uint8]


def made_subject(rng: np.random.Generator, scanner: Scanner, grid: Grid) -> Subject:
    """Draw a subject from the scanner's case mix, and its images."""
    places = grid.places()
    anatomy = Anatomy(rng, grid)
    mix = scanner.patients
    count = 2 if rng.random() < mix.multifocal else 1
    low_grade = bool(rng.random() < mix.low_grade)
    foci = seeded_foci(rng, anatomy, grid, places, mix, low_grade=low_grade, count=count)
    pushed = sum(focus.displacement(places) for focus in foci)
    tissue = anatomy.tissue(places - pushed)  # a voxel shows the tissue that was pushed to it
    brain = tissue.brain()
    tumour = grown(rng, foci, grid, tissue, brain, low_grade=low_grade)
    amounts = _amounts(rng, grid, tissue, tumour)
    return Subject(acquired(rng, scanner, grid, amounts, brain), tumour.label(brain))


def _amounts(rng: np.random.Generator, grid: Grid, tissue: Tissue, tumour: Tumour) -> dict[str, Volume]:
    """How much of each tissue is in each voxel, the tumour's uneven in themselves.

    The elderly have bright spots in the white matter that are no tumour, and no label says so: something to tell apart.
    """
    healthy = np.clip(1 - tumour.all(), 0, 1)
    spots = np.clip((grid.noise(rng, 4) - rng.uniform(1.9, 3.0)) * 2, 0, 0.7) * (tissue.white > 0.6) * healthy
    amounts = {
        "csf": tissue.csf * healthy,
        "grey": tissue.grey * healthy,
        "white": np.clip(tissue.white * healthy - spots, 0, 1),
        "oedema": tumour.oedema + spots,
        "core": tumour.core,
        "rim": tumour.rim,
    }
    for name, uneven in (("oedema", 0.05), ("core", 0.10), ("rim", 0.10)):
        amounts[name] = amounts[name] * (1 + uneven * grid.noise(rng, 5))
    return amounts
