"""Reading the next while the last is worked on."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from types import TracebackType
from typing import Self

Read = Callable[[], Coroutine[None, None, bytes]]

# What comes next, and one on its way: more gained nothing where reads are large.
AT_LEAST = 2
AT_MOST = 8


def depth(read_size: int, memory: int) -> int:
    """How many reads of so many bytes are begun ahead where they may take so much memory (bytes)."""
    return max(AT_LEAST, min(AT_MOST, memory // max(read_size, 1)))


class ReadAhead:
    """The results of reads, in their order; no more than `ahead` are begun or held before they are asked for."""

    def __init__(self, reads: Iterable[Read], *, ahead: int = AT_LEAST) -> None:
        self._reads = iter(reads)
        self._ahead = ahead
        self._begun: deque[asyncio.Task[bytes]] = deque()

    async def __aenter__(self) -> Self:
        for _ in range(self._ahead):
            self._begin_another()
        return self

    async def next(self) -> bytes:
        """Raises what the read raised; the ones after it go on."""
        task = self._begun.popleft()
        self._begin_another()
        return await task

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._begun:
            task.cancel()
        await asyncio.gather(*self._begun, return_exceptions=True)

    def _begin_another(self) -> None:
        read = next(self._reads, None)
        if read is not None:
            self._begun.append(asyncio.ensure_future(read()))
