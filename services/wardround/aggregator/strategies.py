"""How the members of a step become one model."""

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from wardround_messages.manifest import Manifest
from wardround_messages.names import Task

Values = npt.NDArray[Any]


class Strategy(Protocol):
    """Members come one after the other, in the sorted order of their sites, block of elements by block of elements.

    Floating values come as float64 and may be overwritten; integers and truth values come as they are stored.
    """

    def pick(self, sites: Sequence[str]) -> Sequence[str]:
        """Which of the sites, sorted and all sound as far as is known, make the model."""

    def shares(self, cases: Sequence[int]) -> tuple[float, ...]:
        """The weight of each member that was picked, from its number of cases."""

    def start(self, total: Values, values: Values, share: float) -> None:
        """Fill `total` from the first member."""

    def add(self, total: Values, values: Values, share: float) -> None:
        """Bring a further member's values into `total`."""


class FedAvg:
    """Federated averaging (McMahan et al. 2017, https://arxiv.org/abs/1602.05629, algorithm 1): the mean weighted by
    `cases`, or equally. Integers, which have no mean, and truth values: the element-wise maximum.
    """

    def __init__(self, weight: Literal["cases", "equal"]) -> None:
        self._weight = weight

    def pick(self, sites: Sequence[str]) -> Sequence[str]:
        return sites

    def shares(self, cases: Sequence[int]) -> tuple[float, ...]:
        weights = cases if self._weight == "cases" else [1] * len(cases)
        total = sum(weights)
        return tuple(weight / total for weight in weights)

    def start(self, total: Values, values: Values, share: float) -> None:
        if total.dtype.kind == "f":
            np.multiply(values, share, out=total)
        else:
            np.copyto(total, values)

    def add(self, total: Values, values: Values, share: float) -> None:
        if total.dtype.kind == "f":
            values *= share
            total += values
        else:
            np.maximum(total, values, out=total)


class Adopt:
    """One model, taken as it is: that of the first site."""

    def pick(self, sites: Sequence[str]) -> Sequence[str]:
        return sites[:1]

    def shares(self, cases: Sequence[int]) -> tuple[float, ...]:
        return (1.0,)

    def start(self, total: Values, values: Values, share: float) -> None:
        np.copyto(total, values)

    def add(self, total: Values, values: Values, share: float) -> None:
        raise ValueError("a model is adopted from one site only")


def strategy_of(task: Task, manifest: Manifest) -> Strategy:
    """What the manifest asks for in a step of this task: `initialise` or `train`."""
    return Adopt() if task is Task.INITIALISE else FedAvg(manifest.strategy.weight)
