"""The proxy that stands for a bad line does what its name says."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest

from servers.proxy import Proxy
from wardround.stack.ports import LOOPBACK

SAID = b"what a clinic says" * 100


@dataclass
class Echo:
    """Says again what it hears, and keeps it."""

    heard: bytes = b""
    pieces: list[int] = field(default_factory=list)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                self.heard += data
                self.pieces.append(len(data))
                writer.write(data)
        await closed(writer)


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


@asynccontextmanager
async def line(echo: Echo) -> AsyncIterator[tuple[Proxy, asyncio.StreamReader, asyncio.StreamWriter]]:
    async with await asyncio.start_server(echo, LOOPBACK, 0) as server:
        proxy = Proxy(server.sockets[0].getsockname()[1])
        await proxy.mend()
        reader, writer = await asyncio.open_connection(LOOPBACK, proxy.port)
        try:
            yield proxy, reader, writer
        finally:
            await closed(writer)
            await proxy.cut()
            await asyncio.sleep(0.01)  # the other ends notice


async def told(reader: asyncio.StreamReader, within: float = 5.0) -> bytes:
    """All of it, or what came in time."""
    found = b""
    try:
        async with asyncio.timeout(within):
            while len(found) < len(SAID) and (data := await reader.read(65536)):
                found += data
    except TimeoutError:
        pass
    return found


async def test_a_good_line_changes_nothing() -> None:
    async with line(Echo()) as (_, reader, writer):
        writer.write(SAID)
        assert await told(reader) == SAID


@pytest.mark.parametrize(("how", "heard"), [("stalled", b""), ("mute", b""), ("deaf", SAID)])
async def test_a_dead_line_passes_all_once_it_is_mended(how: str, heard: bytes) -> None:
    echo = Echo()
    async with line(echo) as (proxy, reader, writer):
        setattr(proxy, how, True)
        writer.write(SAID)
        assert await told(reader, within=0.2) == b""
        assert echo.heard == heard
        await proxy.mend()
        assert await told(reader) == SAID


async def test_a_line_that_breaks_passes_so_many_bytes_and_no_more() -> None:
    echo = Echo()
    async with line(echo) as (proxy, reader, writer):
        proxy.breaks_after = 1000
        writer.write(SAID)
        with suppress(ConnectionError):
            while await reader.read(65536):
                pass
        assert echo.heard == SAID[:1000]


async def test_a_sliced_line_passes_tiny_pieces() -> None:
    echo = Echo()
    async with line(echo) as (proxy, reader, writer):
        proxy.piece = 32
        writer.write(b"first")
        await reader.read(5)
        echo.pieces.clear()
        writer.write(SAID)
        assert await told(reader) == SAID
        assert len(echo.pieces) > len(SAID) / 32 / 4


async def test_a_slow_line_takes_its_time() -> None:
    async with line(Echo()) as (proxy, reader, writer):
        proxy.rate = 10_000
        begun = asyncio.get_running_loop().time()
        writer.write(SAID)
        assert await told(reader) == SAID
        assert asyncio.get_running_loop().time() - begun > 2 * len(SAID) / 10_000 * 0.9


async def test_a_cut_line_takes_nobody_until_it_is_mended() -> None:
    async with line(Echo()) as (proxy, *_):
        await proxy.cut()
        with pytest.raises(ConnectionError):
            await asyncio.open_connection(LOOPBACK, proxy.port)
        await proxy.mend()
        _, again = await asyncio.open_connection(LOOPBACK, proxy.port)
        await closed(again)
