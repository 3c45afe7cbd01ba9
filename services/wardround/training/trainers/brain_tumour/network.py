"""A residual 3-D U-Net that is quick on a CPU: its first level already halves the volume.

The U of Çiçek et al. 2016 (https://arxiv.org/abs/1606.06650) with the residual units of Kerfoot et al. 2018
(https://doi.org/10.1007/978-3-030-12029-0_40), instance norm (Ulyanov et al. 2016, https://arxiv.org/abs/1607.08022)
and PReLU (He et al. 2015, https://arxiv.org/abs/1502.01852).
"""

from collections.abc import Sequence

import torch
from torch import nn


class ResidualUnet(nn.Module):  # type: ignore[misc]
    """Scores of each class at each voxel.

    Takes float32 [batch, inputs, x, y, z] with x, y and z multiples of `2 ** (len(channels) - 1)`, twice that at least;
    gives float32 [batch, outputs, x, y, z].

    Args:
        channels: width of each level, the finest first.
    """

    def __init__(self, inputs: int, outputs: int, channels: Sequence[int]) -> None:
        super().__init__()
        *halving, coarsest = channels
        self.down = nn.ModuleList(
            _Residual(_unit(before, after, stride=2), _unit(after, after), skip=nn.Conv3d(before, after, 3, 2, 1))
            for before, after in zip([inputs, *halving], halving, strict=False)
        )
        self.bottom = _Residual(
            _unit(halving[-1], coarsest), _unit(coarsest, coarsest), skip=nn.Conv3d(halving[-1], coarsest, 1)
        )
        self.up = nn.ModuleList()
        below = coarsest
        for level in reversed(range(len(halving))):
            after = halving[level - 1] if level else outputs
            last = nn.Conv3d(after, after, 3, padding=1)
            self.up.append(
                nn.Sequential(
                    nn.ConvTranspose3d(below + halving[level], after, 3, 2, padding=1, output_padding=1),
                    nn.InstanceNorm3d(after),
                    nn.PReLU(),
                    _Residual(_unit(after, after) if level else last, skip=nn.Identity()),
                )
            )
            below = after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        levels = []
        for down in self.down:
            x = down(x)
            levels.append(x)
        x = self.bottom(x)
        for up in self.up:
            x = up(torch.cat([x, levels.pop()], 1))
        return x


class _Residual(nn.Module):  # type: ignore[misc]
    """The sum of what goes through the units and what goes past them."""

    def __init__(self, *units: nn.Module, skip: nn.Module) -> None:
        super().__init__()
        self.units = nn.Sequential(*units)
        self.skip = skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.units(x) + self.skip(x)


def _unit(before: int, after: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv3d(before, after, 3, stride, padding=1), nn.InstanceNorm3d(after), nn.PReLU())
