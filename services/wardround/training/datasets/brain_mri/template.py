"""The anatomy that every synthetic subject starts from: tissue fractions of the MNI ICBM152 average brain.

Fonov, Evans, McKinstry, Almli, Collins, "Unbiased nonlinear average age-appropriate brain templates from birth to
adulthood", NeuroImage 47, 2009. `mni_tissue_notice.txt` beside the file says how it was derived, and its terms.
"""

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

FILE = "mni_tissue_2p5mm.npz"


@dataclass(frozen=True, slots=True)
class Template:
    """Fractions of cerebrospinal fluid, grey and white matter, float32 [X, Y, Z] in 0..1; `spacing` in mm."""

    csf: NDArray[np.float32]
    grey: NDArray[np.float32]
    white: NDArray[np.float32]
    spacing: float
    centre: tuple[float, ...]

    @property
    def brain(self) -> NDArray[np.float32]:
        return self.csf + self.grey + self.white


@lru_cache(maxsize=1)
def template_for(spacing: float) -> Template:
    """The template, smoothed so that it can be sampled every `spacing` mm without aliasing."""
    with resources.files(__package__).joinpath(FILE).open("rb") as file:
        stored = np.load(file, allow_pickle=False)
        tissue, own = stored["tissue"].astype(np.float32) / 255, float(stored["mm"])
    centre = ndimage.center_of_mass(tissue.sum(axis=0))
    if spacing > 1.2 * own:
        tissue = np.stack([ndimage.gaussian_filter(each, 0.35 * spacing / own) for each in tissue])
    csf, grey, white = tissue
    return Template(csf, grey, white, spacing=own, centre=centre)
