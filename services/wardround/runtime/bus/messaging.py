"""Typed messages over a bus: an envelope around each, and a strict look at each that comes in."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog
from tenacity import stop_after_delay

from wardround.runtime.bus.port import Bus, DeadLetterError, Delivery, Offset, Packet, Subscription
from wardround.runtime.clock import Clock
from wardround.runtime.ids import fresh_id
from wardround.runtime.patience import patiently
from wardround_messages.codec import CONTENT_TYPE, MalformedError, decode, encode
from wardround_messages.envelope import Envelope, read_headers
from wardround_messages.messages import Message
from wardround_messages.names import NO_EXPERIMENT, dead_routing_key, source_urn

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Received:
    """A message that passed every check. `login` is the sender as the broker vouches for it."""

    message: Message
    envelope: Envelope
    login: str
    earlier: int
    offset: int | None


MessageHandler = Callable[[Received], Awaitable[None]]


class Messenger:
    """What a service says and hears. `origin` is its site, or `hub`."""

    def __init__(self, bus: Bus, *, service: str, origin: str, clock: Clock) -> None:
        self.bus = bus
        self._service = service
        self._origin = origin
        self._clock = clock

    async def send(self, message: Message, *, cause: str | None = None, give_up_after: float | None = None) -> str:
        """Publish, again and again while the broker is away, always under the same id, which is returned.

        Raises:
            BusUnavailableError: the broker was away for `give_up_after` seconds (None: never given up).
            UnroutableError, ForbiddenError: at once.
        """
        packet = self.packet(message, cause=cause)
        stop = None if give_up_after is None else stop_after_delay(give_up_after)
        await patiently(lambda: self.bus.publish(packet), stop=stop)
        return packet.message_id or ""

    def packet(self, message: Message, *, cause: str | None = None) -> Packet:
        envelope = Envelope(
            id=message.id or fresh_id(),
            source=source_urn(self._service, self._origin),
            type=message.type,
            subject=message.subject,
            time=self._clock(),
            causationid=cause,
        )
        return Packet(
            exchange=message.exchange,
            routing_key=message.routing_key,
            body=encode(message),
            headers=envelope.headers(),
            message_id=envelope.id,
            correlation_id=getattr(message, "experiment", None) or NO_EXPERIMENT,
            content_type=CONTENT_TYPE,
            user_id=self.bus.login,
        )

    async def listen(
        self, queue: str, handler: MessageHandler, *, prefetch: int = 16, offset: Offset | None = None
    ) -> Subscription:
        """Hand each well-formed message of the queue to the handler; park the others as dead letters."""

        async def on_delivery(delivery: Delivery) -> None:
            await handler(open_delivery(delivery))

        return await self.bus.subscribe(queue, on_delivery, dead_key=self.dead_key, prefetch=prefetch, offset=offset)

    @property
    def dead_key(self) -> str:
        return dead_routing_key(self._service, self._origin)


def open_delivery(delivery: Delivery) -> Received:
    """Raises `DeadLetterError` for what is malformed, or said by somebody who may not say it."""
    packet = delivery.packet
    try:
        envelope = read_headers(packet.headers)
        message = decode(
            envelope.type, packet.body, content_type=packet.content_type, content_encoding=packet.content_encoding
        )
    except MalformedError as error:
        raise DeadLetterError(error.code, error.detail) from None
    try:
        login = _sender(packet, envelope, message)
    except DeadLetterError as error:
        # A routing key may hold anything, also what moves a terminal's cursor.
        log.warning(
            "security", event_kind=error.code, login=packet.user_id, routing_key=ascii(packet.routing_key[:200])
        )
        raise
    return Received(message, envelope, login, delivery.earlier, delivery.offset)


def _sender(packet: Packet, envelope: Envelope, message: Message) -> str:
    """The login that said it, if it may, and if address and id are those of the body; else `DeadLetterError`."""
    if not packet.user_id:
        raise DeadLetterError("no_sender", "the broker vouches for no login")
    if message.sender is not None and packet.user_id != message.sender:
        raise DeadLetterError("wrong_sender", f"said by {packet.user_id}, which only {message.sender} may say")
    if packet.routing_key != message.routing_key or packet.exchange != message.exchange:
        raise DeadLetterError("wrong_address", "the routing key is not the one that the body names")
    if message.id is not None and envelope.id != message.id:
        raise DeadLetterError("wrong_id", "the id is not the one that the body gives")
    return packet.user_id
