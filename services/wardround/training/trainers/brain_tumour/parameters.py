"""What an experiment with `brain-tumour-unet` may set."""

from collections.abc import Iterable
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from wardround.training.job import Parameters

Name = Annotated[str, Field(min_length=1, max_length=64)]
Width = Annotated[int, Field(ge=1, le=1024)]
Places = Annotated[tuple[Annotated[int, Field(ge=1, le=20)], ...], Field(min_length=1, max_length=20)]

REGIONS = {"dice/wt": "whole_tumour", "dice/tc": "tumour_core", "dice/et": "enhancing_tumour"}
"""The metric of each region, and the parameter that says which labels make it up."""


class BrainTumourParameters(Parameters):
    learning_rate: float = Field(0.001, gt=0, le=1, description="step size of Adam")
    weight_decay: float = Field(1e-5, ge=0, le=1, description="L2 penalty of the weights, as Adam takes it")
    batch_size: int = Field(2, ge=1, le=64, description="patches in a step, one of each case")
    patch: int = Field(32, ge=8, le=256, multiple_of=8, description="edge of a training patch in voxels")
    channels: tuple[Width, ...] = Field(
        (16, 32, 64, 128), min_length=2, max_length=6, description="width of each level of the network, finest first"
    )
    modalities: tuple[Name, ...] = Field(
        ("FLAIR", "T1w", "t1gd", "T2w"),
        min_length=1,
        max_length=16,
        description="channels of the network's input, by their names in the clinics' dataset.json",
    )
    labels: tuple[Name, ...] = Field(
        ("edema", "non-enhancing tumor", "enhancing tumour"),
        min_length=1,
        max_length=20,
        description="classes of the network's output, by their names in the clinics' dataset.json",
    )
    whole_tumour: Places = Field((1, 2, 3), description="labels of the region dice/wt, by their place in `labels`")
    tumour_core: Places = Field((2, 3), description="labels of the region dice/tc")
    enhancing_tumour: Places = Field((3,), description="labels of the region dice/et")
    spacing: float = Field(0.0, ge=0, le=20, description="edge of a voxel in mm to resample to; 0: as scanned")
    # In a window instance norm sees what it saw in training; on the synthetic scans whole ones lose up to 0.05 of Dice.
    inference: Literal["sliding", "whole"] = Field(
        "sliding", description="measure by windows of the patch's size that overlap by half, or scans in one go"
    )
    proximal: float = Field(0.0, ge=0, le=100, description="strength of FedProx' pull towards the received model")
    validation: float = Field(0.2, gt=0, lt=1, description="share of a clinic's cases that is held out to measure on")
    cache_mb: int = Field(
        1024, ge=0, le=1_000_000, description="memory for cases that were read, in units of 1,000,000 bytes"
    )

    @property
    def regions(self) -> dict[str, tuple[int, ...]]:
        """What is measured, by the metric's name: classes of the network."""
        return {metric: getattr(self, region) for metric, region in REGIONS.items()}

    @property
    def stride(self) -> int:
        """How many voxels a voxel of the network's coarsest level stands for, along each axis."""
        return 1 << (len(self.channels) - 1)  # every level but the coarsest halves its input

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.patch % self.stride or self.patch < 2 * self.stride:
            raise ValueError(f"patch must be a multiple of {self.stride}, from {2 * self.stride} on for these channels")
        for name in ("modalities", "labels"):
            if _repeated(getattr(self, name)):
                raise ValueError(f"{name} names one twice")
        for name in REGIONS.values():
            if max(getattr(self, name)) > len(self.labels):
                raise ValueError(f"{name} names a place beyond the {len(self.labels)} labels")
        return self


def _repeated(names: Iterable[str]) -> bool:
    folded = [name.strip().casefold() for name in names]
    return len(set(folded)) < len(folded)
