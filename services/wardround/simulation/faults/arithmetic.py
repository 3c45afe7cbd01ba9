"""Federated averaging once more, written down by itself: what a model must be, given its members.

The aggregator reads slices, streams digests and leaves members out; this reads whole files and knows nothing of it.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load

Tensors = dict[str, npt.NDArray[np.float32]]


def tensors_of(data: bytes) -> Tensors:
    """The tensors of a safetensors file."""
    return load(data)


def mean_of(members: Sequence[tuple[bytes, int]]) -> Tensors:
    """The weighted mean of models with float32 tensors, in float64 and in the order given: (file, weight) each."""
    whole = sum(weight for _, weight in members)
    mean: dict[str, npt.NDArray[np.float64]] = {}
    for data, weight in members:
        share = weight / whole
        for name, values in tensors_of(data).items():
            mean[name] = mean.get(name, 0.0) + values.astype(np.float64) * share
    return {name: values.astype(np.float32) for name, values in mean.items()}


def is_same(one: Tensors, other: Tensors) -> bool:
    """Whether both hold the same tensors, to the last bit."""
    return one.keys() == other.keys() and all(one[name].tobytes() == other[name].tobytes() for name in one)
