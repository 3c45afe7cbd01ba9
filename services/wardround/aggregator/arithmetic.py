"""Merging one slice, member by member, with every value looked at on the way."""

import math
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from wardround.aggregator.faults import Fault
from wardround.aggregator.layout import OPTIMIZER
from wardround.aggregator.numbers import STORED_AS, Doubles, Stored, narrow, widen
from wardround.aggregator.slices import BLOCK, Part, Slice
from wardround.aggregator.strategies import Strategy
from wardround.runtime.safetensors_header import FLOATS

# No weight of a network that learns is anywhere near; float32 still squares it.
HUGE = 1e20
_SUM_WITHOUT_HUGE = HUGE**2


@dataclass(slots=True)
class Tally:
    """What one pass tells of a member.

    `squares` sums (x - x_base)^2 over floating tensors: integers count something. `changed` against the base, and not
    all zero (`nonzero`), are said of the model proper, as are the squares, and not of the optimizer's state. `fault` is
    the first one found, `huge` the first tensor with such values.
    """

    squares: float = 0.0
    changed: bool = False
    nonzero: bool = False
    huge: str | None = None
    fault: Fault | None = None


def norm(squares: float) -> float:
    """The L2 norm that belongs to a sum of squares; the largest float64 where that would overflow."""
    return math.sqrt(squares) if math.isfinite(squares) else sys.float_info.max


class Workbench:
    """Buffers that all slices of a pass share: two blocks of float64, 1 MiB."""

    def __init__(self) -> None:
        self.values = np.empty(BLOCK)
        self.change = np.empty(BLOCK)


class SliceMerge:
    """One slice of the model to be. `base` is the same slice of the model built on, None where there is none.

    Memory: float64 for each element, once for the sum and once for the base, whatever the number of members.
    """

    def __init__(self, piece: Slice, strategy: Strategy, bench: Workbench, *, base: bytes | None) -> None:
        self._piece = piece
        self._strategy = strategy
        self._bench = bench
        self._started = False
        self._totals = [np.empty(part.elements, _summed_as(part)) for part in piece.parts]
        self._bases: list[Stored | None] = [None] * len(piece.parts)
        if base is not None:
            self._bases = [_readable(part, stored) for part, stored in _split(piece, base)]

    def add(self, data: bytes, share: float, tally: Tally) -> None:
        """Look at a member's slice, as many bytes as the slice has, and bring it into the sum."""
        combine = self._strategy.add if self._started else self._strategy.start
        self._started = True
        with np.errstate(all="ignore"):
            for (part, stored), total, base in zip(_split(self._piece, data), self._totals, self._bases, strict=True):
                for begin in range(0, part.elements, BLOCK):
                    block = slice(begin, begin + BLOCK)
                    base_block = None if base is None else base[block]
                    if part.tensor.dtype in FLOATS:
                        values: Stored = self._floats(part, stored[block], base_block, tally)
                    else:
                        values = stored[block]
                        _look_at_integers(part, values, base_block, tally)
                    combine(total[block], values, share)

    def finish(self, out: bytearray, merged: Tally) -> None:
        """Write the merged slice into `out`, of its length, and bring its change into the tally."""
        with np.errstate(all="ignore"):
            for (part, stored), total, base in zip(_split(self._piece, out), self._totals, self._bases, strict=True):
                if part.tensor.dtype not in FLOATS:
                    np.copyto(stored, total)
                    continue
                for begin in range(0, part.elements, BLOCK):
                    block = slice(begin, begin + BLOCK)
                    if base is not None and _counts(part):
                        merged.squares += _sum_of_squares(total[block], base[block], self._bench.change)
                    narrow(total[block], part.tensor.dtype, stored[block])

    def _floats(self, part: Part, stored: Stored, base: Stored | None, tally: Tally) -> Doubles:
        values = self._bench.values[: len(stored)]
        widen(stored, part.tensor.dtype, values)
        squares = _sum_of_squares(values, base, self._bench.change)
        if not squares < _SUM_WITHOUT_HUGE:
            _look_closely(part, values, tally)
        if _counts(part):
            tally.squares += squares if base is not None else 0
            tally.changed = tally.changed or squares != 0
            tally.nonzero = tally.nonzero or bool(values.any())
        return values


def _sum_of_squares(values: Doubles, base: Stored | None, change: Doubles) -> float:
    """The sum of (values - base)^2. Not by BLAS, whose order of summing differs from machine to machine."""
    difference = change[: len(values)]
    if base is None:
        np.multiply(values, values, out=difference)
    else:
        np.subtract(values, base, out=difference)
        np.multiply(difference, difference, out=difference)
    return float(np.add.reduce(difference))


def _look_closely(part: Part, values: Doubles, tally: Tally) -> None:
    if not np.isfinite(values).all():
        tally.fault = tally.fault or Fault("nonfinite", f"tensor {part.tensor.name} holds NaN or infinity")
    elif np.abs(values).max() >= HUGE:
        tally.huge = tally.huge or part.tensor.name


def _look_at_integers(part: Part, values: Stored, base: Stored | None, tally: Tally) -> None:
    if part.tensor.dtype == "BOOL" and values.max() > 1:
        tally.fault = tally.fault or Fault("not_boolean", f"tensor {part.tensor.name} holds neither true nor false")
    if _counts(part):
        tally.changed = tally.changed or base is None or not np.array_equal(values, base)
        tally.nonzero = tally.nonzero or bool(values.any())


def _counts(part: Part) -> bool:
    return not part.tensor.name.startswith(OPTIMIZER)


def _summed_as(part: Part) -> np.dtype[Any]:
    return np.dtype(np.float64) if part.tensor.dtype in FLOATS else STORED_AS[part.tensor.dtype]


def _readable(part: Part, stored: Stored) -> Stored:
    """Floating values as float64: widened once, compared with those of every member."""
    if part.tensor.dtype not in FLOATS:
        return stored
    doubles = np.empty(part.elements)
    widen(stored, part.tensor.dtype, doubles)
    return doubles


def _split(piece: Slice, data: bytes | bytearray) -> list[tuple[Part, Stored]]:
    """The parts of a slice, each with its elements in `data`, not copied."""
    found, at = [], 0
    for part in piece.parts:
        dtype = STORED_AS[part.tensor.dtype]
        found.append((part, np.frombuffer(data, dtype, part.elements, at)))
        at += part.elements * dtype.itemsize
    return found
