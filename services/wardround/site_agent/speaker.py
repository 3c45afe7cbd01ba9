"""Events are a courtesy to those who watch: said soon, in order, and never waited for."""

import asyncio

import structlog

from wardround.runtime.bus.messaging import Messenger
from wardround.runtime.bus.port import BusError
from wardround.site_agent.standstill import Standstill
from wardround_messages.codec import MalformedError
from wardround_messages.events import FromSite, TaskAnswered

log = structlog.get_logger()

WAITING_AT_MOST = 1000
GIVEN_UP_AFTER = 5.0


class Speaker:
    """Publishes what it was given, one after another, while `run` runs.

    While the clinic is stopped only that a task is answered is said; what waited to be said is dropped.
    """

    def __init__(self, messenger: Messenger, standstill: Standstill) -> None:
        self._messenger = messenger
        self._standstill = standstill
        self._waiting: asyncio.Queue[FromSite] = asyncio.Queue(WAITING_AT_MOST)

    def say(self, event: FromSite) -> None:
        """Publish the event soon; with a thousand waiting already it is dropped."""
        try:
            self._waiting.put_nowait(event)
        except asyncio.QueueFull:
            log.warning("not_said", event_type=event.type, reason="too many events wait for the broker")

    async def run(self) -> None:
        while True:
            event = await self._waiting.get()
            if self._standstill.word is not None and not isinstance(event, TaskAnswered):
                continue
            try:
                await self._messenger.send(event, give_up_after=GIVEN_UP_AFTER)
            except (BusError, MalformedError) as error:
                log.warning("not_said", event_type=event.type, error=str(error))
