"""A service as its machine sees it: it may be killed at any call, stand still, or be cut off from the hub."""

import asyncio
import errno
import sqlite3
from collections.abc import Awaitable, Callable, Coroutine
from enum import Enum
from typing import Any, TypeVar

from wardround.runtime.bus.port import BusUnavailableError
from wardround.runtime.store.port import StoreUnavailableError
from wardround.simulation.faults.fates import Fates, Moment, Port
from wardround.simulation.faults.history import History
from wardround.site_agent.scheduler.port import SchedulerUnavailableError

T = TypeVar("T")

ERRORS: dict[Port, Callable[[str], Exception]] = {
    "bus": BusUnavailableError,
    "store": StoreUnavailableError,
    "scheduler": SchedulerUnavailableError,
    "disk": lambda words: OSError(errno.ENOSPC, words),
}

FAILURES: dict[Moment, str] = {"before": "{} call failed", "after": "{} call timed out"}


class Link(Enum):
    """Between a service and the hub's broker and store."""

    UP = "up"
    CUT = "cut"
    MUTE = "mute"  # nothing goes out
    DEAF = "deaf"  # what is asked is carried out, and no reply comes back


class Process:
    """One life of a service. `on_kill` is told when a fate kills it.

    Every call at a port goes through `call`. Nothing that a dead process still does has an effect.
    """

    def __init__(
        self, name: str, fates: Fates, history: History, *, on_kill: Callable[["Process"], None], link: Link = Link.UP
    ) -> None:
        self.name = name
        self.dead = False
        self.link = link
        self.store_away = False
        self.disk_full = False
        self.main: asyncio.Task[None] | None = None
        self._fates = fates
        self._history = history
        self._on_kill = on_kill
        self._handlers: dict[asyncio.Task[None], None] = {}
        self._going = asyncio.Event()
        self._going.set()

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        self.main = asyncio.create_task(work, name=self.name)

    async def end(self) -> None:
        """Kill it: from here on it does nothing any more."""
        self.dead = True
        self._going.set()
        tasks = [*self._handlers, *([] if self.main is None else [self.main])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # --- standing still ----------------------------------------------------------------------------------------------

    @property
    def frozen(self) -> bool:
        return not self._going.is_set()

    def freeze(self) -> None:
        """Its calls stand still, before they are carried out or before their reply is heard, until it thaws."""
        self._going.clear()

    def thaw(self) -> None:
        self._going.set()

    # --- what it does ------------------------------------------------------------------------------------------------

    async def call(self, port: Port, method: str, about: str, carry_out: Callable[[], Awaitable[T]]) -> T:
        """Carry the call out, unless its fate, an outage or the end of this process is in the way.

        Raises:
            BusUnavailableError, StoreUnavailableError, SchedulerUnavailableError: it failed, carried out or not.
            OSError, sqlite3.OperationalError: the disk is full, and nothing was written.
        """
        if self.dead:
            raise asyncio.CancelledError  # before its fate is asked for: what the dead do must not move the dice
        fate = self._fates.call(self.name, port, method)
        await self._time_goes_by(fate.before)
        if fate.killed == "before":
            await self._die(f"before {port}.{method} {about}")
        if fate.failed is not None:
            self._history.inject(FAILURES[fate.failed].format(port), self.name, about=f"{method} {about}")
        if fate.failed == "before" or self._unreachable(port):
            self._fail(port, method, about, "not carried out")
        result = await carry_out()
        self._history.note(self.name, f"{port}.{method}", about)
        if fate.killed == "after":
            await self._die(f"after {port}.{method} {about}")
        await self._time_goes_by(fate.after)
        if fate.failed == "after" or (self.link is Link.DEAF and port in ("bus", "store")):
            self._fail(port, method, about, "carried out, and timed out")
        return result

    async def handle(self, work: Callable[[], Awaitable[None]]) -> None:
        """Handle a delivery. It ends with the connection, but for a process that stands still and notices nothing."""
        if self.dead:
            await asyncio.Event().wait()
        handler = asyncio.create_task(_done(work))
        self._handlers[handler] = None
        handler.add_done_callback(self._handled)
        try:
            await asyncio.wait({handler})
        except asyncio.CancelledError:
            if not self.frozen:
                handler.cancel()
                await asyncio.wait({handler})
            raise
        if self.link is Link.MUTE or self.dead:
            await asyncio.Event().wait()  # the acknowledgement never arrives
        handler.result()

    def _handled(self, handler: asyncio.Task[None]) -> None:
        del self._handlers[handler]
        if not handler.cancelled():
            handler.exception()  # heard by whoever delivered, or by nobody

    def _unreachable(self, port: Port) -> bool:
        if port == "scheduler":
            return False
        if port == "disk":
            return self.disk_full
        return self.link in (Link.CUT, Link.MUTE) or (port == "store" and self.store_away)

    async def _time_goes_by(self, seconds: float) -> None:
        if seconds > 0:
            await asyncio.sleep(seconds)
        while self.frozen:
            await self._going.wait()
        if self.dead:
            raise asyncio.CancelledError

    async def _die(self, about: str) -> None:
        self._history.inject("kill", self.name, about=about)
        self.dead = True
        self._on_kill(self)
        await asyncio.Event().wait()

    def _fail(self, port: Port, method: str, about: str, how: str) -> None:
        self._history.failed_call(self.name)
        self._history.note(self.name, f"{port}.{method} failed", f"{about} ({how})")
        if port == "disk" and method != "log":
            raise _full_database()
        raise ERRORS[port](f"{method}: {how}")


def _full_database() -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    return error


async def _done(work: Callable[[], Awaitable[None]]) -> None:
    await work()  # made only now: a task that is cancelled before its first step leaves nothing unawaited
