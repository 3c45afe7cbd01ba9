"""Sizes and speeds as people write them: `"200 MB"`, `"1.5 GiB"`; `"2 MB/s"`, `"16 Mbit/s"`."""

import re
from decimal import Decimal
from typing import Annotated

from pydantic import BeforeValidator

UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
SPEEDS = {"kB/s": 10**3, "MB/s": 10**6, "GB/s": 10**9}
SPEEDS |= {"kbit/s": 10**3 // 8, "Mbit/s": 10**6 // 8, "Gbit/s": 10**9 // 8}
# Below, a model of a few MB takes longer than most rounds last; above, no line is held to anything.
SLOWEST, FASTEST = 10**4, 10**11
_NUMBER = r"([0-9]{1,15}(?:\.[0-9]{1,3})?) ?"
_SIZE = re.compile(rf"{_NUMBER}([A-Za-z]+)", re.ASCII)
_SPEED = re.compile(rf"{_NUMBER}([A-Za-z]+/s)", re.ASCII)


def bytes_of(value: object) -> int:
    """The bytes that a size stands for: kB, MB, GB are decimal, KiB, MiB, GiB binary. Raises `ValueError`."""
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[2] not in UNITS:
        raise ValueError(f"must be a size such as '200 MB', in one of {', '.join(UNITS)}")
    return int(Decimal(match[1]) * UNITS[match[2]])


def bytes_per_second_of(value: object) -> int:
    """The bytes per second that a speed stands for; eight bits are a byte. Raises `ValueError`."""
    match = _SPEED.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[2] not in SPEEDS:
        raise ValueError(f"must be a speed such as '2 MB/s' or '16 Mbit/s', in one of {', '.join(SPEEDS)}")
    speed = int(Decimal(match[1]) * SPEEDS[match[2]])
    if not SLOWEST <= speed <= FASTEST:
        raise ValueError("must be a speed of 10 kB/s to 100 GB/s")
    return speed


Size = Annotated[int, BeforeValidator(bytes_of)]
Speed = Annotated[int, BeforeValidator(bytes_per_second_of)]
