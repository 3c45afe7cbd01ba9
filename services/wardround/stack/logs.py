"""What the programs of a stack wrote into their logs."""

import time
from collections.abc import Iterator
from pathlib import Path

from wardround.stack.folder import LOGS

READ_AT_MOST = 2**20
LOOK_EVERY = 0.2


def log_names(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(file.stem for file in (folder / LOGS).glob("*.log")))


def tail(folder: Path, program: str, lines: int) -> list[str]:
    """The last lines of a log, of its last megabyte."""
    with _file(folder, program).open("rb") as log:
        size = log.seek(0, 2)
        log.seek(max(size - READ_AT_MOST, 0))
        return log.read().decode(errors="replace").splitlines()[-lines:]


def followed(folder: Path, program: str) -> Iterator[str]:
    """The lines that are added from now on, for ever."""
    with _file(folder, program).open(errors="replace") as log:
        log.seek(0, 2)
        rest = ""
        while True:
            read = log.read(READ_AT_MOST)
            if not read:
                time.sleep(LOOK_EVERY)
                continue
            *whole, rest = (rest + read).split("\n")
            yield from whole


def _file(folder: Path, program: str) -> Path:
    return folder / LOGS / f"{program}.log"
