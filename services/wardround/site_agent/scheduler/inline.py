"""Trainings in the agent's own process: for simulations, where starting processes would cost more than training."""

import asyncio
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from threading import Event
from typing import Protocol

import structlog

from wardround.site_agent.scheduler.port import Began, RunEnd, nobody_asks
from wardround.site_agent.scheduler.runs import CANCELLED, Runs

log = structlog.get_logger()

STOPS_WITHIN = 2.0


class Training(Protocol):
    """Does the task in a folder and leaves `result.json` there; raises soon after `cancelled` was set."""

    def __call__(self, folder: Path, *, cancelled: Event) -> object: ...


class InlineScheduler:
    """Calls `run(folder)` in a worker thread, or in place with `threads=False`, which suits virtual time.

    A training may set what belongs to the whole process (seeds, thread counts), so only one trains at a time: give
    the schedulers of one process the same `turn`. A thread cannot be killed: `cancel` sets an event that the training
    looks at between its steps.
    """

    def __init__(
        self,
        spool: Path,
        run: Training,
        *,
        threads: bool = True,
        turn: AbstractAsyncContextManager[object] | None = None,
    ) -> None:
        self._run = run
        self._threads = threads
        self._turn = turn or asyncio.Lock()
        self._runs = Runs(spool)
        self._waiting: dict[str, asyncio.Task[None]] = {}
        self._training: dict[str, Event] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def trigger(self, task: str, *, again: bool = False) -> None:
        if self._runs.wanted(task, again=again):
            running = self._waiting[task] = asyncio.create_task(self._carry_out(task, self._runs.begin(task)))
            self._tasks.add(running)
            running.add_done_callback(self._tasks.discard)

    async def wait(self, task: str, *, began: Began = nobody_asks) -> RunEnd:
        return await self._runs.wait(task, began=began)

    async def cancel(self, task: str) -> None:
        if waiting := self._waiting.pop(task, None):
            waiting.cancel()
            self._runs.end(task, CANCELLED)
        elif training := self._training.get(task):
            self._runs.cancelled(task)
            training.set()
            await self._runs.ended(task, within=STOPS_WITHIN)

    async def close(self) -> None:
        await asyncio.gather(*(self.cancel(task) for task in self._runs.going()))

    async def _carry_out(self, task: str, folder: Path) -> None:
        async with self._turn:
            del self._waiting[task]
            cancelled = self._training[task] = Event()
            self._runs.at_work(task)
            try:
                status = await self._in_its_place(folder, cancelled)
            finally:
                del self._training[task]
        self._runs.exited(task, status)

    async def _in_its_place(self, folder: Path, cancelled: Event) -> int:
        if self._threads:
            return await asyncio.to_thread(self._exit_status, folder, cancelled)
        return self._exit_status(folder, cancelled)

    def _exit_status(self, folder: Path, cancelled: Event) -> int:
        try:
            self._run(folder, cancelled=cancelled)
        except BaseException as error:  # a trainer may raise SystemExit too, and a cancelled task no Exception
            if isinstance(error, KeyboardInterrupt) and not self._threads:
                raise  # the person at the keyboard: it never comes to another thread
            if not cancelled.is_set():
                log.exception("training_crashed", task=folder.name)
            return 1
        return 0
