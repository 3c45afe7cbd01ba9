"""Merging one slice, member by member, with every value looked at on the way."""

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from wardround.aggregator.faults import Fault
from wardround.aggregator.layout import OPTIMIZER
from wardround.aggregator.numbers import STORED_AS, Doubles, Stored, narrow, widen
from wardround.aggregator.slices import BLOCK, Part, Slice
from wardround.aggregator.strategies import Strategy, Values
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
    """Buffers that all slices of a pass share, the larger for as many float64 as a slice has elements."""

    def __init__(self, elements: int) -> None:
        self.totals = np.empty(elements)
        self.values = np.empty(BLOCK)
        self.change = np.empty(BLOCK)


class SliceMerge:
    """One slice of the model to be. `base` is the same slice of the model built on, None where there is none."""

    def __init__(self, piece: Slice, strategy: Strategy, bench: Workbench, *, base: bytes | None) -> None:
        self._piece = piece
        self._strategy = strategy
        self._bench = bench
        self._totals = list(_room_for_totals(piece, bench.totals))
        self._bases = [None] * len(piece.parts) if base is None else list(_split(piece, base))
        self._started = False

    def add(self, data: bytes, share: float, tally: Tally) -> None:
        """Look at a member's slice, as many bytes as the slice has, and bring it into the sum."""
        combine = self._strategy.add if self._started else self._strategy.start
        self._started = True
        with np.errstate(all="ignore"):
            for part, stored, base, total in self._parts(data):
                for block in _blocks(part):
                    values, base_block = stored[block], None if base is None else base[block]
                    if part.tensor.dtype in FLOATS:
                        values = self._look_at_floats(part, values, base_block, tally)
                    else:
                        _look_at_integers(part, values, base_block, tally)
                    combine(total[block], values, share)

    def finish(self, out: bytearray, merged: Tally) -> None:
        """Write the merged slice into `out`, of its length, and bring its change into the tally."""
        with np.errstate(all="ignore"):
            for part, stored, base, total in self._parts(out):
                if part.tensor.dtype not in FLOATS:
                    np.copyto(stored, total)
                    continue
                for block in _blocks(part):
                    if base is not None and _counts(part):
                        merged.squares += self._squares(part, total[block], base[block])
                    narrow(total[block], part.tensor.dtype, stored[block])

    def _parts(self, data: bytes | bytearray) -> Iterator[tuple[Part, Stored, Stored | None, Values]]:
        return zip(self._piece.parts, _split(self._piece, data), self._bases, self._totals, strict=True)

    def _look_at_floats(self, part: Part, stored: Stored, base: Stored | None, tally: Tally) -> Doubles:
        """The values as float64."""
        values = self._bench.values[: len(stored)]
        widen(stored, part.tensor.dtype, values)
        squares = self._squares(part, values, base)
        if not squares < _SUM_WITHOUT_HUGE:
            _look_closely(part, values, tally)
        if _counts(part):
            tally.squares += squares
            tally.changed = tally.changed or squares != 0
            tally.nonzero = tally.nonzero or bool(values.any())
        return values

    def _squares(self, part: Part, values: Doubles, base: Stored | None) -> float:
        """The sum of (values - base)^2. Not by BLAS, whose order of summing differs from machine to machine."""
        change = self._bench.change[: len(values)]
        if base is None:
            np.copyto(change, values)
        else:
            widen(base, part.tensor.dtype, change)
            np.subtract(values, change, out=change)
        np.multiply(change, change, out=change)
        return float(np.add.reduce(change))


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


def _blocks(part: Part) -> Iterator[slice]:
    return (slice(begin, begin + BLOCK) for begin in range(0, part.elements, BLOCK))


def _split(piece: Slice, data: bytes | bytearray) -> Iterator[Stored]:
    """The elements of each part where they lie in `data`, not copied."""
    at = 0
    for part in piece.parts:
        dtype = STORED_AS[part.tensor.dtype]
        yield np.frombuffer(data, dtype, part.elements, at)
        at += part.elements * dtype.itemsize


def _room_for_totals(piece: Slice, doubles: Doubles) -> Iterator[Values]:
    """An array for each part: float64 out of `doubles`; for what is no float, one of its own kind."""
    at = 0
    for part in piece.parts:
        if part.tensor.dtype in FLOATS:
            yield doubles[at : at + part.elements]
            at += part.elements
        else:
            yield np.empty(part.elements, STORED_AS[part.tensor.dtype])
