"""Hearing what is said on the metrics stream, one message after the other, in memory that does not grow."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from tenacity import stop_after_delay

from wardround.runtime.bus.messaging import Messenger, Received, open_delivery
from wardround.runtime.bus.port import DeadLetterError, Delivery, Offset
from wardround.runtime.patience import patiently
from wardround_messages.names import METRICS_STREAM

HELD_AT_MOST = 1000
PREFETCH = 100
LOOK_EVERY = 0.01
Wanted = Callable[[Received], bool]


class Ear:
    """What was heard and not yet taken. When it is full, the broker keeps the rest."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._heard: asyncio.Queue[Received | None] = asyncio.Queue(HELD_AT_MOST)
        self.reached = -1  # the highest offset delivered, of whatever can be read and whatever not

    async def hear(self, delivery: Delivery) -> None:
        with suppress(DeadLetterError):  # who only watches parks nothing: services that read the stream do
            received = open_delivery(delivery)
            if self._wanted(received):
                await self._heard.put(received)
        self.reached = max(self.reached, -1 if delivery.offset is None else delivery.offset)

    def has_all_up_to(self, offset: int) -> bool:
        """Whether everything up to there was delivered and taken."""
        return self.reached >= offset and self._heard.empty()

    async def until_quiet(self, *, within: float, quiet: float) -> int | None:
        """The highest offset delivered, once nothing more has come for `quiet` seconds; None where nothing came at all
        `within` so many."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                while self.reached < 0:  # noqa: ASYNC110 - a look costs nothing, and it is short
                    await asyncio.sleep(LOOK_EVERY)
        before = -1
        while self.reached > before:
            before = self.reached
            await asyncio.sleep(quiet)
        return None if self.reached < 0 else self.reached

    def may_have_missed(self) -> None:
        """The connection was away: wake whoever waits, so that it looks for itself."""
        with suppress(asyncio.QueueFull):
            self._heard.put_nowait(None)

    async def next(self, within: float) -> Received | None:
        """The next message; None after `within` seconds without one, or where messages may have been missed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                return await self._heard.get()
        return None

    def heard_already(self) -> Received | None:
        """The next message where it need not be waited for."""
        while not self._heard.empty():
            received = self._heard.get_nowait()
            if received is not None:
                return received
        return None


@asynccontextmanager
async def listening(
    messenger: Messenger, wanted: Wanted, *, within: float, offset: Offset = "next"
) -> AsyncIterator[Ear]:
    """An ear at the stream; what is said once the block has begun is heard.

    Args:
        within: so many seconds an outage is waited out at the beginning; later ones are, however long they are.

    Raises:
        ForbiddenError, BusUnavailableError: from the bus.
    """
    ear = Ear(wanted)
    subscription = await patiently(
        lambda: messenger.bus.subscribe(
            METRICS_STREAM, ear.hear, dead_key=messenger.dead_key, offset=offset, prefetch=PREFETCH
        ),
        stop=stop_after_delay(within),
    )
    try:
        yield ear
    finally:
        await subscription.close()
