"""Dead letters: what nobody could handle, with the reason, the sender and the digest of the body."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from wardround.runtime.bus.port import DeadLetterError, Packet
from wardround_messages.base import digest
from wardround_messages.names import COMMANDS, DEAD, site_queue

REASON = "wr-reason"
DETAIL = "wr-detail"
SENDER = "wr-sender"
EXCHANGE = "wr-exchange"
ROUTING_KEY = "wr-routing-key"
QUEUE = "wr-queue"
SHA256 = "wr-sha256"

# Written by the broker itself when it gives a message up.
BROKER_REASON = "x-first-death-reason"
BROKER_QUEUE = "x-first-death-queue"
BROKER_EXCHANGE = "x-first-death-exchange"
DELIVERY_LIMIT_REASON = "delivery_limit"
COORDINATOR = "coordinator"
HUB_SERVICES = frozenset({COORDINATOR, "aggregator", "metrics"})


def dead_letter(packet: Packet, error: DeadLetterError, *, queue: str, dead_key: str) -> Packet:
    """The copy that a consumer parks on `wr.dead`, under its own name (`user_id` is left to the bus)."""
    verdict = {
        REASON: error.code,
        DETAIL: error.detail,
        SENDER: packet.user_id or "",
        EXCHANGE: packet.exchange,
        ROUTING_KEY: packet.routing_key,
        QUEUE: queue,
        SHA256: digest(packet.body),
    }
    headers = _without_verdict(packet) | verdict
    return replace(packet, exchange=DEAD, routing_key=dead_key, headers=headers, user_id=None)


def given_up(packet: Packet, *, queue: str) -> Packet:
    """What the broker itself sends to `wr.dead` once the queue's delivery limit is spent."""
    verdict = {BROKER_REASON: DELIVERY_LIMIT_REASON, BROKER_QUEUE: queue, BROKER_EXCHANGE: packet.exchange}
    return replace(packet, exchange=DEAD, headers=_without_verdict(packet) | verdict)


def _without_verdict(packet: Packet) -> dict[str, object]:
    """The packet's headers but for those that only a dead letter has: no sender writes its own."""
    return {name: value for name, value in packet.headers.items() if not name.startswith(("wr-", "x-"))}


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A packet from the queue `wr.dead`, read. `reason` is a code; `sha256` is that of `body`.

    `parked_by` is the login that the broker vouches for. What it says of the message's origin is `believed` of the
    hub's services, and of a site for what its own queue held; of anybody else it may be made up.
    """

    reason: str
    detail: str
    sender: str
    exchange: str
    routing_key: str
    queue: str
    sha256: str
    body: bytes
    parked_by: str = ""
    believed: bool = True

    @classmethod
    def read(cls, packet: Packet) -> Self:
        """Of either origin: parked by a consumer, or given up by the broker."""
        headers = {name: value if isinstance(value, str) else "" for name, value in packet.headers.items()}
        by_consumer = REASON in headers
        return cls(
            reason=headers.get(REASON if by_consumer else BROKER_REASON, ""),
            detail=headers.get(DETAIL, ""),
            sender=headers.get(SENDER, "") if by_consumer else packet.user_id or "",
            exchange=headers.get(EXCHANGE if by_consumer else BROKER_EXCHANGE, ""),
            routing_key=headers.get(ROUTING_KEY, "") if by_consumer else packet.routing_key,
            queue=headers.get(QUEUE if by_consumer else BROKER_QUEUE, ""),
            sha256=digest(packet.body),
            body=packet.body,
            parked_by=packet.user_id or "",
            believed=not by_consumer or _is_believed(headers, packet.user_id or ""),
        )


def _is_believed(headers: Mapping[str, str], parked_by: str) -> bool:
    if parked_by in HUB_SERVICES:
        return True
    return (
        headers.get(QUEUE) == site_queue(parked_by)
        and headers.get(SENDER) == COORDINATOR
        and headers.get(EXCHANGE) == COMMANDS
        and headers.get(ROUTING_KEY, "").startswith(f"cmd.site-agent.{parked_by}.")
    )
