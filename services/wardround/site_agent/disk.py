"""The clinic's own disk, as inbox and log are written to it: what a simulation stands in the way of."""

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Disk(Protocol):
    """Carries out one write, which `what` names for people. May raise what a disk does: `OSError`, `sqlite3.Error`."""

    async def __call__(self, what: str, write: Callable[[], Awaitable[T]]) -> T: ...


async def sound_disk(what: str, write: Callable[[], Awaitable[T]]) -> T:
    """Nothing is in the way."""
    return await write()
