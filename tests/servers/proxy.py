"""A TCP proxy on the loopback interface whose line can be cut and mended, and what is said on it changed."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from wardround.stack.ports import LOOPBACK

Change = Callable[[bytes], bytes]


class Proxy:
    """Between a client and a port of this machine. `to_server` and `to_client` change what is sent, piece by piece; an
    `OSError` from one of them breaks the connection."""

    def __init__(self, port: int, *, to_server: Change = bytes, to_client: Change = bytes) -> None:
        self._target = port
        self._to_server = to_server
        self._to_client = to_client
        self._server: asyncio.Server | None = None
        self._lines: set[asyncio.Task[None]] = set()
        self.port = 0
        self.stalled = False

    async def mend(self) -> None:
        """Take connections, from the second time on at the same port."""
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

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_connection(LOOPBACK, self._target)
        except OSError:
            writer.transport.abort()
            return
        try:
            async with asyncio.TaskGroup() as group:
                both = [
                    group.create_task(self._copy(reader, server_writer, self._to_server)),
                    group.create_task(self._copy(server_reader, writer, self._to_client)),
                ]
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                for one in both:
                    one.cancel()
        finally:
            for each in (writer, server_writer):
                each.transport.abort()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, change: Change) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                while self.stalled:  # noqa: ASYNC110 - a test waits, nobody else
                    await asyncio.sleep(0.01)
                writer.write(change(data))
                await writer.drain()
