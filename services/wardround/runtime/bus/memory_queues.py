"""Queues and streams in memory: order, prefetch, redelivery and the delivery limit as RabbitMQ has them."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Protocol

from wardround.runtime.bus.port import Delivery, Offset, Packet
from wardround_messages.topology import Queue

GiveUp = Callable[[Packet, str], None]


class Consumer(Protocol):
    """A subscription as a queue sees it."""

    @property
    def has_room(self) -> bool: ...

    def deliver(self, source: "Source", tag: int, delivery: Delivery) -> None: ...


@dataclass(slots=True, eq=False)
class _Message:
    packet: Packet
    offset: int | None = None
    earlier: int = 0


class Source:
    """What consumers are fed from. A delivery is settled by its tag: `ack`, or `give_back`, which puts it before all
    that was not delivered yet. `give_up` receives the packet and the queue's name once the delivery limit is spent."""

    def __init__(self, definition: Queue, give_up: GiveUp) -> None:
        self._definition = definition
        self._give_up = give_up
        self._consumers: deque[Consumer] = deque()
        self._returned: deque[_Message] = deque()
        self._unacked: dict[int, tuple[_Message, Consumer]] = {}
        self._tags = count()

    def attach(self, consumer: Consumer) -> None:
        self._consumers.append(consumer)
        self.pump()

    def detach(self, consumer: Consumer) -> int | None:
        """Take the consumer off, and back what it had not settled; in a stream, the offset to go on from."""
        self._consumers.remove(consumer)
        for tag in [tag for tag, (_, holder) in self._unacked.items() if holder is consumer]:
            self.give_back(tag)
        self.pump()
        return None

    def ack(self, tag: int) -> None:
        """Without effect for a delivery that was taken back already."""
        self._unacked.pop(tag, None)

    def give_back(self, tag: int) -> None:
        """Without effect for a delivery that was taken back already."""
        if tag not in self._unacked:
            return
        message, _ = self._unacked.pop(tag)
        message.earlier += 1
        if message.earlier > self._definition.delivery_limit:
            self._give_up(message.packet, self._definition.name)
        else:
            self._returned.append(message)

    def pump(self) -> None:
        """Deliver as much as the consumers have room for."""
        while self._returned or self._has_fresh():
            consumer = self._consumer_with_room()
            if consumer is None:
                return
            message = self._returned.popleft() if self._returned else self._take_fresh()
            tag = next(self._tags)
            self._unacked[tag] = (message, consumer)
            consumer.deliver(self, tag, Delivery(message.packet, message.earlier, message.offset))

    def _consumer_with_room(self) -> Consumer | None:
        """The active one, where only one is active; else each in turn."""
        if self._definition.single_active:
            return self._consumers[0] if self._consumers and self._consumers[0].has_room else None
        for _ in range(len(self._consumers)):
            self._consumers.rotate(-1)
            if self._consumers[-1].has_room:
                return self._consumers[-1]
        return None

    def _has_fresh(self) -> bool:
        raise NotImplementedError

    def _take_fresh(self) -> _Message:
        raise NotImplementedError


class MemoryQueue(Source):
    """A quorum queue: first in, first out; what was given back comes before what was never delivered."""

    def __init__(self, definition: Queue, give_up: GiveUp) -> None:
        super().__init__(definition, give_up)
        self._fresh: deque[_Message] = deque()

    def put(self, packet: Packet) -> None:
        self._fresh.append(_Message(packet))
        self.pump()

    def source(self, offset: Offset | None) -> Source:
        """All consumers share the queue; offsets mean nothing to it."""
        return self

    def packets(self) -> list[Packet]:
        """All that is not acknowledged, oldest deliveries first."""
        unacked = [message for message, _ in self._unacked.values()]
        return [message.packet for message in (*unacked, *self._returned, *self._fresh)]

    def depth(self) -> int:
        return len(self._unacked) + len(self._returned) + len(self._fresh)

    def clear(self) -> None:
        """Forget all messages; no consumer is attached."""
        self._returned.clear()
        self._fresh.clear()

    def _has_fresh(self) -> bool:
        return bool(self._fresh)

    def _take_fresh(self) -> _Message:
        return self._fresh.popleft()


class MemoryStream:
    """A log of the last `keep` packets, which any number of consumers read, each from a place of its own."""

    def __init__(self, definition: Queue, give_up: GiveUp, keep: int) -> None:
        self._definition = definition
        self._give_up = give_up
        self._log: deque[Packet] = deque(maxlen=keep)
        self.end = 0
        self.readers: list[_Reader] = []

    @property
    def start(self) -> int:
        """The offset of the oldest packet kept; `end` is that of the next one to come."""
        return self.end - len(self._log)

    def put(self, packet: Packet) -> None:
        self._log.append(packet)
        self.end += 1
        for reader in tuple(self.readers):
            reader.pump()

    def source(self, offset: Offset | None) -> Source:
        match offset:
            case None | "next":
                position = self.end
            case "last":
                position = max(self.start, self.end - 1)
            case "first":
                position = self.start
            case int():
                position = min(offset, self.end)
        return _Reader(self._definition, self._give_up, self, position)

    def at(self, offset: int) -> Packet:
        return self._log[offset - self.start]

    def packets(self) -> list[Packet]:
        return list(self._log)

    def depth(self) -> int:
        return len(self._log)

    def clear(self) -> None:
        """Forget all messages and count from 0 again; no consumer is attached."""
        self._log.clear()
        self.end = 0


class _Reader(Source):
    """One consumer's place in a stream. Acknowledging moves on and removes nothing."""

    def __init__(self, definition: Queue, give_up: GiveUp, stream: MemoryStream, position: int) -> None:
        super().__init__(definition, give_up)
        self._stream = stream
        self._position = position

    def attach(self, consumer: Consumer) -> None:
        self._stream.readers.append(self)
        super().attach(consumer)

    def detach(self, consumer: Consumer) -> int:
        self._stream.readers.remove(self)
        super().detach(consumer)
        return min((message.offset for message in self._returned if message.offset is not None), default=self._position)

    def _has_fresh(self) -> bool:
        return self._position < self._stream.end

    def _take_fresh(self) -> _Message:
        offset = max(self._position, self._stream.start)
        self._position = offset + 1
        return _Message(self._stream.at(offset), offset)
