"""A connection to the broker that only looks: it publishes nothing, reads nothing, and takes nobody's turn."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

import aiormq.abc
from aio_pika import Connection
from aio_pika.exceptions import ChannelNotFoundEntity, ChannelPreconditionFailed
from aiormq.exceptions import ChannelAccessRefused
from pamqp.commands import Basic

from wardround.client.doctor.rights import Found, Right, should_have
from wardround.runtime.bus.port import BusUnavailableError
from wardround.runtime.bus.rabbit_link import Endpoint, close_quietly
from wardround_messages.topology import Login

# Nothing that a broker carries out: it looks at the right first, and then refuses these.
IMPOSSIBLE_EXPIRY = "doctor"
IMPOSSIBLE_PRIORITY: dict[str, Any] = {"x-priority": "doctor"}
AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class QueueSeen:
    """`waiting` messages are ready to be delivered; `consumers` receive them: of a queue that serves one at a time,
    those that stand by are not counted."""

    waiting: int
    consumers: int


class Looker:
    """One login's connection. Close it, or use it as an asynchronous context."""

    def __init__(self, connection: Connection, login: str) -> None:
        """Use `open`."""
        self._connection = connection
        self.login = login
        self._room = asyncio.Semaphore(AT_ONCE)

    @classmethod
    async def open(cls, endpoint: Endpoint) -> Self:
        """Raises `ForbiddenError` for a refused login, `BusUnavailableError`."""
        return cls(await endpoint.open("looks"), endpoint.login)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await close_quietly(self._connection.close())

    async def rights(self, login: Login, tried: Sequence[Right]) -> list[Found]:
        """Whether the login has each right, and whether it should. Raises `BusUnavailableError`."""
        found = await asyncio.gather(*(self.may(right) for right in tried))
        return [Found(right, should_have(login, right), may) for right, may in zip(tried, found, strict=True)]

    async def may(self, right: Right) -> bool:
        """Whether the broker lets this login do it; it is not done. Raises `BusUnavailableError`."""
        async with self._channel(publishing=right.key is not None) as channel:
            try:
                if right.key is None:
                    await channel.basic_consume(right.place, _never, arguments=IMPOSSIBLE_PRIORITY)
                else:
                    await channel.basic_publish(
                        b"",
                        exchange=right.place,
                        routing_key=right.key,
                        properties=Basic.Properties(expiration=IMPOSSIBLE_EXPIRY),
                    )
            except ChannelPreconditionFailed:
                return True
            except (ChannelAccessRefused, ChannelNotFoundEntity):
                return False
        raise BusUnavailableError("the broker did not refuse what cannot be; it is no RabbitMQ")

    async def queue(self, name: str) -> QueueSeen | None:
        """How it stands; None where there is no such queue. Raises `BusUnavailableError`."""
        async with self._channel(publishing=False) as channel:
            try:
                answer = await channel.queue_declare(name, passive=True)
            except ChannelNotFoundEntity:
                return None
            return QueueSeen(answer.message_count or 0, answer.consumer_count or 0)

    @asynccontextmanager
    async def _channel(self, *, publishing: bool) -> AsyncIterator[aiormq.abc.AbstractChannel]:
        """A channel of its own: a refusal closes it."""
        async with self._room:
            channel = self._connection.channel(publisher_confirms=publishing)
            await channel.initialize()
            try:
                yield await channel.get_underlay_channel()
            finally:
                await close_quietly(channel.close())


async def _never(message: Any) -> None:
    """There is no consumer, and so no message."""
