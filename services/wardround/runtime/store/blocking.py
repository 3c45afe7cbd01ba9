"""Small reads and writes are done at once, large ones in a thread, so that the loop stays responsive."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

# Up to here (bytes) the work takes less than handing it to a thread and back, or not much more.
SMALL = 2**20

P = ParamSpec("P")
R = TypeVar("R")


async def run(in_place: bool, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    return function(*args, **kwargs) if in_place else await asyncio.to_thread(function, *args, **kwargs)


def is_small(file: Path) -> bool:
    """Whether a file can be read at once; one that cannot be looked at is no work either."""
    try:
        return file.stat().st_size <= SMALL
    except OSError:
        return True
