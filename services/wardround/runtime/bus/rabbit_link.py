"""Connections to RabbitMQ: where, as whom, and the pair of them that a bus works with."""

import asyncio
import logging
import ssl
from collections.abc import Awaitable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import quote, unquote, urlsplit

from aio_pika import Connection
from aio_pika.exceptions import ConnectionClosed
from yarl import URL

from wardround.runtime.bus.rabbit_errors import LOST, cancelled_from_outside, connecting
from wardround.runtime.bus.rabbit_frames import survive_any_sender

HEARTBEAT = 10  # seconds: a peer that says nothing for three of them is gone
CONNECT_WITHIN = 15.0
CLOSE_WITHIN = 5.0
PORTS = {"amqp": 5672, "amqps": 5671}

# What it logs comes as tracebacks, and is in our own events or in the errors that are raised.
for library in ("aiormq", "aio_pika"):
    logging.getLogger(library).setLevel(logging.CRITICAL)
survive_any_sender()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A broker, a virtual host in it, and a login. `name` is what the broker calls the connections in its lists."""

    address: str
    login: str
    name: str
    vhost: str
    url: str = field(repr=False)
    tls: ssl.SSLContext | None

    @classmethod
    def parse(cls, address: str, *, login: str, password: str, ca: Path | None = None, name: str = "") -> Self:
        """Of an address like `amqps://hub.example.org:443/vhost`; without a virtual host the broker's `/`.

        Args:
            ca: the only certificates to trust; those of the system if None.

        Raises:
            ValueError: this is no address of a broker.
            OSError: `ca` cannot be read, or holds no certificate.
        """
        parts = urlsplit(address)
        if parts.scheme not in PORTS or not parts.hostname or "@" in parts.netloc:
            raise ValueError(f"{address!r} is no address of a broker; one looks like amqps://hub.example.org:443")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        vhost = unquote(parts.path[1:]) or "/"
        url = (
            f"{parts.scheme}://{quote(login, safe='')}:{quote(password, safe='')}@{host}:"
            f"{parts.port or PORTS[parts.scheme]}/{'' if vhost == '/' else quote(vhost, safe='')}?heartbeat={HEARTBEAT}"
        )
        return cls(address, login, name or login, vhost, url, _tls(ca) if parts.scheme == "amqps" else None)

    async def open(self, purpose: str) -> Connection:
        """Raises `ForbiddenError`, `BusUnavailableError`."""
        connection = Connection(
            URL(self.url, encoded=True),
            ssl_context=self.tls,
            client_properties={"connection_name": f"{self.name} {purpose}"},
        )
        with connecting(self.address, self.login, self.vhost):
            try:
                async with asyncio.timeout(CONNECT_WITHIN):
                    await connection.connect()
                    await connection.ready()
            except BaseException:
                await close_quietly(connection.close())
                raise
        return connection


def _tls(ca: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=None if ca is None else str(ca))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class Link:
    """Two connections at work: a refusal or an alarm that stops the one for publishing does not stop the other.

    They live and die together, so that whoever works with them has one state to think of.
    """

    def __init__(self, publishing: Connection, consuming: Connection) -> None:
        self.publishing = publishing
        self.consuming = consuming
        self.lost = asyncio.Event()
        for connection in (publishing, consuming):
            connection.close_callbacks.add(self._on_closed)
            if not is_open(connection):
                self.lost.set()

    @classmethod
    async def open(cls, endpoint: Endpoint) -> Self:
        """Raises `ForbiddenError`, `BusUnavailableError`."""
        publishing = await endpoint.open("publishes")
        try:
            return cls(publishing, await endpoint.open("consumes"))
        except BaseException:
            await _close(publishing)
            raise

    @property
    def works(self) -> bool:
        return not self.lost.is_set() and is_open(self.publishing) and is_open(self.consuming)

    def _on_closed(self, sender: object, error: BaseException | None) -> None:
        self.lost.set()

    async def close(self) -> None:
        self.lost.set()
        await asyncio.gather(_close(self.publishing), _close(self.consuming))


def is_open(connection: Connection) -> bool:
    """aio-pika's own `is_closed` stays False when the other side closed the connection."""
    return connection.transport is not None and connection.transport.connection.is_opened


async def _close(connection: Connection) -> None:
    await close_quietly(connection.close(ConnectionClosed(200, "closed here")))


async def close_quietly(closing: Awaitable[object]) -> None:
    """Close something that may be closed, or cut off, already."""
    try:
        async with asyncio.timeout(CLOSE_WITHIN):
            await closing
    except asyncio.CancelledError:
        if cancelled_from_outside():
            raise
    except (TimeoutError, *LOST):
        return
