"""An event loop whose clock jumps to the next timer as soon as nothing else is left to do.

A day of waiting costs nothing, and the order of all steps follows from the program alone: no file descriptor and no
thread has a say in it.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

STEPS_AT_A_STANDSTILL = 200_000


class StuckError(Exception):
    """Nothing will ever happen again, or what happens takes no time and has no end."""


class VirtualTimeLoop(asyncio.base_events.BaseEventLoop):
    """For one program without sockets, processes or threads. `run_in_executor` calls in place.

    Raises:
        StuckError: all tasks wait, and for no timer; or a great many steps took no time.
    """

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._steps = 0
        self._selector = self
        self._clock_resolution = 1e-9

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self._now

    def run_in_executor(self, executor: object, func: Callable[[Unpack[Ts]], T], *args: *Ts) -> "asyncio.Future[T]":
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    # --- what the base class asks of a selector ----------------------------------------------------------------------

    def select(self, timeout: float | None) -> list[Any]:
        """Let the time go by until the next timer; None: there is none, and nothing is ready."""
        if timeout is None:
            raise StuckError("everything waits, and for nothing that will come")
        if timeout > 0:
            self._now += timeout
            self._steps = 0
        self._steps += 1
        if self._steps > STEPS_AT_A_STANDSTILL:
            self._steps = 0  # the tasks are still to be cancelled
            raise StuckError(f"at second {self._now:.3f} work goes on and on, and takes no time")
        return []

    def _process_events(self, event_list: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody sleeps."""


def run_virtually(main: Coroutine[Any, Any, T]) -> T:
    """As `asyncio.run`, in virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
