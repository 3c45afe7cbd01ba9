"""Starts the programs of a stack in their order, starts again what dies, and stops all in the reverse order."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from wardround.runtime.clock import wall_clock
from wardround.runtime.together import together
from wardround.stack.folder import ProgramState, StackState, write_state
from wardround.stack.program import Child, Program, ProgramError

log = structlog.get_logger()

FIRST_PAUSE = 0.2  # seconds before a program that died is started again
LONGEST_PAUSE = 30.0
WELL_AFTER = 60.0  # seconds of work after which a death counts as the first again


@dataclass(frozen=True, slots=True)
class Stage:
    """Programs that start when those of the stage before are ready: side by side, or no more than `at_once`.

    `before` is done first, `after` when all are ready.
    """

    programs: Sequence[Program]
    before: Callable[[], Awaitable[None]] | None = None
    after: Callable[[], Awaitable[None]] | None = None
    at_once: int | None = None


class Supervisor:
    """Runs the stages of a stack; `pid` is that of this process. How the programs are doing is written into the
    folder whenever it changes."""

    def __init__(self, folder: Path, stages: Sequence[Stage], *, pid: int) -> None:
        self._folder = folder
        self._stages = stages
        self._children = [Child(program) for stage in stages for program in stage.programs]
        now = wall_clock()
        self._state = StackState(
            supervisor=pid,
            phase="starting",
            programs=tuple(ProgramState(name=child.program.name, since=now) for child in self._children),
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; nothing runs any more when this returns.

        Raises:
            ProgramError: a program did not start.
        """
        self._write()
        keepers: list[asyncio.Task[None]] = []
        stopping = asyncio.create_task(stop.wait())
        try:
            start = asyncio.create_task(self._start(keepers))
            await asyncio.wait({start, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if start.done():
                start.result()
                self._set_phase("running")
            else:
                start.cancel()
                await asyncio.wait({start})
            await stopping
            self._set_phase("stopping")
        except Exception as error:
            self._set_phase("failed", str(error))
            raise
        finally:
            stopping.cancel()
            for keeper in keepers:
                keeper.cancel()
            if keepers:
                await asyncio.wait(keepers)
            await self._stop()
            if self._state.phase == "stopping":
                self._set_phase("stopped")

    async def _start(self, keepers: list[asyncio.Task[None]]) -> None:
        children = iter(self._children)
        for stage in self._stages:
            started = [next(children) for _ in stage.programs]
            if stage.before is not None:
                await stage.before()
            turns = asyncio.Semaphore(stage.at_once or len(started) or 1)
            await together(*(self._begin(child, turns) for child in started))
            keepers += [asyncio.create_task(self._keep(child), name=child.program.name) for child in started]
            if stage.after is not None:
                await stage.after()

    async def _begin(self, child: Child, turns: asyncio.Semaphore) -> None:
        async with turns:
            self._set(child, state="starting")
            await child.start()
            self._set(child, state="running")

    async def _keep(self, child: Child) -> None:
        """Start the program again whenever it dies, ever more rarely where it dies at once."""
        pause = FIRST_PAUSE
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            status = await child.ended()
            child.kill()  # what it left behind in its session would be in the way of the next
            if loop.time() - began > WELL_AFTER:
                pause = FIRST_PAUSE
            log.warning("program_died", program=child.program.name, status=status, again_in=pause)
            self._set(child, state="restarting", detail=f"ended with status {status}")
            await asyncio.sleep(pause * (0.75 + random.random() / 2))  # noqa: S311 - jitter
            pause = min(pause * 2, LONGEST_PAUSE)
            began = loop.time()
            try:
                child.spawn()
                self._set(child, state="restarting", again=True)
                await child.become_ready()
            except (ProgramError, OSError) as error:
                log.warning("program_not_ready", program=child.program.name, error=str(error))
                child.kill()
                self._set(child, state="restarting", detail=str(error))
            else:
                self._set(child, state="running")

    async def _stop(self) -> None:
        """The last stage first; what is of one stage at once."""
        first = len(self._children)
        for stage in reversed(self._stages):
            children = self._children[first - len(stage.programs) : first]
            first -= len(stage.programs)
            await together(*(child.stop() for child in children))
            for child in children:
                self._set(child, state="stopped")

    # --- what others see ---------------------------------------------------------------------------------------------

    def _set(self, child: Child, *, state: str, detail: str = "", again: bool = False) -> None:
        def changed(known: ProgramState) -> ProgramState:
            if known.name != child.program.name:
                return known
            return ProgramState.model_validate(
                {
                    "name": known.name,
                    "pid": child.pid if child.running else None,
                    "state": state,
                    "restarts": known.restarts + again,
                    "since": wall_clock(),
                    "detail": detail,
                }
            )

        self._state = self._state.model_copy(update={"programs": tuple(map(changed, self._state.programs))})
        self._write()

    def _set_phase(self, phase: str, error: str = "") -> None:
        self._state = self._state.model_copy(update={"phase": phase, "error": error})
        self._write()

    def _write(self) -> None:
        """A full disk must not end the watch over the programs: the state is written at its next change."""
        try:
            write_state(self._folder, self._state)
        except OSError as error:
            log.warning("state_not_written", error=str(error))
