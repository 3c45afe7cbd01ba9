"""How fast a line may be used: one budget of bytes for everything large that goes over it, either way."""

from collections.abc import Callable
from threading import Lock


class Limit:
    """Bytes are booked one after another, at `per_second`; time in which nothing is booked is not saved up.

    So what several transfers book at once takes turns, and no burst is larger than what one of them books at a time.
    Several threads may book.
    """

    def __init__(self, per_second: int, *, clock: Callable[[], float]) -> None:
        """`clock` tells seconds that only ever go forward."""
        self.per_second = per_second
        self._clock = clock
        self._free_at = clock()
        self._lock = Lock()

    def book(self, size: int) -> float:
        """Seconds to wait before these bytes may pass."""
        with self._lock:
            now = self._clock()
            begins = max(now, self._free_at)
            self._free_at = begins + size / self.per_second
        return begins - now
