"""Reading the next while the last is worked on."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from types import TracebackType
from typing import Self

Read = Callable[[], Coroutine[None, None, bytes]]

# What is worked on, what comes next, and one on its way.
AHEAD = 2


class ReadAhead:
    """The results of reads, in their order; no more than `AHEAD` are begun or held before they are asked for."""

    def __init__(self, reads: Iterable[Read]) -> None:
        self._reads = iter(reads)
        self._begun: deque[asyncio.Task[bytes]] = deque()

    async def __aenter__(self) -> Self:
        for _ in range(AHEAD):
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
