"""Keeps freed buffers for the next use, for processes that run a whole federation."""

import ctypes
from contextlib import suppress

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
LARGE = 64 * 2**20
KEPT = 512 * 2**20


def reuse_large_buffers() -> None:
    """Have glibc keep up to 512 MiB of freed memory. By default every buffer of a megabyte is given back and asked for
    anew, and the kernel zeroes its pages each time: 0.9 ms a MB was measured on a virtual machine, more than it takes
    to hash it. With another C library this does nothing."""
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        for parameter, value in ((M_MMAP_THRESHOLD, LARGE), (M_TRIM_THRESHOLD, KEPT), (M_TOP_PAD, LARGE)):
            mallopt(parameter, value)
