"""Everything on the stream, told on to whoever listens: the last events once in memory, for all listeners together."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from wardround.runtime.bus.messaging import Received, open_delivery
from wardround.runtime.bus.port import Bus, DeadLetterError, Delivery
from wardround.runtime.patience import patiently
from wardround_messages.codec import CONTENT_TYPE
from wardround_messages.names import METRICS_STREAM

EVENTS_KEPT = 4096
CHARACTERS_KEPT = 32 * 2**20
READ_AHEAD = 64


@dataclass(frozen=True, slots=True)
class Said:
    """An event of the stream. `text` is its CloudEvent in JSON, with the message as `data`."""

    offset: int
    id: str
    experiment: str | None
    text: str


@dataclass(frozen=True, slots=True)
class CutOff:
    """The listener was too slow: what comes next is no longer in memory. It may ask for the stream from `offset`."""

    offset: int


def said_of(received: Received) -> Said | None:
    """None for what did not come from a stream, and so has no place in it."""
    if received.offset is None:
        return None
    attributes = received.envelope.model_dump_json(exclude_none=True).removesuffix("}")
    text = f'{attributes},"datacontenttype":"{CONTENT_TYPE}","data":{received.message.model_dump_json()}}}'
    experiment = getattr(received.message, "experiment", None)
    return Said(received.offset, received.envelope.id, experiment, text)


class Feed:
    """The last events of the stream, numbered by their arrival: a listener is a number, and holds no memory.

    A message that is delivered again is told once. An offset that goes back otherwise says that the stream was wiped
    and counts from 0 again: what was kept is let go, and listeners go on with the new one.
    """

    def __init__(self, *, keep: int = EVENTS_KEPT, at_most: int = CHARACTERS_KEPT) -> None:
        self._keep = keep
        self._at_most = at_most
        self._said: dict[int, Said] = {}
        self._numbers: dict[int, int] = {}  # by offset
        self._began = 0
        self._first = 0
        self._next = 0
        self._size = 0
        self._news = asyncio.Event()

    @property
    def next(self) -> int:
        """The number that the next event will have."""
        return self._next

    @property
    def size(self) -> int:
        """What is kept, in characters."""
        return self._size

    def add(self, said: Said) -> None:
        newest = self._said.get(self._next - 1)
        if newest is not None and said.offset <= newest.offset:
            number = self._numbers.get(said.offset)
            if number is not None and self._said[number].id == said.id:
                return
            self._begin_anew()
        self._said[self._next] = said
        self._numbers[said.offset] = self._next
        self._size += len(said.text)
        self._next += 1
        while len(self._said) > self._keep or (self._size > self._at_most and len(self._said) > 1):
            self._let_go()
        self._news.set()
        self._news = asyncio.Event()

    def start(self, offset: int) -> int | None:
        """The number from which on to listen so that nothing is left out from `offset` on; None where only the stream
        itself may have it all. An offset of the future is one of a stream that was wiped since."""
        if self._said and offset > self._said[self._next - 1].offset + 1:
            return self._first
        return self.number_of(offset)

    def number_of(self, offset: int) -> int | None:
        """The number of the event with that offset or the next after it; None where it is not, or not yet, here."""
        if not self._said or not self._said[self._first].offset <= offset <= self._said[self._next - 1].offset + 1:
            return None
        return next((n for n in range(self._first, self._next) if self._said[n].offset >= offset), self._next)

    def listen(self, number: int) -> AsyncGenerator[Said | CutOff, None]:
        """The events from `number` on, without an end unless the listener falls too far behind."""
        newest = self._said.get(self._next - 1)
        here = self._said.get(number)
        return self._listen(number, here.offset if here is not None else 0 if newest is None else newest.offset + 1)

    async def _listen(self, number: int, offset: int) -> AsyncGenerator[Said | CutOff, None]:
        while True:
            number = max(number, self._began)
            if number < self._first:
                yield CutOff(offset)
                return
            if number < self._next:
                said = self._said[number]
                number, offset = number + 1, said.offset + 1
                yield said
            else:
                await self._news.wait()

    def _let_go(self) -> None:
        said = self._said.pop(self._first)
        del self._numbers[said.offset]
        self._size -= len(said.text)
        self._first += 1

    def _begin_anew(self) -> None:
        self._said.clear()
        self._numbers.clear()
        self._size = 0
        self._began = self._first = self._next


async def replay(bus: Bus, offset: int, feed: Feed, *, dead_key: str) -> AsyncGenerator[Said, None]:
    """The stream itself from `offset` on, as fast as the listener takes it, until the feed holds what comes next."""
    ahead: asyncio.Queue[Said] = asyncio.Queue(READ_AHEAD)
    turn = asyncio.Lock()  # fair, unlike the queue: events stay in their order

    async def on_delivery(delivery: Delivery) -> None:
        try:
            said = said_of(open_delivery(delivery))
        except DeadLetterError:
            return  # parked by the service itself
        async with turn:
            if said is not None:
                await ahead.put(said)

    subscription = await patiently(
        lambda: bus.subscribe(METRICS_STREAM, on_delivery, dead_key=dead_key, prefetch=READ_AHEAD, offset=offset)
    )
    try:
        while True:
            said = await ahead.get()
            yield said
            if feed.number_of(said.offset + 1) is not None:
                return
    finally:
        await subscription.close()
