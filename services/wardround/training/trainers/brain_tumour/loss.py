"""What training lowers: soft Dice and cross entropy, and FedProx' pull towards the received model."""

from collections.abc import Iterable, Sequence

import torch
from torch.nn.functional import cross_entropy

SMOOTH = 1e-5


def dice_and_cross_entropy(scores: torch.Tensor, label: torch.Tensor, regions: Iterable[Sequence[int]]) -> torch.Tensor:
    """Soft Dice loss of the regions, mean over them and the batch, plus cross entropy of the classes per voxel.

    Soft Dice: Milletari et al. 2016 (https://arxiv.org/abs/1606.04797), with plain sums in the denominator. Its sum
    with cross entropy, and Dice of the regions that are measured rather than of the classes that make them up: Isensee
    et al. 2020 (https://arxiv.org/abs/2011.00848). Region by region, since one-hot labels of a whole scan would take
    several times its memory.

    Args:
        scores: float32 [batch, classes, x, y, z], before softmax.
        label: int64 [batch, x, y, z].
        regions: the classes of each.
    """
    shares = scores.softmax(1)
    space = (1, 2, 3)
    overlaps = []
    for classes in regions:
        share = shares[:, list(classes)].sum(1)
        truth = torch.isin(label, label.new_tensor(classes))
        both = (share * truth).sum(space)
        overlaps.append((2 * both + SMOOTH) / (share.sum(space) + truth.sum(space) + SMOOTH))
    return 1 - torch.stack(overlaps).mean() + cross_entropy(scores, label)


def pull(weights: Iterable[torch.Tensor], received: Sequence[torch.Tensor], strength: float) -> torch.Tensor:
    """Half the squared distance from the received weights, times `strength`.

    The proximal term of FedProx: Li et al. 2020, https://arxiv.org/abs/1812.06127
    """
    squares = [((now - then) ** 2).sum() for now, then in zip(weights, received, strict=True)]
    return strength / 2 * torch.stack(squares).sum()
