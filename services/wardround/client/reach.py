"""A hub within reach: its store at once, its broker as soon as something is said or heard."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Self, TypeVar

from tenacity import stop_after_delay

from wardround.client.errors import NoAnswerError
from wardround.client.hubs import Connections
from wardround.client.listening import Ear, Wanted, listening
from wardround.runtime.bus.messaging import Messenger
from wardround.runtime.bus.port import Bus, Offset
from wardround.runtime.clock import Clock, wall_clock
from wardround.runtime.patience import patiently
from wardround.runtime.store.port import ObjectStore
from wardround_messages.names import HUB

ANSWERS_WITHIN = 30.0  # seconds
CONNECTS_WITHIN = 10.0

T = TypeVar("T")


class Reach:
    """The connections to one hub, and how long it is waited for. Close it, or use it as an asynchronous context."""

    def __init__(self, to: Connections, *, clock: Clock = wall_clock, answers_within: float = ANSWERS_WITHIN) -> None:
        self._to = to
        self._store: ObjectStore = to.store
        self._clock = clock
        self._within = answers_within
        self._patience = min(CONNECTS_WITHIN, answers_within / 2)  # with the broker, which only has to take it
        self._bus: Bus | None = None
        self._connecting = asyncio.Lock()
        self._ears: set[Ear] = set()

    @property
    def where(self) -> str:
        """The hub's name, to be shown."""
        return self._to.where

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        try:
            if self._bus is not None:
                await self._bus.close()
        finally:
            await self._store.close()

    async def _messenger(self) -> Messenger:
        async with self._connecting:
            if self._bus is None:
                self._bus = await patiently(self._to.open_bus, stop=stop_after_delay(self._patience))
                self._bus.on_connect(self._reconnected)
        return Messenger(self._bus, service="client", origin=HUB, clock=self._clock)

    def _reconnected(self) -> None:
        for ear in self._ears:
            ear.may_have_missed()

    @asynccontextmanager
    async def _speaking(self, wanted: Wanted, *, offset: Offset = "next") -> AsyncIterator[tuple[Ear, Messenger]]:
        """An ear at the stream that is open before anything is said to the hub."""
        messenger = await self._messenger()
        async with listening(messenger, wanted, within=self._patience, offset=offset) as ear:
            self._ears.add(ear)
            try:
                yield ear, messenger
            finally:
                self._ears.discard(ear)

    @asynccontextmanager
    async def _answering(self, experiment: str) -> AsyncIterator[None]:
        """The hub has so much time to answer."""
        try:
            async with asyncio.timeout(self._within):
                yield
        except TimeoutError:
            raise NoAnswerError(
                f"the hub did not answer within {self._within:.0f} s; the command may still be carried out: "
                f"wardround status {experiment}"
            ) from None

    async def _bounded(self, call: Callable[[], Awaitable[T]]) -> T:
        return await patiently(call, stop=stop_after_delay(self._within))
