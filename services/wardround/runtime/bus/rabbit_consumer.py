"""One consumer on one channel: what was received through it can be settled through it alone.

Messages are taken from the channel beneath aio-pika's: its own message class raises for a `delivery_mode` that it does
not know, and such a message would stay in hand, neither acknowledged nor given back, for as long as the consumer lives.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any

import aiormq.abc
from aio_pika import Connection
from aio_pika.abc import AbstractChannel
from aiormq.abc import DeliveredMessage

from wardround.runtime.bus.port import Offset
from wardround.runtime.bus.rabbit_errors import LOST
from wardround.runtime.bus.rabbit_link import close_quietly
from wardround.runtime.bus.rabbit_packets import STREAM_OFFSET

Receive = Callable[["Consumer", DeliveredMessage], None]


class Consumer:
    """Attached by `open`. `lost` is set when the channel, the queue or the connection is gone, or `close` was called;
    from then on settling does nothing, and the broker gives what was not settled to another consumer."""

    def __init__(self, channel: AbstractChannel, beneath: aiormq.abc.AbstractChannel, receive: Receive) -> None:
        self._channel = channel
        self._beneath = beneath
        self._receive = receive
        self._tag = ""
        self.lost = asyncio.Event()

    @classmethod
    async def open(
        cls,
        connection: Connection,
        queue: str,
        receive: Receive,
        *,
        prefetch: int,
        offset: Offset | datetime | None,
    ) -> "Consumer":
        """`receive` is called with each message, in the order of the queue. `offset` is for a stream, None for a queue.

        Raises what the client library raises: see `rabbit_errors.subscribing`.
        """
        channel = connection.channel(publisher_confirms=False)
        await channel.initialize()
        beneath = await channel.get_underlay_channel()
        consumer = cls(channel, beneath, receive)
        beneath.closing.add_done_callback(consumer._on_closed)
        beneath.on_consumer_cancel_callbacks.add(consumer._on_cancelled)
        try:
            await channel.set_qos(prefetch_count=prefetch)
            answer = await beneath.basic_consume(
                queue, consumer._on_message, arguments=None if offset is None else {STREAM_OFFSET: offset}
            )
        except BaseException:
            await close_quietly(channel.close())
            raise
        consumer._tag = answer.consumer_tag or ""
        return consumer

    async def _on_message(self, message: DeliveredMessage) -> None:
        if not self.lost.is_set():
            self._receive(self, message)

    def _on_closed(self, closing: "asyncio.Future[Any]") -> None:
        self.lost.set()

    def _on_cancelled(self, frame: object) -> None:
        """By the broker, whose queue is gone."""
        self.lost.set()

    async def ack(self, message: DeliveredMessage) -> None:
        await self._settle(message, give_back=False)

    async def give_back(self, message: DeliveredMessage) -> None:
        """Of a queue, never of a stream: there the broker would close the connection."""
        await self._settle(message, give_back=True)

    async def _settle(self, message: DeliveredMessage, *, give_back: bool) -> None:
        tag = message.delivery_tag
        if self.lost.is_set() or tag is None:
            return
        try:
            if give_back:
                # A rejected message counts towards the delivery limit in every version; a nacked one does not.
                await self._beneath.basic_reject(tag, requeue=True, wait=False)
            else:
                await self._beneath.basic_ack(tag, wait=False)
        except LOST:
            self.lost.set()

    async def stop(self) -> None:
        """Receive nothing more; what was received can still be settled."""
        if not self.lost.is_set():
            await close_quietly(self._beneath.basic_cancel(self._tag))

    async def close(self) -> None:
        """What is not settled goes back to the queue, in its order."""
        self.lost.set()
        await close_quietly(self._channel.close())
