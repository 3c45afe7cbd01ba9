"""Where a reader of a stream is, and where it goes on after it was cut off."""

import asyncio
from datetime import UTC, datetime

from wardround.runtime.bus.port import Offset

Start = Offset | datetime


class Place:
    """Begins at `start` and moves with what is received and settled. To a stream an acknowledgement means nothing: the
    reader itself has to know where it was.

    The broker is asked for one message more than is wanted (`ask_for`): that one shows that the stream reaches so far.
    Of a shorter one, such as that of a new broker in the place of a lost one, it would say nothing until it does.
    """

    def __init__(self, start: Start, *, otherwise: Start = "next") -> None:
        """`otherwise` is where to begin in a stream that is too short."""
        self.start = start
        self.otherwise = otherwise
        self.reached = asyncio.Event()
        self._since = datetime.now(UTC)
        self._end: int | None = None
        self._in_hand: set[int] = set()

    @property
    def ask_for(self) -> Start:
        return self.start - 1 if self.in_doubt and isinstance(self.start, int) else self.start

    @property
    def in_doubt(self) -> bool:
        """Whether the stream may be too short for this."""
        return isinstance(self.start, int) and self.start > 0

    def received(self, offset: int) -> bool:
        """Whether it is one that is wanted."""
        self.reached.set()
        if isinstance(self.start, int) and offset < self.start:
            return False
        self._in_hand.add(offset)
        self._end = offset + 1
        return True

    def settled(self, offset: int) -> None:
        self._in_hand.discard(offset)

    def resumed(self) -> "Place":
        """Where to begin again: at the first message that is not settled, else after the last that was received.

        Who waited for what comes next, and received nothing yet, goes on from the second in which he began to wait.
        """
        if self._end is not None:
            return Place(min(self._in_hand, default=self._end), otherwise="first")
        return Place(self._since if self.start in ("next", "last") else self.start, otherwise=self.otherwise)
