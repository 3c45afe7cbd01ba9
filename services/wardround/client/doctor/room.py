"""How much room there is on the disks that something is written to."""

import os
from collections.abc import Mapping
from pathlib import Path

from wardround.client.doctor.findings import Verdict, in_thread, ok, warning, worst_of, wrong

GB = 10**9
ENOUGH = 5 * GB


async def look_at_room(places: Mapping[str, Path], *, wanted: int = ENOUGH) -> Verdict:
    """Whether each folder can be written to and has room. `wanted` is in bytes."""
    return await in_thread(lambda: _look(places, wanted))


def _look(places: Mapping[str, Path], wanted: int) -> Verdict:
    verdicts, free = [], []
    for name, folder in places.items():
        there = _existing(folder)
        if not os.access(there, os.W_OK | os.X_OK):
            verdicts.append(wrong(f"{name} ({folder}) cannot be written to by this user", "give the user the right to"))
            continue
        stat = os.statvfs(there)
        free.append(stat.f_bavail * stat.f_frsize)
        verdicts.append(judge_room(f"{name} ({folder})", free[-1], wanted))
    return worst_of(verdicts, f"{size_text(min(free, default=0))} free")


def judge_room(name: str, free: int, wanted: int) -> Verdict:
    """Whether `free` bytes are enough where `wanted` should be."""
    if free < wanted:
        return warning(
            f"{name} has {size_text(free)} free, {size_text(wanted)} should be",
            "make room, or move it to a larger disk",
        )
    return ok(f"{name} has {size_text(free)} free")


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there: what is missing will be made in it."""
    folder = folder.absolute()
    return next(each for each in (folder, *folder.parents) if each.exists())


def size_text(size: float) -> str:
    """In the largest decimal unit of which there is one at least."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
