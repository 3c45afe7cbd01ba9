"""Dead letters: looked at without losing one, sent again to where they were meant to go, or let go of."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Self

from wardround.client.errors import NotThereError, UnusableError
from wardround.runtime.bus.dead_letters import DeadLetter
from wardround.runtime.bus.port import Bus, BusError, Delivery, Packet
from wardround_messages.names import DEAD_QUEUE

HELD_AT_MOST = 1000
QUIET_AFTER = 0.5  # seconds without another letter: these are all
LOOKED_FOR_AT_MOST = 20.0
ID_DIGITS = 12
TYPE_HEADER = "ce-type"


@dataclass(frozen=True, slots=True)
class Parked:
    """A dead letter with the id by which a person names it; copies of one message share it."""

    id: str
    type: str
    message_id: str
    letter: DeadLetter
    packet: Packet

    @classmethod
    def of(cls, packet: Packet) -> Self:
        named = hashlib.sha256(packet.body + (packet.message_id or "").encode()).hexdigest()[:ID_DIGITS]
        type_ = packet.headers.get(TYPE_HEADER)
        return cls(
            id=named,
            type=type_ if isinstance(type_, str) else "",
            message_id=packet.message_id or "",
            letter=DeadLetter.read(packet),
            packet=packet,
        )

    def as_it_was(self) -> Packet:
        """The message as its sender said it.

        Raises:
            UnusableError: nobody knows where it was meant to go, or who said it.
        """
        letter = self.letter
        if not letter.exchange or not letter.routing_key:
            raise UnusableError(f"dead letter {self.id} does not say where it was meant to go; it can only be dropped")
        if not letter.believed:
            raise UnusableError(
                f"dead letter {self.id} was parked by {letter.parked_by}, which cannot have received it: what it says "
                "of its origin may be made up; drop it"
            )
        if not letter.sender:
            raise UnusableError(f"dead letter {self.id} has no sender that the broker vouches for; drop it")
        said = {name: value for name, value in self.packet.headers.items() if not name.startswith(("wr-", "x-"))}
        return replace(
            self.packet,
            exchange=letter.exchange,
            routing_key=letter.routing_key,
            headers=said,
            user_id=letter.sender,
        )


class DeadLetters:
    """The queue `wr.dead`, by an operator's login.

    Letters are held without being acknowledged and given back when the subscription closes. Two who look at the same
    time each see a part.
    """

    def __init__(self, bus: Bus, *, dead_key: str) -> None:
        self._bus = bus
        self._dead_key = dead_key

    async def all(self) -> tuple[Parked, ...]:
        """All that are parked, at most `HELD_AT_MOST`. Raises `ForbiddenError` for a login that is no operator's."""
        found: list[Parked] = []

        async def keep(parked: Parked) -> bool:
            found.append(parked)
            return False

        await self._visit(keep)
        return tuple(found)

    async def replay(self, id: str) -> Parked:  # noqa: A002 - what a person calls it
        """Send the message again, as its sender; the letter goes when the broker has it, and so do its copies.

        Raises:
            NotThereError, UnusableError: there is no such letter, or it cannot be sent again.
            ForbiddenError, UnroutableError, BusUnavailableError: from the bus; the letter stays.
        """
        sent, turn = False, asyncio.Lock()

        async def send(parked: Parked) -> None:
            nonlocal sent
            async with turn:
                if not sent:
                    await self._bus.publish(parked.as_it_was())
                    sent = True

        return await self._take(id, send)

    async def drop(self, id: str) -> Parked:  # noqa: A002
        """Let go of a letter and its copies, for good. Raises `NotThereError`."""

        async def let_go(_: Parked) -> None:
            return None

        return await self._take(id, let_go)

    async def _take(self, id_: str, first: Callable[[Parked], Awaitable[None]]) -> Parked:
        """Take the letter and its copies from the queue, each once `first` is through with it.

        They are counted before: what is sent again and comes back at once has the same id, and must stay.
        """
        copies = [parked for parked in await self.all() if parked.id == id_]
        if not copies:
            raise NotThereError(f"there is no dead letter {id_}; wardround dead list shows what there is")
        left = len(copies)

        async def take(parked: Parked) -> bool:
            nonlocal left
            if parked.id != id_ or not left:
                return False
            left -= 1
            await first(parked)
            return True

        await self._visit(take)
        return copies[0]

    async def _visit(self, visit: Callable[[Parked], Awaitable[bool]]) -> None:
        """Show each letter to `visit`, which says whether it is taken from the queue."""
        news, faults = asyncio.Event(), list[Exception]()

        async def on_delivery(delivery: Delivery) -> None:
            news.set()
            try:
                if await visit(Parked.of(delivery.packet)):
                    return
            except (BusError, UnusableError) as error:
                faults.append(error)
            await asyncio.Event().wait()  # held until the subscription closes, which gives it back

        subscription = await self._bus.subscribe(
            DEAD_QUEUE, on_delivery, dead_key=self._dead_key, prefetch=HELD_AT_MOST
        )
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOKED_FOR_AT_MOST):
                    await _until_quiet(news)
        finally:
            await subscription.close()
        if faults:
            raise faults[0]


async def _until_quiet(news: asyncio.Event) -> None:
    while True:
        news.clear()
        try:
            async with asyncio.timeout(QUIET_AFTER):
                await news.wait()
        except TimeoutError:
            return
