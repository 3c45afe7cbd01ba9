"""Scores for a whole scan: in one go, or window by window."""

from collections.abc import Callable, Iterator
from itertools import product

import torch
from torch import nn
from torch.nn.functional import pad

Window = tuple[slice, slice, slice, slice]


def whole(network: nn.Module, image: torch.Tensor, stride: int) -> torch.Tensor:
    """Scores [classes, x, y, z] of an image [channels, x, y, z], which is padded with zeros to what the network takes.

    Args:
        stride: edges must be multiples of it, twice it at least.
    """
    edges = image.shape[1:]
    sizes = [max(2 * stride, -(-edge // stride) * stride) for edge in edges]
    return _within(network(_padded(image, sizes)[None])[0], edges)


def sliding(
    network: nn.Module, image: torch.Tensor, edge: int, batch: int, between: Callable[[], None] = lambda: None
) -> torch.Tensor:
    """The same from cubes of `edge` voxels that overlap by half: their mean, weighted by a Gaussian.

    As Isensee et al. do: a window sees least at its border. https://doi.org/10.1038/s41592-020-01008-z

    Args:
        batch: windows at once.
        between: called before each batch.
    """
    edges = image.shape[1:]
    image = _padded(image, [max(edge, each) for each in edges])
    weight = _gaussian(edge).to(image)
    weights = image.new_zeros(image.shape[1:])
    total: torch.Tensor | None = None
    windows = list(_windows(image.shape[1:], edge))
    for first in range(0, len(windows), batch):
        between()
        some = windows[first : first + batch]
        for window, scores in zip(some, network(torch.stack([image[window] for window in some])), strict=True):
            if total is None:
                total = image.new_zeros((len(scores), *image.shape[1:]))
            total[window] += scores * weight
            weights[window[1:]] += weight
    assert total is not None  # noqa: S101 - there is a window at least
    return _within(total.div_(weights), edges)


def _padded(image: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    ends = [size - edge for size, edge in zip(sizes, image.shape[1:], strict=True)]
    return pad(image, (0, ends[2], 0, ends[1], 0, ends[0])) if any(ends) else image


def _within(scores: torch.Tensor, edges: torch.Size) -> torch.Tensor:
    return scores[:, : edges[0], : edges[1], : edges[2]]


def _windows(edges: torch.Size, edge: int) -> Iterator[Window]:
    """All channels of each, half a window apart, the last one at the end."""
    starts = [sorted({*range(0, length - edge, edge // 2), length - edge}) for length in edges]
    for x, y, z in product(*starts):
        yield slice(None), slice(x, x + edge), slice(y, y + edge), slice(z, z + edge)


def _gaussian(edge: int) -> torch.Tensor:
    """Weights [edge, edge, edge] with a standard deviation of an eighth of the edge, none of them nearly zero."""
    along = torch.exp(-((torch.arange(edge) - (edge - 1) / 2) ** 2) / (2 * (edge / 8) ** 2))
    cube = along[:, None, None] * along[None, :, None] * along[None, None, :]
    return cube.clamp(min=float(cube.max()) / 1000)
