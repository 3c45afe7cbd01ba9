"""The runs of a scheduler that works on the agent's own machine: begun once, ended once, with the folder as record."""

import asyncio
import signal
from pathlib import Path

import structlog

from wardround.site_agent.scheduler.port import Began, RunEnd, SchedulerError, UnknownRunError
from wardround_messages.names import parse_task_id
from wardround_messages.task_folder import JOB, RESULT

log = structlog.get_logger()

CANCELLED = RunEnd(False, "cancelled", "stopped on request")


class Runs:
    """Which runs go on, and how the others ended, as long as their folders are there.

    A `result.json` outlives the process that waited for it.
    """

    def __init__(self, spool: Path) -> None:
        self._spool = spool
        self._ends: dict[str, asyncio.Future[RunEnd]] = {}
        self._at_work: dict[str, asyncio.Event] = {}
        self._cancelled: set[str] = set()

    def wanted(self, task: str, *, again: bool) -> bool:
        """Whether a run must start now: not where one goes on, and where one is over only `again`.

        Raises:
            SchedulerError: what is asked for is not a task, or has no folder.
        """
        folder = self._folder(task)
        known = self._ends.get(task)
        over = known.done() if known is not None else (folder / RESULT).exists()
        if known is not None and not over:
            return False
        if not (folder / JOB).is_file():
            raise SchedulerError("no_folder", "the folder of the task holds no job.json")
        return again or not over

    def begin(self, task: str) -> Path:
        """The run goes on from now, in this folder, which bears no trace of an earlier end."""
        self._forget_cleared()
        folder = self._folder(task)
        (folder / RESULT).unlink(missing_ok=True)
        self._cancelled.discard(task)
        self._ends[task] = asyncio.get_running_loop().create_future()
        self._at_work[task] = asyncio.Event()
        return folder

    def at_work(self, task: str) -> None:
        """The run has come to its turn."""
        self._at_work[task].set()

    async def wait(self, task: str, *, began: Began) -> RunEnd:
        """Raises `UnknownRunError`."""
        if end := self._ends.get(task):
            await self._at_work[task].wait()
            began()
            return await asyncio.shield(end)
        try:
            if (self._folder(task) / RESULT).exists():
                began()
                return RunEnd(True)
        except SchedulerError:
            pass
        raise UnknownRunError(task)

    async def ended(self, task: str, *, within: float) -> None:
        """Return when the run is over, or after so many seconds."""
        await asyncio.wait({self._ends[task]}, timeout=within)

    def going(self) -> list[str]:
        return [task for task, end in self._ends.items() if not end.done()]

    def cancelled(self, task: str) -> None:
        """However the run ends from now on, it was cancelled."""
        self._cancelled.add(task)

    def exited(self, task: str, status: int) -> None:
        """The run ended with this exit status, or by the signal of this negative number; ignored if there is none."""
        if task in self._ends:
            self.end(task, self._meaning(task, status))
        else:
            log.warning("unknown_run_ended", task=task, status=status)

    def end(self, task: str, how: RunEnd) -> None:
        if not (end := self._ends[task]).done():
            end.set_result(CANCELLED if task in self._cancelled else how)
            self._at_work[task].set()

    def _meaning(self, task: str, status: int) -> RunEnd:
        if status < 0:
            return RunEnd(False, "killed", f"the training was ended by {_name(-status)}")
        if status > 0:
            return RunEnd(False, "crashed", f"the training ended with exit code {status}")
        if not (self._folder(task) / RESULT).exists():
            return RunEnd(False, "no_result", "the training ended without a result.json")
        return RunEnd(True)

    def _forget_cleared(self) -> None:
        cleared = [task for task, end in self._ends.items() if end.done() and not self._folder(task).exists()]
        for task in cleared:
            del self._ends[task], self._at_work[task]
            self._cancelled.discard(task)

    def _folder(self, task: str) -> Path:
        try:
            return self._spool / str(parse_task_id(task))
        except ValueError as error:
            raise SchedulerError("bad_task_id", str(error)) from None


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
