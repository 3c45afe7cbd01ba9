"""A program that is run as a child process: what to run, when it is ready, how it ends."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

LOG_SHOWN = 4096  # bytes of the end of a log, for the message of an error
LOOK_EVERY = 0.05


class ProgramError(Exception):
    """A program did not start or did not get ready; the message ends with the last line of its log."""


@dataclass(frozen=True, slots=True)
class Program:
    """What to run. `environment` is all of it: nothing is inherited. Times are in seconds."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    folder: Path
    log: Path
    ready: Callable[[], Awaitable[bool]]
    ready_within: float = 60.0
    look_every: float = LOOK_EVERY
    stops_within: float = 15.0


class Child:
    """A program at work, in a session of its own, so that a signal reaches it with all its descendants."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def start(self) -> None:
        """Start it and return when it is ready.

        Raises:
            ProgramError: it cannot be run, ended at once, or was not ready in time; nothing of it is left.
        """
        self.spawn()
        try:
            await self.become_ready()
        except BaseException:
            self.kill()
            raise

    def spawn(self) -> None:
        """Start it without waiting for anything. Raises `ProgramError`."""
        program = self.program
        program.log.parent.mkdir(parents=True, exist_ok=True)
        with program.log.open("ab") as log:
            try:
                self._process = subprocess.Popen(  # noqa: S603 - the command is ours
                    program.command,
                    env=dict(program.environment),
                    cwd=program.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            except OSError as error:
                raise ProgramError(f"{program.name} cannot be run: {program.command[0]}: {error.strerror}") from None

    async def become_ready(self) -> None:
        """Raises `ProgramError` where it ends before, or takes longer than allowed."""
        program = self.program
        try:
            async with asyncio.timeout(program.ready_within):
                while not await program.ready():
                    if not self.running:
                        raise ProgramError(f"{program.name} ended at once: {self._last_words()}")
                    await asyncio.sleep(program.look_every)
        except TimeoutError:
            raise ProgramError(
                f"{program.name} was not ready within {program.ready_within:.0f} s: {self._last_words()}"
            ) from None

    async def ended(self) -> int:
        """Wait until it has ended; its exit status, negative for a signal."""
        while self.running:  # noqa: ASYNC110 - a process raises no event
            await asyncio.sleep(LOOK_EVERY)
        assert self._process is not None  # noqa: S101 - it was started
        return self._process.wait()

    async def stop(self) -> None:
        """Ask it to end, and end it where it does not within its time; of its descendants none is left, those in
        sessions of their own included."""
        family = self._descendants()
        if self.running:
            self.signal(signal.SIGTERM)
            with suppress(TimeoutError):
                async with asyncio.timeout(self.program.stops_within):
                    await self.ended()
        family |= self._descendants()
        self.kill()
        for process in family:
            with suppress(psutil.Error):  # psutil looks whether it is still the same one
                process.kill()

    def signal(self, number: signal.Signals) -> None:
        """To the program itself, not to its descendants."""
        if self._process is not None and self.running:
            self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL to the program and all its descendants in its session; returns when it is gone."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _descendants(self) -> set[psutil.Process]:
        """Those of today: once it has ended nobody knows whose they were."""
        if self.running:
            with suppress(psutil.Error):
                return set(psutil.Process(self.pid).children(recursive=True))
        return set()

    def _last_words(self) -> str:
        """The last line of its log."""
        with suppress(OSError), self.program.log.open("rb") as log:
            log.seek(max(log.seek(0, os.SEEK_END) - LOG_SHOWN, 0))
            lines = log.read().decode(errors="replace").strip().splitlines()
            if lines:
                return f"{lines[-1][:300]} (all of it: {self.program.log})"
        return f"its log is empty ({self.program.log})"
