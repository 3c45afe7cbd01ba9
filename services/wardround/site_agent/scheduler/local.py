"""Trainings as child processes on the agent's own machine: for a clinic that has no Airflow."""

import asyncio
import json
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

import structlog

from wardround.site_agent.scheduler.port import Began, RunEnd, SchedulerError, nobody_asks
from wardround.site_agent.scheduler.runs import CANCELLED, Runs

log = structlog.get_logger()

# -P: no module in the working directory takes the place of an installed one.
SERVER = ("-P", "-m", "wardround.training.serve")
READY_WITHIN = 120.0
STOPS_WITHIN = 5.0
LOG_AT_MOST = 64 * 1024
LOST = RunEnd(False, "scheduler_lost", "the process that starts trainings ended, and the training with it")


class LocalScheduler:
    """One child process for each run, forked from a server process that has the trainers imported already.

    The server is started by the first trigger, and again when it is lost. It hears task ids on its standard input and
    nothing else; when that closes, however the agent ends, it ends with all its children.
    `python` is the interpreter that the trainers are installed in, `environment` that of the trainings: the agent's
    own by default.
    """

    def __init__(
        self, spool: Path, *, python: str | Path | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        self.python = str(python or sys.executable)
        self._command = (self.python, *SERVER, str(spool.absolute()))
        self._environment = environment
        self._runs = Runs(spool)
        self._starting = asyncio.Lock()
        self._server: _Server | None = None

    async def trigger(self, task: str, *, again: bool = False) -> None:
        if not self._runs.wanted(task, again=again):
            return
        server = await self._warm_server()
        if self._runs.wanted(task, again=again):  # nobody was quicker
            self._runs.begin(task)
            server.order(run=task)
            self._runs.at_work(task)

    async def wait(self, task: str, *, began: Began = nobody_asks) -> RunEnd:
        return await self._runs.wait(task, began=began)

    async def cancel(self, task: str) -> None:
        if self._server is not None and task in self._runs.going():
            self._runs.cancelled(task)
            self._server.order(cancel=task)
            await self._runs.ended(task, within=STOPS_WITHIN)

    async def close(self) -> None:
        async with self._starting:
            for task in self._runs.going():
                self._runs.end(task, CANCELLED)
            if self._server is not None:
                await self._server.close()

    async def _warm_server(self) -> "_Server":
        async with self._starting:
            if self._server is None or self._server.lost:
                self._server = _Server(await _start(self._command, self._environment), self._runs)
            return self._server


class _Server:
    """The server process, and the task that hears how the runs end."""

    def __init__(self, process: Process, runs: Runs) -> None:
        self._process = process
        self._runs = runs
        self._hearing = asyncio.create_task(self._hear())

    @property
    def lost(self) -> bool:
        return self._hearing.done()

    def order(self, **line: str) -> None:
        _stdin(self._process).write(json.dumps(line).encode() + b"\n")

    async def close(self) -> None:
        _stdin(self._process).close()
        done, _ = await asyncio.wait({self._hearing}, timeout=STOPS_WITHIN)
        if not done:
            await _stop(self._process)
            await self._hearing

    async def _hear(self) -> None:
        """Hear how runs end, until the server does; one that is not understood is ended, and all its runs are lost."""
        try:
            while line := await _stdout(self._process).readline():
                report = json.loads(line)
                self._runs.exited(report["ended"], report["status"])
        except Exception:
            log.exception("scheduler_not_understood")
        finally:
            await self._end()
            for task in self._runs.going():
                log.warning("scheduler_lost", task=task, status=self._process.returncode)
                self._runs.end(task, LOST)

    async def _end(self) -> None:
        """Let the server end its children and then itself, or end it."""
        _stdin(self._process).close()
        try:
            async with asyncio.timeout(STOPS_WITHIN):
                await self._process.communicate()  # a pipe that nobody reads can keep `wait` from returning
        except TimeoutError:
            await _stop(self._process)


async def _start(command: tuple[str, ...], environment: Mapping[str, str] | None) -> Process:
    """A server that said it is ready; raises `SchedulerError` where the interpreter, or what it imports, is broken."""
    with tempfile.TemporaryFile() as errors:
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=PIPE,
                stdout=PIPE,
                stderr=errors,
                env=environment,
                start_new_session=True,  # Ctrl-C at a terminal is the agent's to hear
            )
        except OSError as error:
            raise _broken(str(error)) from None
        ready = b""
        try:
            async with asyncio.timeout(READY_WITHIN):
                ready = await _stdout(process).readline()
        except TimeoutError:
            pass
        finally:
            if not ready:
                await _stop(process)
        if not ready:
            raise _broken(_last_line(errors))
        return process


async def _stop(process: Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await process.communicate()


def _broken(why: str) -> SchedulerError:
    log.error("trainings_do_not_start", reason=why)
    return SchedulerError("scheduler_broken", "trainings do not start here; the log of the clinic's agent says why")


def _last_line(errors: IO[bytes]) -> str:
    errors.seek(0)
    lines = errors.read(LOG_AT_MOST).decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "the process ended, or was silent for too long"


def _stdin(process: Process) -> asyncio.StreamWriter:
    assert process.stdin is not None  # noqa: S101 - opened as a pipe
    return process.stdin


def _stdout(process: Process) -> asyncio.StreamReader:
    assert process.stdout is not None  # noqa: S101 - opened as a pipe
    return process.stdout
