"""The bus as every service sees it. Adapters: `MemoryBus`, and `RabbitBus` where a broker runs."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol


class BusError(Exception):
    """Base of what a bus raises."""


class BusUnavailableError(BusError):
    """The broker is away, or did not confirm in time: the message may or may not have been stored. Try again."""


class UnroutableError(BusError):
    """No queue is bound for the routing key: the definitions and the roster do not fit."""


class ForbiddenError(BusError):
    """The login may not write that routing key, or read that queue, or speak under another name."""


class DeadLetterError(Exception):
    """Raised by a handler: this message can never be handled. `code` and `detail` go into its dead letter."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Packet:
    """A message as it stands on the wire."""

    exchange: str
    routing_key: str
    body: bytes
    headers: Mapping[str, object] = field(default_factory=dict)
    message_id: str | None = None
    correlation_id: str | None = None
    content_type: str | None = None
    content_encoding: str | None = None
    user_id: str | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """`earlier` counts earlier deliveries of the same message; `offset` is its place in a stream."""

    packet: Packet
    earlier: int = 0
    offset: int | None = None


Handler = Callable[[Delivery], Awaitable[None]]
Offset = Literal["first", "last", "next"] | int


class Subscription(Protocol):
    async def close(self) -> None:
        """Stop receiving; what was delivered and not handled goes back to the queue."""


class Bus(Protocol):
    """One login's connection to the broker.

    A handler that returns acknowledges; one that raises `DeadLetterError` parks a copy on `wr.dead` (its routing key
    is the `dead_key` given here) and acknowledges; one that raises anything else, or is cancelled, gives the message
    back, and after the queue's delivery limit the broker dead-letters it. A stream has neither giving back nor a limit
    of its own: there the adapter hands the message over again, and parks it itself under `dead_key` in the end.
    """

    @property
    def login(self) -> str: ...

    async def publish(self, packet: Packet) -> None:
        """Returns when the broker confirmed. The packet's `user_id` is set to the login.

        Raises:
            UnroutableError, ForbiddenError, BusUnavailableError.
        """

    async def subscribe(
        self, queue: str, handler: Handler, *, dead_key: str, prefetch: int = 16, offset: Offset | None = None
    ) -> Subscription:
        """Consume a queue, or a stream from `offset` on (the default for streams is `next`).

        Raises:
            ForbiddenError, BusUnavailableError.
        """

    def on_connect(self, callback: Callable[[], None]) -> None:
        """Call back after every later reconnection: what was said before may have been lost."""

    async def drain(self, *, within: float) -> None:
        """Receive nothing more; return when what was received is handled, or after `within` seconds."""

    async def close(self) -> None: ...
