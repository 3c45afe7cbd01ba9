"""The bus in memory: what a service talks to in a simulation and in tests."""

import asyncio
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import replace

import structlog

from wardround.runtime.bus.dead_letters import dead_letter
from wardround.runtime.bus.memory_broker import MemoryBroker
from wardround.runtime.bus.memory_queues import Source
from wardround.runtime.bus.port import (
    BusError,
    BusUnavailableError,
    DeadLetterError,
    Delivery,
    Handler,
    Offset,
    Packet,
)

__all__ = ["MemoryBroker", "MemoryBus"]

log = structlog.get_logger()


class MemoryBus:
    """One login's connection to a `MemoryBroker`; implements `runtime.bus.port.Bus`.

    Raises `ForbiddenError` for an unknown login. After `close` no task of it is left.
    """

    def __init__(self, broker: MemoryBroker, login: str) -> None:
        self._broker = broker
        self._login = login
        self._closed = False
        self._subscriptions: list[_MemorySubscription] = []
        self._callbacks: list[Callable[[], None]] = []
        broker.connect(self)

    @property
    def login(self) -> str:
        return self._login

    @property
    def connected(self) -> bool:
        return not self._closed and self._broker.reachable(self._login)

    async def publish(self, packet: Packet) -> None:
        self._require_connection()
        self._broker.check_write(self._login, packet)
        self._broker.route(packet if packet.user_id else replace(packet, user_id=self._login))

    async def subscribe(
        self, queue: str, handler: Handler, *, dead_key: str, prefetch: int = 16, offset: Offset | None = None
    ) -> "_MemorySubscription":
        self._require_connection()
        subscription = _MemorySubscription(self, self._broker, queue, handler, dead_key, prefetch, offset)
        subscription.resume()
        self._subscriptions.append(subscription)
        return subscription

    def on_connect(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    async def drain(self, *, within: float) -> None:
        running = [task for subscription in self._subscriptions for task in subscription.drain()]
        if running:
            await asyncio.wait(running, timeout=within)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._broker.forget(self)
        self.suspend()
        for subscription in tuple(self._subscriptions):
            await subscription.close()

    def suspend(self) -> None:
        """The connection is gone."""
        for subscription in self._subscriptions:
            subscription.suspend()

    def resume(self) -> None:
        """The connection is back."""
        for subscription in self._subscriptions:
            subscription.resume()
        for callback in self._callbacks:
            callback()

    def drop(self, subscription: "_MemorySubscription") -> None:
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    def _require_connection(self) -> None:
        if not self.connected:
            raise BusUnavailableError(f"{self._login} has no connection to the broker")


class _MemorySubscription:
    """A consumer: a task for each delivery, at most `prefetch` of them at once."""

    def __init__(
        self,
        bus: MemoryBus,
        broker: MemoryBroker,
        queue: str,
        handler: Handler,
        dead_key: str,
        prefetch: int,
        offset: Offset | None,
    ) -> None:
        if prefetch < 1:
            raise ValueError(f"prefetch is {prefetch}: at least one message must be on its way")
        self._bus = bus
        self._broker = broker
        self._queue = queue
        self._handler = handler
        self._dead_key = dead_key
        self._prefetch = prefetch
        self._offset = offset
        self._source: Source | None = None
        self._draining = False
        self._tasks: dict[asyncio.Task[None], None] = {}  # in the order of delivery
        # A handler runs in the subscriber's context, not in that of whoever published.
        self._context = copy_context()

    @property
    def has_room(self) -> bool:
        return self._bus.connected and not self._draining and len(self._tasks) < self._prefetch

    def resume(self) -> None:
        if self._source is None:
            self._source = self._broker.source(self._bus.login, self._queue, self._offset)
            self._source.attach(self)

    def suspend(self) -> None:
        if self._source is not None:
            source, self._source = self._source, None
            self._offset = source.detach(self)
            for task in self._other_tasks():
                task.cancel()

    async def close(self) -> None:
        self.suspend()
        self._bus.drop(self)
        if running := self._other_tasks():
            await asyncio.wait(running)

    def drain(self) -> list[asyncio.Task[None]]:
        """Receive nothing more; the tasks that handle what was received."""
        self._draining = True
        return self._other_tasks()

    def _other_tasks(self) -> list[asyncio.Task[None]]:
        """All but the one that is asking: a handler may close its own subscription."""
        return [task for task in self._tasks if task is not asyncio.current_task()]

    def deliver(self, source: Source, tag: int, delivery: Delivery) -> None:
        task = asyncio.create_task(self._handle(source, tag, delivery), context=self._context.copy())
        self._tasks[task] = None
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        if self._source is not None:
            self._source.pump()

    async def _handle(self, source: Source, tag: int, delivery: Delivery) -> None:
        try:
            await self._handler(delivery)
        except DeadLetterError as error:
            await self._park(source, tag, delivery, error)
        except asyncio.CancelledError:
            source.give_back(tag)
            raise
        except Exception as error:
            log.warning(
                "handler_failed",
                queue=self._queue,
                error=type(error).__name__,
                earlier=delivery.earlier,
                exc_info=delivery.earlier == 0,
            )
            source.give_back(tag)
        else:
            source.ack(tag)

    async def _park(self, source: Source, tag: int, delivery: Delivery, error: DeadLetterError) -> None:
        try:
            await self._bus.publish(dead_letter(delivery.packet, error, queue=self._queue, dead_key=self._dead_key))
        except BusError as failure:
            log.warning("dead_letter_not_parked", queue=self._queue, code=error.code, error=str(failure))
            source.give_back(tag)
        else:
            source.ack(tag)
