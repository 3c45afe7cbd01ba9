"""Durations as people write them: `"90s"`, `"10m"`, `"24h"`, `"14d"`."""

import re
from typing import Annotated

from pydantic import BeforeValidator, Field

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"([0-9]{1,9})([smhd])", re.ASCII)


def seconds_of(value: object) -> int:
    """The duration in seconds; raises `ValueError` for what is none."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError('must be a duration such as "90s", "10m", "24h" or "14d"')
    return int(match[1]) * UNITS[match[2]]


Duration = Annotated[int, Field(ge=1, le=366 * UNITS["d"]), BeforeValidator(seconds_of)]
