"""Digests taken beside the arithmetic: NumPy and hashlib both let go of the interpreter's lock."""

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Protocol, Self

# How many chunks may wait for their hash: what the arithmetic can be ahead.
BEHIND = 2


class Hash(Protocol):
    """What of `hashlib`'s objects is used."""

    def update(self, data: bytes | bytearray, /) -> None: ...

    def hexdigest(self) -> str: ...

    def copy(self) -> "Hash": ...


class Hashing:
    """One thread in which all chunks of a pass are hashed, in the order in which they are fed.

    `in_place` does without: for a small model the way to a thread and back is longer than the work.
    """

    def __init__(self, *, in_place: bool) -> None:
        self._in_place = in_place
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hashing")
        self._behind: deque[asyncio.Future[None]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def feed(self, hasher: Hash | None, data: bytes | bytearray) -> None:
        """Have the chunk hashed, soon; it is not to be changed any more. Nothing is done where there is no hash."""
        if hasher is None:
            return
        if self._in_place:
            hasher.update(data)
            return
        self._behind.append(asyncio.get_running_loop().run_in_executor(self._thread, hasher.update, data))
        if len(self._behind) > BEHIND:
            await self._behind.popleft()

    async def done(self) -> None:
        """Wait for all that was fed."""
        while self._behind:
            await self._behind.popleft()
