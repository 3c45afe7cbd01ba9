"""A scheduler that behaves as an Airflow: it lives on when the agent dies, goes away, forgets, loses its replies."""

import asyncio
from pathlib import Path
from threading import Event

from clinic import StubTraining

from wardround.site_agent.scheduler.port import (
    Began,
    RunEnd,
    SchedulerError,
    SchedulerUnavailableError,
    UnknownRunError,
    nobody_asks,
)
from wardround_messages.task_folder import RESULT

LOOKS_EVERY = 0.005


class LikeAirflow:
    """Runs trainings as tasks of its own.

    While it is `away` every call fails, and while it `forbids` each is refused. Of the methods in `loses` the next call
    is carried out, and its reply lost; a trigger is not carried out twice for that, as `AirflowScheduler` sees to.
    Trainings wait for `go_on`. `most` is how many of one site's task were ever at work at once.
    """

    def __init__(self, spool: Path, training: StubTraining) -> None:
        self.away = False
        self.forbids = False
        self.loses: set[str] = set()
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.crashes = 0
        self.calls: list[str] = []
        self.cancelled: list[str] = []
        self.most = 0
        self._spool = spool
        self._training = training
        self._runs: dict[str, asyncio.Task[RunEnd]] = {}
        self._at_work: list[str] = []
        self._unanswered: set[str] = set()

    async def trigger(self, task: str, *, again: bool = False) -> None:
        with self._reached("trigger"):
            run, carried_out = self._runs.get(task), task in self._unanswered
            self._unanswered.discard(task)
            if run is None or (again and run.done() and not carried_out):
                if "trigger" in self.loses:
                    self._unanswered.add(task)
                (self._spool / task / RESULT).unlink(missing_ok=True)
                self._runs[task] = asyncio.create_task(self._run(task))

    async def wait(self, task: str, *, began: Began = nobody_asks) -> RunEnd:
        while True:
            with self._reached("wait"):
                if (run := self._runs.get(task)) is None:
                    raise UnknownRunError(task)
                if run.done() or task in self._at_work:
                    began()
                if run.done():
                    return RunEnd(False, "cancelled") if run.cancelled() else run.result()
            await asyncio.sleep(LOOKS_EVERY)

    async def cancel(self, task: str) -> None:
        with self._reached("cancel"):
            self.cancelled.append(task)
            if (run := self._runs.get(task)) is not None:
                run.cancel()
                await asyncio.wait({run})

    async def close(self) -> None:
        """What runs goes on."""

    async def wiped(self) -> None:
        """All it knew is gone, and the trainings with it."""
        runs = list(self._runs.values())
        self._runs.clear()
        for run in runs:
            run.cancel()
        if runs:
            await asyncio.wait(runs)

    async def idle(self) -> None:
        """Return when no training is at work any more."""
        while any(not run.done() for run in self._runs.values()):  # noqa: ASYNC110 - runs come and go
            await asyncio.sleep(LOOKS_EVERY)

    async def at_work(self) -> None:
        """Return when a training is at work."""
        while not self._at_work:  # noqa: ASYNC110 - runs come and go
            await asyncio.sleep(LOOKS_EVERY)

    def _reached(self, method: str) -> "_Reached":
        return _Reached(self, method)

    async def _run(self, task: str) -> RunEnd:
        self._at_work.append(task)
        self.most = max(self.most, len(self._at_work))
        try:
            await self.go_on.wait()
            await asyncio.sleep(LOOKS_EVERY)
            if self.crashes > 0:
                self.crashes -= 1
                self._training.trained.append(task)
                return RunEnd(False, "crashed", "exit code 1")
            try:
                self._training(self._spool / task, cancelled=Event())
            except FileNotFoundError:
                return RunEnd(False, "no_folder", "there is no such folder")
            return RunEnd(True)
        finally:
            self._at_work.remove(task)


class _Reached:
    """A call that reaches the scheduler, or not, and whose reply comes back, or not."""

    def __init__(self, scheduler: LikeAirflow, method: str) -> None:
        self._scheduler = scheduler
        self._method = method

    def __enter__(self) -> None:
        if self._scheduler.away:
            raise SchedulerUnavailableError("connection refused")
        if self._scheduler.forbids:
            if self._method == "wait":  # it goes on
                raise SchedulerUnavailableError("the run cannot be looked at")
            raise SchedulerError("airflow_login", "Airflow refuses the agent's login")
        self._scheduler.calls.append(self._method)

    def __exit__(self, *_: object) -> None:
        if self._method in self._scheduler.loses:
            self._scheduler.loses.remove(self._method)
            raise SchedulerUnavailableError("the reply did not come")
