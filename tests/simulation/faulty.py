"""Faults at an agent's ports: calls that fail or hang, and an agent that is killed at one of them."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from clinic import SITE, Clinic

from wardround.runtime.bus.memory import MemoryBus
from wardround.runtime.store.port import StoreError
from wardround_messages.events import TaskAnswered

STORE_CALLS = frozenset({"create", "put", "read", "head", "list"})
BUS_CALLS = frozenset({"publish", "subscribe"})
SCHEDULER_CALLS = frozenset({"trigger", "wait", "cancel"})

Fault = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]


class Faulty:
    """A port of which some methods go through a fault."""

    def __init__(self, port: Any, methods: frozenset[str], fault: Fault) -> None:
        self._port = port
        self._methods = methods
        self._fault = fault

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._port, name)
        if name not in self._methods:
            return method

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await self._fault(lambda: method(*args, **kwargs))

        return call


class Fuse:
    """Holds whoever makes call number `at`, before or after the call was carried out, so that it can be killed."""

    def __init__(self, at: int, *, carried_out: bool) -> None:
        self._left = at
        self._carried_out = carried_out
        self.blown = asyncio.Event()

    async def __call__(self, call: Callable[[], Awaitable[Any]]) -> Any:
        self._left -= 1
        if self._left != 0:
            return await call()
        if self._carried_out:
            with suppress(StoreError):
                await call()
        self.blown.set()
        return await asyncio.Event().wait()


async def killed_at(clinic: Clinic, fuse: Fuse) -> bool:
    """Run the agent until it is done, or kill it where the fuse blows; True if it did."""
    bus = MemoryBus(clinic.broker, SITE)
    agent = clinic.agent(
        Faulty(bus, BUS_CALLS, fuse),
        store=Faulty(clinic.store, STORE_CALLS, fuse),
        scheduler=Faulty(clinic.scheduler, SCHEDULER_CALLS, fuse),
    )
    running = asyncio.create_task(agent.run())
    blown = asyncio.create_task(fuse.blown.wait())
    done = asyncio.create_task(clinic.said(TaskAnswered))
    await asyncio.wait({blown, done}, return_when=asyncio.FIRST_COMPLETED)
    for task in (running, blown, done):
        task.cancel()
    await asyncio.wait({running, blown, done})
    await bus.close()
    return fuse.blown.is_set()
