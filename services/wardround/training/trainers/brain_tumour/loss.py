"""What training lowers: soft Dice and cross entropy, and FedProx' pull towards the received model."""

from collections.abc import Iterable, Sequence

import torch
from torch.nn.functional import cross_entropy

SMOOTH = 1e-5


def dice_and_cross_entropy(scores: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Soft Dice loss, mean over the classes but background and over the batch, plus cross entropy per voxel.

    Soft Dice: Milletari et al. 2016 (https://arxiv.org/abs/1606.04797), with plain sums in the denominator; its sum
    with cross entropy: Isensee et al. 2021 (https://doi.org/10.1038/s41592-020-01008-z). Class by class, since one-hot
    labels of a whole scan would take several times its memory.

    Args:
        scores: float32 [batch, classes, x, y, z], before softmax.
        label: int64 [batch, x, y, z].
    """
    shares = scores.softmax(1)
    space = (1, 2, 3)
    overlaps = []
    for number in range(1, scores.shape[1]):
        share, truth = shares[:, number], label == number
        both = (share * truth).sum(space)
        overlaps.append((2 * both + SMOOTH) / (share.sum(space) + truth.sum(space) + SMOOTH))
    return 1 - torch.stack(overlaps).mean() + cross_entropy(scores, label)


def pull(weights: Iterable[torch.Tensor], received: Sequence[torch.Tensor], strength: float) -> torch.Tensor:
    """Half the squared distance from the received weights, times `strength`.

    The proximal term of FedProx: Li et al. 2020, https://arxiv.org/abs/1812.06127
    """
    squares = [((now - then) ** 2).sum() for now, then in zip(weights, received, strict=True)]
    return strength / 2 * torch.stack(squares).sum()
