"""What chance is made of here: smooth random fields, random rotations, the places of voxels."""

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Volume = NDArray[np.float32]
Shape = tuple[int, int, int]


VOXELS_AT_MOST = 20_000_000  # of some 150 bytes each while a case is made
EXTENT_AT_LEAST = 100.0  # mm: less would miss the parts of the brain that tumours grow in
SPACING = (0.5, 8.0)  # mm


@dataclass(frozen=True, slots=True)
class Grid:
    """`shape` voxels, each a cube of `spacing` mm, around the origin.

    Raises:
        ValueError: it shows too little of a brain, or is larger than memory is planned for.
    """

    shape: Shape
    spacing: float

    def __post_init__(self) -> None:
        least, most = SPACING
        if not least <= self.spacing <= most:
            raise ValueError(f"a spacing of {self.spacing:g} mm: must be between {least:g} and {most:g} mm")
        if min(self.shape) * self.spacing < EXTENT_AT_LEAST:
            raise ValueError(f"{self} shows too little of a brain: must cover at least {EXTENT_AT_LEAST:g} mm each way")
        if self.voxels > VOXELS_AT_MOST:
            raise ValueError(f"{self} is too large: at most {VOXELS_AT_MOST:,} voxels in all")

    def __str__(self) -> str:
        return f"a volume of {' x '.join(map(str, self.shape))} voxels of {self.spacing:g} mm"

    @property
    def voxels(self) -> int:
        return prod(self.shape)

    def places(self) -> Volume:
        """Where each voxel lies, in mm: float32 [3, X, Y, Z]."""
        axes = [(np.arange(side, dtype=np.float32) - (side - 1) / 2) * self.spacing for side in self.shape]
        return np.stack(np.meshgrid(*axes, indexing="ij"))

    def place(self, voxel: NDArray[np.intp]) -> NDArray[np.float64]:
        """Where one voxel lies, in mm."""
        return (voxel - (np.array(self.shape) - 1) / 2) * self.spacing

    def noise(self, rng: np.random.Generator, width: float) -> Volume:
        """A smooth random field of mean 0 and deviation 1, correlated over some `width` mm: float32 [X, Y, Z]."""
        sigma = width / self.spacing
        coarser = max(1, int(sigma // 2))  # what is smooth needs no fine grid
        drawn = rng.standard_normal([max(3, -(-side // coarser) + 2) for side in self.shape])
        field: Volume = ndimage.gaussian_filter(drawn.astype(np.float32), sigma / coarser, mode="wrap")
        cut = tuple(slice(side) for side in self.shape)
        field = _stretched(field, self.shape) if coarser > 1 else field[cut]
        field -= field.mean()
        field /= field.std()
        return field


def _stretched(field: Volume, shape: Shape) -> Volume:
    """The field on a finer grid from end to end of it: linear along each axis, one after the other."""
    # `scipy.ndimage.zoom` gives the same, but would take a third of the time of a large case.
    for axis, side in enumerate(shape):
        positions = np.linspace(0, field.shape[axis] - 1, side)
        below = np.minimum(positions.astype(np.intp), field.shape[axis] - 2)
        share = (positions - below).astype(np.float32).reshape([-1 if each == axis else 1 for each in range(3)])
        lower = field.take(below, axis)
        field = lower + share * (field.take(below + 1, axis) - lower)
    return field


def rotation(rng: np.random.Generator, at_most: float) -> NDArray[np.float64]:
    """A rotation by up to so many degrees about each axis: a 3 x 3 matrix."""
    (sx, sy, sz), (cx, cy, cz) = _sines_and_cosines(rng.uniform(-at_most, at_most, 3))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    turned: NDArray[np.float64] = about_x @ about_y @ about_z
    return turned


def _sines_and_cosines(degrees: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    angles = np.deg2rad(degrees)
    return np.sin(angles), np.cos(angles)


def transformed(matrix: NDArray[np.float64], places: Volume) -> Volume:
    """`matrix` times each place: float32 [3, X, Y, Z]."""
    # Not by BLAS, whose threads may divide the work another way from run to run.
    moved: Volume = np.einsum("ij,jxyz->ixyz", matrix.astype(np.float32), places)
    return moved
