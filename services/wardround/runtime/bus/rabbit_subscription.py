"""A subscription that outlives lost connections, lost channels and lost queues."""

import asyncio
from collections.abc import Coroutine
from contextvars import copy_context
from dataclasses import replace
from itertools import count
from typing import Any, Protocol

import structlog
from aiormq.abc import DeliveredMessage

from wardround.runtime.bus.dead_letters import DELIVERY_LIMIT_REASON, dead_letter
from wardround.runtime.bus.port import BusError, BusUnavailableError, DeadLetterError, Delivery, Handler, Packet
from wardround.runtime.bus.rabbit_consumer import Consumer
from wardround.runtime.bus.rabbit_errors import cancelled_from_outside, subscribing
from wardround.runtime.bus.rabbit_link import CONNECT_WITHIN, Link
from wardround.runtime.bus.rabbit_packets import delivery_of
from wardround.runtime.bus.rabbit_places import Place
from wardround.runtime.patience import patiently

log = structlog.get_logger()

LONGEST_WAIT = 5.0
REACHED_WITHIN = 2.0  # seconds until a stream has delivered what is in it
# Before a message that failed is tried again: the twenty tries of the usual limit take a quarter of a minute.
FIRST_PAUSE = 0.01
LONGEST_PAUSE = 1.0


class Owner(Protocol):
    """The bus, as its subscriptions see it."""

    @property
    def login(self) -> str: ...

    async def link(self) -> Link:
        """The connections, as soon as they work."""

    async def publish(self, packet: Packet) -> None: ...

    def forget(self, subscription: "RabbitSubscription") -> None: ...

    def call_back(self) -> None: ...


class RabbitSubscription:
    """A task for each delivery, at most `prefetch` at once, and one that attaches it again whenever it was cut off.

    Handlers are cancelled when their consumer is lost: what they had in hand is delivered again, here or elsewhere.
    """

    def __init__(
        self,
        owner: Owner,
        queue: str,
        handler: Handler,
        *,
        dead_key: str,
        prefetch: int,
        place: Place | None,
        limit: int,
    ) -> None:
        """`place` and `limit` are those of a stream; a queue has no place, and the broker keeps its limit."""
        if prefetch < 1:
            raise ValueError(f"prefetch is {prefetch}: at least one message must be on its way")
        self._owner = owner
        self._queue = queue
        self._handler = handler
        self._dead_key = dead_key
        self._prefetch = prefetch
        self._place = place
        self._limit = limit
        self._consumer: Consumer | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._tasks: dict[asyncio.Task[None], None] = {}  # in the order of delivery
        self._closed = False
        # A handler runs in the subscriber's context, not in that of whatever reads the frames.
        self._context = copy_context()

    # --- being attached ----------------------------------------------------------------------------------------------

    async def open(self, link: Link) -> None:
        """Raises `ForbiddenError`, `BusUnavailableError`."""
        self._consumer = await self._attach(link)
        self._keeper = asyncio.create_task(self._keep(link, self._consumer))

    async def _attach(self, link: Link) -> Consumer:
        consumer = await self._attach_at(link, self._place)
        if self._place is None or not self._place.in_doubt or await self._reached(self._place, consumer):
            return consumer
        log.warning("stream_too_short", queue=self._queue, offset=self._place.start, instead=self._place.otherwise)
        await consumer.close()
        self._place = Place(self._place.otherwise)
        return await self._attach_at(link, self._place)

    async def _attach_at(self, link: Link, place: Place | None) -> Consumer:
        with subscribing(self._owner.login, self._queue):
            async with asyncio.timeout(CONNECT_WITHIN):
                return await Consumer.open(
                    link.consuming,
                    self._queue,
                    self._receive,
                    prefetch=self._prefetch,
                    offset=None if place is None else place.ask_for,
                )

    async def _reached(self, place: Place, consumer: Consumer) -> bool:
        """Whether the stream is as long as it was said to be."""
        try:
            async with asyncio.timeout(REACHED_WITHIN):
                await place.reached.wait()
        except TimeoutError:
            if consumer.lost.is_set():
                raise BusUnavailableError(f"the connection was lost before {self._queue!r} was subscribed to") from None
            return False
        except BaseException:
            await consumer.close()
            raise
        return True

    async def _keep(self, link: Link, consumer: Consumer) -> None:
        while True:
            await consumer.lost.wait()
            for task in self._tasks:
                task.cancel()
            before = link
            link, consumer = await patiently(self._attach_again, away=_what_is_wrong, longest=LONGEST_WAIT)
            self._consumer = consumer
            log.info("subscribed_again", queue=self._queue)
            if link is before:  # only the queue was gone, and with it perhaps what was in it
                self._owner.call_back()

    async def _attach_again(self) -> tuple[Link, Consumer]:
        link = await self._owner.link()
        if self._place is not None:
            self._place = self._place.resumed()
        return link, await self._attach(link)

    async def drain(self) -> None:
        """Receive nothing more, also where the connection comes back meanwhile, and wait for what is in hand."""
        if self._keeper is not None:
            self._keeper.cancel()
        if self._consumer is not None:
            await self._consumer.stop()
        if running := self._other_tasks():
            await asyncio.wait(running)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._owner.forget(self)
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        if self._consumer is not None:
            await self._consumer.stop()
            self._consumer.lost.set()  # whatever a handler does from here on settles nothing
        running = self._other_tasks()
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
        if self._consumer is not None:
            await self._consumer.close()

    def _other_tasks(self) -> list[asyncio.Task[None]]:
        """All but the one that is asking: a handler may close its own subscription."""
        return [task for task in self._tasks if task is not asyncio.current_task()]

    # --- handling ----------------------------------------------------------------------------------------------------

    def _receive(self, consumer: Consumer, message: DeliveredMessage) -> None:
        place = self._place
        delivery = delivery_of(message, stream=place is not None)
        if place is None or delivery.offset is None:
            self._begin(self._handle(consumer, message, delivery))
        elif place.received(delivery.offset):
            self._begin(self._handle_here(consumer, message, delivery, place, delivery.offset))
        else:
            self._begin(consumer.ack(message))

    def _begin(self, handling: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(handling, context=self._context.copy())
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)

    async def _handle(self, consumer: Consumer, message: DeliveredMessage, delivery: Delivery) -> None:
        """What failed goes back to the queue."""
        try:
            done = await self._try(delivery)
        except DeadLetterError as error:
            done = await self._park(delivery, error)
        if done:
            await consumer.ack(message)
        else:
            await asyncio.sleep(pause(delivery.earlier))
            await consumer.give_back(message)

    async def _handle_here(
        self, consumer: Consumer, message: DeliveredMessage, delivery: Delivery, place: Place, offset: int
    ) -> None:
        """What failed is tried again in place: a stream takes nothing back."""
        for earlier in count():
            try:
                if await self._try(replace(delivery, earlier=earlier)):
                    break
                if earlier >= self._limit:
                    raise DeadLetterError(DELIVERY_LIMIT_REASON, f"failed {earlier + 1} times")
            except DeadLetterError as error:
                await self._park_patiently(delivery, error)
                break
            await asyncio.sleep(pause(earlier))
        place.settled(offset)
        await consumer.ack(message)

    async def _try(self, delivery: Delivery) -> bool:
        """Whether it is done. Raises `DeadLetterError` where it never can be."""
        try:
            await self._handler(delivery)
        except DeadLetterError:
            raise
        except asyncio.CancelledError:
            if cancelled_from_outside():
                raise
            return False
        except Exception as error:
            log.warning(
                "handler_failed",
                queue=self._queue,
                error=type(error).__name__,
                earlier=delivery.earlier,
                exc_info=delivery.earlier == 0,
            )
            return False
        return True

    async def _park(self, delivery: Delivery, error: DeadLetterError) -> bool:
        try:
            await self._owner.publish(self._letter(delivery, error))
        except BusError as failure:
            log.warning("dead_letter_not_parked", queue=self._queue, code=error.code, error=str(failure))
            return False
        return True

    async def _park_patiently(self, delivery: Delivery, error: DeadLetterError) -> None:
        """Without the right to park there is nobody else who could: the reader goes on."""
        letter = self._letter(delivery, error)
        try:
            await patiently(lambda: self._owner.publish(letter), longest=LONGEST_WAIT)
        except BusError as failure:
            log.error("message_dropped", queue=self._queue, code=error.code, error=str(failure))

    def _letter(self, delivery: Delivery, error: DeadLetterError) -> Packet:
        return dead_letter(delivery.packet, error, queue=self._queue, dead_key=self._dead_key)


def _what_is_wrong(error: BaseException) -> str | None:
    return "the queue cannot be read" if isinstance(error, Exception) else None


def pause(earlier: int) -> float:
    """Seconds to wait after a message failed that had been delivered so many times before."""
    return min(FIRST_PAUSE * 2.0 ** min(earlier, 16), LONGEST_PAUSE)
