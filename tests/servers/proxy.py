"""A TCP proxy on the loopback interface whose line can be cut and mended, made bad, and what is said on it changed."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from wardround.stack.ports import LOOPBACK

Change = Callable[[bytes], bytes]
PIECE = 65536
BETWEEN_PIECES = 0.001  # seconds: else the other end finds many together


class Proxy:
    """Between a client and a port of this machine. `to_server` and `to_client` change what is sent, piece by piece;
    an `OSError` from one of them breaks the connection.

    How bad the line is may change at any time. `stalled`: nothing passes, and nobody is told; `mute`: nothing that the
    client says, `deaf`: nothing that it is told. `rate` is bytes a second each way; `piece` the size of the pieces that
    all is cut into; `breaks_after` so many bytes of the client each connection breaks, without a word.
    """

    def __init__(self, port: int, *, to_server: Change = bytes, to_client: Change = bytes) -> None:
        self._target = port
        self._to_server = to_server
        self._to_client = to_client
        self._server: asyncio.Server | None = None
        self._lines: set[asyncio.Task[None]] = set()
        self.port = 0
        self.stalled = False
        self.mute = False
        self.deaf = False
        self.rate: float | None = None
        self.piece = PIECE
        self.breaks_after: int | None = None

    async def mend(self) -> None:
        """Take connections, from the second time on at the same port; the line is a good one."""
        self.stalled = self.mute = self.deaf = False
        self.rate, self.piece, self.breaks_after = None, PIECE, None
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, LOOPBACK, self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Close every connection, and take none."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for line in tuple(self._lines):
            line.cancel()
        if self._lines:
            await asyncio.wait(self._lines)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = asyncio.create_task(self._join(reader, writer))
        self._lines.add(line)
        line.add_done_callback(self._lines.discard)
        line.add_done_callback(lambda _: writer.transport.abort())  # also of a line that was cut before its first step

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_connection(LOOPBACK, self._target)
        except OSError:
            return
        try:
            async with asyncio.TaskGroup() as group:
                both = [
                    group.create_task(self._said(reader, server_writer)),
                    group.create_task(self._told(server_reader, writer)),
                ]
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                for one in both:
                    one.cancel()
        finally:
            server_writer.transport.abort()

    async def _said(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """By the client to the server."""
        passed = 0
        with suppress(OSError):
            while data := await reader.read(self.piece):
                await self._passable(lambda: self.stalled or self.mute, data)
                if self.breaks_after is not None:
                    data = data[: max(self.breaks_after - passed, 0)]
                writer.write(self._to_server(data))
                await writer.drain()
                passed += len(data)
                if self.breaks_after is not None and passed >= self.breaks_after:
                    return

    async def _told(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """By the server to the client."""
        with suppress(OSError):
            while data := await reader.read(self.piece):
                await self._passable(lambda: self.stalled or self.deaf, data)
                writer.write(self._to_client(data))
                await writer.drain()

    async def _passable(self, blocked: Callable[[], bool], data: bytes) -> None:
        while blocked():  # noqa: ASYNC110 - a test waits, nobody else
            await asyncio.sleep(0.01)
        if self.rate is not None:
            await asyncio.sleep(len(data) / self.rate)
        if self.piece < PIECE:
            await asyncio.sleep(BETWEEN_PIECES)
