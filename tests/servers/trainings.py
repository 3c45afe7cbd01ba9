"""The trainings of a stack's clinics, as the tasks' folders and the processes that work in them show them."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psutil

from wardround_messages.task_folder import LOCK, RESULT, STOPPED

LOOK_EVERY = 0.03  # seconds; a folder is cleared as soon as its answer is stored

STOPPED_BEFORE = frozenset({"cancelled", "refused"})  # what an agent answers once it has stopped what ran


@dataclass(slots=True)
class Seen:
    """A training that was begun. `last` is when it was last seen at work, `ended` the same once it is over; `result`
    tells whether it has left one, `stopped` whether a sign forbade it while it was at work: Airflow's trainings get
    one before they are ended, child processes get none."""

    site: str
    task: str
    began: datetime
    process: psutil.Process | None
    last: datetime
    ended: datetime | None = None
    result: bool = False
    stopped: bool = False


class Trainings:
    """Of one experiment, in the order in which they were seen; `spools` are the clinics', by site."""

    def __init__(self, spools: dict[str, Path], experiment: str) -> None:
        self._spools = spools
        self._experiment = experiment
        self._lines: dict[tuple[str, str], Seen] = {}

    @property
    def seen(self) -> tuple[Seen, ...]:
        return tuple(self._lines.values())

    @property
    def at_work(self) -> bool:
        return any(each.ended is None for each in self.seen)

    async def watch(self) -> None:
        """Look, for ever."""
        while True:
            for site, spool in self._spools.items():
                for folder in spool.glob(f"{self._experiment}.r*"):
                    self._look(site, folder)
            for each in self.seen:
                if each.ended is None:
                    self._follow(each)
            await asyncio.sleep(LOOK_EVERY)

    def _look(self, site: str, folder: Path) -> None:
        with suppress(OSError):  # cleared just now
            for line in (folder / LOCK).read_text().splitlines():
                if (folder.name, line) not in self._lines:
                    began, _, pid = line.split()
                    at = datetime.fromisoformat(began)
                    self._lines[folder.name, line] = Seen(site, folder.name, at, _process(int(pid)), last=at)

    def _follow(self, seen: Seen) -> None:
        folder = self._spools[seen.site] / seen.task
        with suppress(OSError):
            seen.stopped |= (folder / STOPPED).exists()
            seen.result |= (folder / RESULT).stat().st_mtime >= seen.began.timestamp()
        if _works(seen.process):
            seen.last = datetime.now(seen.began.tzinfo)
        else:
            seen.ended = seen.last


def how_it_ended(seen: Seen, answered: str | None, *, with_its_agent: bool) -> str:
    """As the simulation calls it.

    Args:
        answered: the outcome that the clinic had stored before the task was begun once more; None: none.
        with_its_agent: whether the agent was killed while it was at work.
    """
    if seen.result or answered == "done":
        return "done"
    if seen.stopped or answered in STOPPED_BEFORE:
        return "stopped"
    return "lost" if with_its_agent else "crashed"


def _process(pid: int) -> psutil.Process | None:
    with suppress(psutil.Error):
        return psutil.Process(pid)
    return None


def _works(process: psutil.Process | None) -> bool:
    with suppress(psutil.Error):
        return process is not None and process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
