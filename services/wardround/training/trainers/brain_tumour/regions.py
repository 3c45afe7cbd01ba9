"""How well predicted regions of a tumour cover the true ones."""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch


def region_dice(predicted: torch.Tensor, truth: torch.Tensor, regions: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Dice of each region that the truth of this case has; regions are unions of classes.

    BraTS' regions: Menze et al. 2015, https://doi.org/10.1109/TMI.2014.2377694

    Args:
        predicted: classes [x, y, z].
        truth: classes [x, y, z].
    """
    found = {}
    for name, classes in regions.items():
        ours, theirs = (torch.isin(each, each.new_tensor(classes)) for each in (predicted, truth))
        if size := int(theirs.sum()):
            found[name] = 2 * int((ours & theirs).sum()) / (int(ours.sum()) + size)
    return found


def mean(values: Iterable[float]) -> float:
    """NaN where there is none."""
    some = list(values)
    return math.fsum(some) / len(some) if some else math.nan
