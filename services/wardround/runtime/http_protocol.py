"""HTTP/1.1 with bounds: how many connections there are, and how long each may take to ask and to take its answer."""

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from socket import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

CONNECTIONS = 256
ASKS_WITHIN = 10.0  # seconds for a whole request, from the connection or from the answer before
TAKES_WITHIN = 30.0  # seconds for which a client may leave unread what it asked for
SHAKES_HANDS_WITHIN = 5.0
SAYS_GOODBYE_WITHIN = 0.5
KEEP_ALIVE = 5
DRAINS_WITHIN = 5
HEADERS_AT_MOST = 16 * 1024


class BoundedProtocol(H11Protocol):
    """uvicorn's protocol, which by itself waits for ever for a client that sends or reads nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._asks: asyncio.TimerHandle | None = None
        self._takes: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            transport.abort()
        else:
            self._wait_for_a_request()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait_for_a_request()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._stop_waiting()
        self._wait_for_a_request()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._takes = self._takes or self.loop.call_later(TAKES_WITHIN, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._taken()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._taken()
        super().connection_lost(exc)

    def _wait_for_a_request(self) -> None:
        """Until one is whole the clock runs on, however much of it dribbles in."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
        elif self._asks is None:
            self._asks = self.loop.call_later(ASKS_WITHIN, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._asks is not None:
            self._asks.cancel()
            self._asks = None

    def _taken(self) -> None:
        if self._takes is not None:
            self._takes.cancel()
            self._takes = None


class BoundedServer(uvicorn.Server):
    """Serves `app` on a socket that is bound already, and leaves the process's signals and logs alone."""

    def __init__(self, app: Any, *, encrypted: ssl.SSLContext | None) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=BoundedProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="critical",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=DRAINS_WITHIN,
                h11_max_incomplete_event_size=HEADERS_AT_MOST,
            )
        )
        self._encrypted = encrypted

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """As uvicorn's own, but for bounds on how long a handshake and a parting may take (asyncio's: 60 s, 30 s)."""
        loop = asyncio.get_running_loop()
        encrypted = self._encrypted is not None
        self.servers = [
            await loop.create_server(
                self._protocol,
                sock=each,
                ssl=self._encrypted,
                ssl_handshake_timeout=SHAKES_HANDS_WITHIN if encrypted else None,
                ssl_shutdown_timeout=SAYS_GOODBYE_WITHIN if encrypted else None,
            )
            for each in sockets or ()
        ]
        self.started = True

    async def serve_until_cancelled(self, listening: socket, *, closing: asyncio.Event) -> None:
        """Answer on a socket that listens already. Once cancelled, set `closing`, finish what was begun within seconds,
        and close the socket."""
        serving = asyncio.create_task(self.serve(sockets=[listening]), name="http")
        try:
            await asyncio.shield(serving)
        finally:
            closing.set()
            self.should_exit = True
            try:
                with suppress(TimeoutError):
                    async with asyncio.timeout(DRAINS_WITHIN + 1):
                        await asyncio.wait({serving})
            finally:
                self.drop_all()
                serving.cancel()
                await asyncio.wait({serving})
            listening.close()

    def drop_all(self) -> None:
        """Cut the connections that are left, whatever is still on its way over them."""
        for connection in tuple(self.server_state.connections):
            connection.transport.abort()

    def _protocol(self) -> asyncio.Protocol:
        return BoundedProtocol(config=self.config, server_state=self.server_state, app_state={})
