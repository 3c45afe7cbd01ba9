"""One object on its way to or from a store: how much of it has passed, how fast, and how fast more may."""

import time
from collections import deque
from collections.abc import Callable
from threading import Lock

from wardround.runtime.store.limit import Limit

LATELY = 15.0  # seconds over which a speed is told
MARKED_EVERY = 0.5
# Seconds' worth of a limited line that go at once: short, as servers and gateways give up on who is silent for long.
AT_ONCE = 0.25
PIECE_AT_LEAST, PIECE_AT_MOST = 1024, 4 * 2**20
# A shorter pause is put off: a sleep is longer than it was asked to be, and many short ones would make the line slower
# than it may be.
PAUSE_AT_LEAST = 0.01


class Passage:
    """A transfer, over all its tries. The thread that moves the bytes and those who look at it may use it at once.

    `size` and `done` are in bytes; `moved` counts those of all tries, and never becomes less.
    """

    def __init__(self, size: int, *, limit: Limit | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.size = size
        self.done = 0
        self.moved = 0
        self._limit = limit
        self._clock = clock
        self._booked = 0
        self._marks: deque[tuple[float, int]] = deque()
        self._lock = Lock()

    def begin(self, *, at: int = 0) -> None:
        """A try begins; so many bytes are there already."""
        with self._lock:
            self.done = at
            self._mark(self._clock())

    def piece(self, most: int) -> int:
        """How many of `most` bytes may go at once."""
        if self._limit is None:
            return most
        return min(most, PIECE_AT_MOST, max(PIECE_AT_LEAST, int(self._limit.per_second * AT_ONCE)))

    def pause(self, size: int) -> float:
        """Seconds to wait before so many bytes go.

        Whole pieces are booked, however small the steps in which they go: so all transfers have the same share.
        """
        if self._limit is None:
            return 0.0
        wait = 0.0
        if size > self._booked:
            piece = max(size, self.piece(self.size - self.done))
            wait = self._limit.book(piece - self._booked)
            self._booked = piece
        self._booked -= size
        return wait if wait >= PAUSE_AT_LEAST else 0.0

    def passed(self, size: int) -> None:
        with self._lock:
            self.done += size
            self.moved += size
            self._mark(self._clock())

    def speed(self) -> float | None:
        """Bytes per second lately, 0 where nothing passes; None where that cannot be told yet."""
        with self._lock:
            now = self._clock()
            self._forget(now)
            if not self._marks or now - self._marks[0][0] < MARKED_EVERY:
                return None
            if now - self._marks[-1][0] > LATELY:
                return 0.0
            since, moved = self._marks[0]
            return (self.moved - moved) / (now - since)

    def _mark(self, now: float) -> None:
        if not self._marks or now - self._marks[-1][0] >= MARKED_EVERY:
            self._marks.append((now, self.moved))
            self._forget(now)

    def _forget(self, now: float) -> None:
        while len(self._marks) > 1 and now - self._marks[0][0] > LATELY:
            self._marks.popleft()
