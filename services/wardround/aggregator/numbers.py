"""Tensor values as they are stored, as float64, and back with one rounding."""

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

Stored = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]

# NumPy has no bfloat16: its bits are kept as integers. Bytes above 1 are no truth values, hence not numpy.bool.
STORED_AS: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("u1"),
}


def widen(stored: Stored, dtype: str, out: Doubles) -> None:
    """Write the exact float64 values of a floating tensor's elements into `out`, of the same length."""
    if dtype == "BF16":
        np.copyto(out, (stored.astype("<u4") << 16).view("<f4"))
    else:
        np.copyto(out, stored)


def narrow(values: Doubles, dtype: str, out: Stored) -> None:
    """Write float64 values into `out`, rounded once, to the nearest, ties to even.

    Values lie within the range of `dtype`, but for what the summing of F64 may have added: that is clipped.
    """
    if dtype == "BF16":
        np.copyto(out, _bfloat16(values))
    elif dtype == "F64":
        np.clip(values, -sys.float_info.max, sys.float_info.max, out=out)
    else:
        np.copyto(out, values, casting="same_kind")


def _bfloat16(values: Doubles) -> Stored:
    """Bits of the nearest bfloat16.

    By way of float32 *rounded to odd*, which leaves the second rounding nothing to get wrong (Boldo and Melquiond,
    "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd", 2008).
    """
    nearest = values.astype("<f4")
    back = nearest.astype(np.float64)
    bits = nearest.view("<u4")
    bits -= np.abs(back) > np.abs(values)
    bits |= back != values
    bits += 0x7FFF + (bits >> 16 & 1)
    return (bits >> 16).astype("<u2")
