"""Training patches: cut from scans, most of them on a lesion, and varied a little.

Draws from torch's own generator, which the trainer's session seeds.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import pad

from wardround.training.imaging.cases import Case

ON_A_LESION = 2 / 3
FLIPPED = 0.5
SCALED = 0.1
SHIFTED = 0.1


class Patches:
    """One patch of each case, another one each time: image float32 [channels, x, y, z] and label int64 [x, y, z]."""

    def __init__(self, cases: Sequence[Case], edge: int) -> None:
        self._cases = cases
        self._edge = edge

    def __len__(self) -> int:
        return len(self._cases)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        case = self._cases[number]
        corner = draw_corner(case.label, self._edge)
        return varied(*cut(case, corner, self._edge))


def draw_corner(label: NDArray[np.uint8], edge: int) -> list[int]:
    """Where a patch of `edge` voxels begins: two of three are about a voxel of a lesion, the third is anywhere."""
    lesion = np.flatnonzero(label) if _chance(ON_A_LESION) else np.empty(0)
    if not lesion.size:
        return [_below(max(0, length - edge) + 1) for length in label.shape]
    centre = np.unravel_index(int(lesion[_below(lesion.size)]), label.shape)
    reach = edge * 3 // 16
    corner = [int(place) - edge // 2 + _below(2 * reach + 1) - reach for place in centre]
    return [max(0, min(start, length - edge)) for start, length in zip(corner, label.shape, strict=True)]


def cut(case: Case, corner: Sequence[int], edge: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The patch that begins at `corner`, filled up with zeros where the scan is smaller."""
    box = tuple(slice(start, start + edge) for start in corner)
    image = torch.from_numpy(case.image[(slice(None), *box)])
    label = torch.from_numpy(case.label[box]).long()
    missing = [edge - length for length in label.shape]
    ends = (0, missing[2], 0, missing[1], 0, missing[0])
    return pad(image, ends), pad(label, ends)


def varied(image: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Left and right exchanged in half of the patches; each channel's brain scaled and shifted by up to a tenth."""
    if _chance(FLIPPED):
        image, label = image.flip(1), label.flip(0)
    scale, shift = torch.rand(2, len(image), 1, 1, 1) * 2 - 1
    return image * (1 + SCALED * scale) + SHIFTED * shift * (image != 0), label


def _chance(share: float) -> bool:
    return bool(torch.rand(()) < share)


def _below(number: int) -> int:
    return int(torch.randint(number, ()))
