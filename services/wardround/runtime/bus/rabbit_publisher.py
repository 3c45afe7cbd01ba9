"""Publishing over RabbitMQ, many messages at once, each answered on its own."""

import asyncio

from aio_pika import Connection
from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import DeliveryError

from wardround.runtime.bus.port import Packet
from wardround.runtime.bus.rabbit_errors import publishing
from wardround.runtime.bus.rabbit_link import close_quietly
from wardround.runtime.bus.rabbit_packets import message_of

MOST_AT_ONCE = 128


class Publisher:
    """Publishes over one connection. A message has a channel of its own until it is answered.

    The broker refuses a message by closing its channel, without a word about which one it meant: on a channel with
    others they would all fail, though some are stored. A returned message is told from others by nothing but its id,
    and that is not unique while somebody tries again.
    """

    def __init__(self, connection: Connection, login: str) -> None:
        self._connection = connection
        self._login = login
        self._room = asyncio.Semaphore(MOST_AT_ONCE)
        self._idle: list[AbstractChannel] = []
        self._closing: set[asyncio.Task[None]] = set()

    async def publish(self, packet: Packet) -> None:
        """Returns when the broker confirmed; it does not end while the broker takes nothing, its disk being full.

        Raises:
            ForbiddenError, UnroutableError, BusUnavailableError.
        """
        async with self._room:
            with publishing(self._login, packet.exchange, packet.routing_key):
                # What is written during an alarm is stored after it, as often as it was tried.
                await self._connection.ready()
                await self._publish(await self._channel(), packet)

    async def _publish(self, channel: AbstractChannel, packet: Packet) -> None:
        answered = False
        try:
            exchange = await channel.get_exchange(packet.exchange, ensure=False)
            await exchange.publish(message_of(packet, self._login), packet.routing_key)
            answered = True
        except DeliveryError:
            answered = True
            raise
        finally:
            if answered:
                self._idle.append(channel)
            else:
                self._discard(channel)

    async def _channel(self) -> AbstractChannel:
        while self._idle:
            channel = self._idle.pop()
            if not channel.is_closed:
                return channel
        channel = self._connection.channel(publisher_confirms=True, on_return_raises=True)
        await channel.initialize()
        return channel

    def _discard(self, channel: AbstractChannel) -> None:
        """A late refusal would be taken for that of the next message."""
        if not channel.is_closed:
            task = asyncio.create_task(close_quietly(channel.close()))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """After the connection is closed: nothing of this is left."""
        if self._closing:
            await asyncio.wait(self._closing)
