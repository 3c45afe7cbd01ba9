"""Packets of the port as AMQP has them, and back."""

from typing import cast

from aio_pika import DeliveryMode, Message
from aio_pika.abc import HeadersType
from aiormq.abc import DeliveredMessage

from wardround.runtime.bus.port import Delivery, Packet

DELIVERY_COUNT = "x-delivery-count"
STREAM_OFFSET = "x-stream-offset"


def message_of(packet: Packet, login: str) -> Message:
    """Persistent, and said by the login, or by the sender that an impersonator gives."""
    return Message(
        packet.body,
        headers=cast("HeadersType", dict(packet.headers)),
        message_id=packet.message_id,
        correlation_id=packet.correlation_id,
        content_type=packet.content_type,
        content_encoding=packet.content_encoding,
        user_id=packet.user_id or login,
        delivery_mode=DeliveryMode.PERSISTENT,
    )


def delivery_of(message: DeliveredMessage, *, stream: bool) -> Delivery:
    """What the broker itself counted is taken out of the headers."""
    properties = message.header.properties
    headers: dict[str, object] = dict(properties.headers or {})
    # Each count is the broker's in its own case only: anybody may send a header of that name.
    count = headers.pop(DELIVERY_COUNT, None) if message.redelivered else None
    offset = headers.pop(STREAM_OFFSET, None) if stream else None
    return Delivery(
        packet=Packet(
            exchange=message.exchange or "",
            routing_key=message.routing_key or "",
            body=message.body,
            headers=headers,
            message_id=properties.message_id,
            correlation_id=properties.correlation_id,
            content_type=properties.content_type,
            content_encoding=properties.content_encoding,
            user_id=properties.user_id,
        ),
        earlier=count if isinstance(count, int) else 0,
        offset=offset if isinstance(offset, int) else None,
    )
