"""The bus over RabbitMQ: what services, clinics and people talk to in earnest."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Self

import structlog

from wardround.runtime.bus.port import BusUnavailableError, Handler, Offset, Packet
from wardround.runtime.bus.rabbit_link import Endpoint, Link
from wardround.runtime.bus.rabbit_places import Place
from wardround.runtime.bus.rabbit_publisher import Publisher
from wardround.runtime.bus.rabbit_subscription import RabbitSubscription
from wardround.runtime.patience import patiently
from wardround_messages.names import METRICS_STREAM
from wardround_messages.topology import DELIVERY_LIMIT

log = structlog.get_logger()

PUBLISH_TIMEOUT = 15.0
LONGEST_WAIT = 5.0  # between two tries to connect again
STREAMS: Mapping[str, int] = MappingProxyType({METRICS_STREAM: DELIVERY_LIMIT})


class RabbitBus:
    """One login's connections to a RabbitMQ; implements `runtime.bus.port.Bus`.

    Lost connections are made again, subscriptions go on where they were. After `close` no task and no socket is left.
    """

    def __init__(self, endpoint: Endpoint, link: Link, *, publish_timeout: float, streams: Mapping[str, int]) -> None:
        """Use `connect`."""
        self._endpoint = endpoint
        self._publish_timeout = publish_timeout
        self._streams = streams
        self._subscriptions: list[RabbitSubscription] = []
        self._callbacks: list[Callable[[], None]] = []
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False
        self._working = asyncio.Event()
        self._use(link)
        self._keeper = asyncio.create_task(self._keep())

    @classmethod
    async def connect(
        cls,
        address: str,
        *,
        login: str,
        password: str,
        ca: Path | None = None,
        name: str = "",
        publish_timeout: float = PUBLISH_TIMEOUT,
        streams: Mapping[str, int] = STREAMS,
    ) -> Self:
        """Try once.

        Args:
            address: like `amqps://hub.example.org:443`, with `/name` for another virtual host than `/`.
            ca: with `amqps`, the only certificates to trust; those of the system if None.
            name: what the broker calls this client in its lists; the login by default.
            publish_timeout: seconds until the broker must have confirmed.
            streams: the streams among the queues, each with its delivery limit, which a broker keeps for queues only.

        Raises:
            ForbiddenError: the broker knows no such login, or another password.
            BusUnavailableError: it cannot be reached, or its certificate is not one to trust.
            ValueError: this is no address of a broker.
            OSError: `ca` cannot be read.
        """
        endpoint = Endpoint.parse(address, login=login, password=password, ca=ca, name=name)
        return cls(endpoint, await Link.open(endpoint), publish_timeout=publish_timeout, streams=streams)

    @property
    def login(self) -> str:
        return self._endpoint.login

    @property
    def connected(self) -> bool:
        """Whether both connections work now."""
        return not self._closed and self._link.works

    async def publish(self, packet: Packet) -> None:
        self._require_connection()
        try:
            async with asyncio.timeout(self._publish_timeout):
                await self._publisher.publish(packet)
        except TimeoutError:
            raise BusUnavailableError(f"the broker did not confirm within {self._publish_timeout:g} s") from None

    async def subscribe(
        self, queue: str, handler: Handler, *, dead_key: str, prefetch: int = 16, offset: Offset | None = None
    ) -> RabbitSubscription:
        self._require_connection()
        stream = queue in self._streams
        subscription = RabbitSubscription(
            self,
            queue,
            handler,
            dead_key=dead_key,
            prefetch=prefetch,
            place=Place("next" if offset is None else offset) if stream else None,
            limit=self._streams.get(queue, 0),
        )
        self._subscriptions.append(subscription)
        try:
            await subscription.open(self._link)
        except BaseException:
            self.forget(subscription)
            raise
        return subscription

    def on_connect(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    async def drain(self, *, within: float) -> None:
        """Receive nothing more, and let what was received be handled, for so many seconds at most."""
        if draining := [asyncio.create_task(each.drain()) for each in self._subscriptions]:
            _, late = await asyncio.wait(draining, timeout=within)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._keeper.cancel()
        await asyncio.wait([self._keeper])
        for subscription in tuple(self._subscriptions):
            await subscription.close()
        self._put_away()
        await asyncio.wait(self._closing)

    # --- for its subscriptions ---------------------------------------------------------------------------------------

    async def link(self) -> Link:
        while not self._link.works:
            self._working.clear()
            await self._working.wait()
        return self._link

    def forget(self, subscription: RabbitSubscription) -> None:
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    def call_back(self) -> None:
        for callback in self._callbacks:
            try:
                callback()
            except Exception:
                log.exception("on_connect_failed")

    # --- the connections ---------------------------------------------------------------------------------------------

    def _require_connection(self) -> None:
        if not self.connected:
            raise BusUnavailableError(f"{self.login} has no connection to {self._endpoint.address}")

    async def _keep(self) -> None:
        while True:
            await self._link.lost.wait()
            log.warning("connection_lost", broker=self._endpoint.address)
            self._put_away()
            self._use(await patiently(self._open, away=_what_is_wrong, longest=LONGEST_WAIT))
            log.info("connected_again", broker=self._endpoint.address)
            self.call_back()

    async def _open(self) -> Link:
        return await Link.open(self._endpoint)

    def _use(self, link: Link) -> None:
        self._link = link
        self._publisher = Publisher(link.publishing, self.login)
        self._working.set()

    def _put_away(self) -> None:
        """Close the connections in the background: of a network that swallows everything this takes a while."""
        task = asyncio.create_task(_close(self._link, self._publisher))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def _close(link: Link, publisher: Publisher) -> None:
    await link.close()
    await publisher.close()


def _what_is_wrong(error: BaseException) -> str | None:
    """Whatever it is, also a login that is refused now: it may be let in again, and nobody else would try."""
    return "the broker is away" if isinstance(error, Exception) else None
