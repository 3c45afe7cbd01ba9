"""Widening is exact, narrowing rounds once, to the nearest, ties to even."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.aggregator.numbers import STORED_AS, narrow, widen

# Every finite bfloat16 as float64, in ascending order, by its bits: independent of the code under test.
BITS = np.arange(2**16, dtype=np.uint32)
with np.errstate(invalid="ignore"):  # signalling NaNs are among them
    VALUES = (BITS << 16).view(np.float32).astype(np.float64)
FINITE = np.isfinite(VALUES) & (BITS != 0x8000)
ORDER = np.argsort(VALUES[FINITE], kind="stable")
SORTED_VALUES, SORTED_BITS = VALUES[FINITE][ORDER], BITS[FINITE][ORDER]


def nearest_bfloat16(value: float) -> float:
    above = int(np.searchsorted(SORTED_VALUES, value))
    if above == 0 or SORTED_VALUES[above] == value:
        return float(SORTED_VALUES[above])
    low, high = SORTED_VALUES[above - 1], SORTED_VALUES[above]
    # Both differences are exact: the neighbours share the value's binades.
    if value - low == high - value:
        return float(low if SORTED_BITS[above - 1] % 2 == 0 else high)
    return float(low if value - low < high - value else high)


def rounded(value: float, dtype: str) -> float:
    out = np.empty(1, STORED_AS[dtype])
    narrow(np.array([value]), dtype, out)
    back = np.empty(1)
    widen(out, dtype, back)
    return float(back[0])


@given(st.floats(-3.3e38, 3.3e38, allow_subnormal=True))
def test_bfloat16_is_the_nearest_there_is(value: float) -> None:
    assert rounded(value, "BF16") == nearest_bfloat16(value)


@given(st.sampled_from(range(1, len(SORTED_VALUES) - 1)), st.sampled_from([-1, 0, 1]))
def test_bfloat16_is_right_at_and_beside_every_midpoint(index: int, nudge: int) -> None:
    middle = (SORTED_VALUES[index - 1] + SORTED_VALUES[index]) / 2
    value = float(np.nextafter(middle, np.inf * nudge)) if nudge else float(middle)

    assert rounded(value, "BF16") == nearest_bfloat16(value)


def test_every_bfloat16_comes_back_as_it_was() -> None:
    finite = BITS[np.isfinite(VALUES)].astype(np.uint16)
    doubles, back = np.empty(len(finite)), np.empty_like(finite)

    widen(finite, "BF16", doubles)
    narrow(doubles, "BF16", back)

    assert np.array_equal(finite, back)


@pytest.mark.parametrize(("dtype", "like"), [("F16", np.float16), ("F32", np.float32), ("F64", np.float64)])
def test_other_types_are_rounded_as_numpy_rounds(dtype: str, like: type[np.floating]) -> None:
    values = np.random.default_rng(1).standard_normal(1000)

    assert [rounded(value, dtype) for value in values] == [float(like(value)) for value in values]


def test_a_sum_beyond_the_range_of_float64_is_clipped() -> None:
    assert rounded(float("inf"), "F64") == sys.float_info.max
