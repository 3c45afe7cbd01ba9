"""Connections to an S3 server that ask before they send a large body, and that can be cut.

A server refuses an upload as soon as it has the headers, and closes. Whoever is still sending then sees a broken
connection, over TLS always, and not the reason. And a thread that waits for a hanging server would hold up a shutdown.
"""

import socket
import ssl
from contextlib import suppress
from http import HTTPStatus
from http.client import parse_headers
from typing import IO, Any, cast
from weakref import WeakSet

from urllib3 import HTTPConnectionPool, HTTPResponse, HTTPSConnectionPool, PoolManager, Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection

# Bodies are sent in blocks of this size (bytes), each of which must be gone within the connect timeout. The default of
# 16 KiB is as fast on loopback; 256 KiB and more were slower.
BLOCK = 128 * 1024
CONNECT_WITHIN = 10.0

# https://www.rfc-editor.org/rfc/rfc9110#name-expect
ASK_FIRST = {"Expect": "100-continue"}
GO_AHEAD_WITHIN = 1.0  # seconds; after that the body is sent: not every server knows to answer
LONGEST_LINE = 64 * 1024
LONGEST_REFUSAL = 64 * 1024


class EarlyAnswerError(Exception):
    """The server answered before it took the body, so it will not; `response` is its answer."""

    def __init__(self, response: HTTPResponse) -> None:
        super().__init__(f"answered {response.status} before the body")
        self.response = response


class _Asking:
    """Waits, after headers that say `Expect`, for the server's word; and remembers the socket of each connection."""

    sockets: WeakSet[socket.socket]
    sock: socket.socket | None
    asks = False

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        if self.sock is not None:
            self.sockets.add(self.sock)

    def putheader(self, header: str, *values: str) -> None:
        self.asks = self.asks or header in ASK_FIRST
        super().putheader(header, *values)  # type: ignore[misc]

    def endheaders(self, *args: Any, **kwargs: Any) -> None:
        super().endheaders(*args, **kwargs)  # type: ignore[misc]
        if self.asks and self.sock is not None:
            self.asks = False
            _await_word(self.sock)


def _await_word(sock: socket.socket) -> None:
    """Raises `EarlyAnswerError`, or `OSError` where the connection is closed."""
    usual = sock.gettimeout()
    # Without a buffer, which could take more from the socket than is read here.
    with cast("IO[bytes]", sock.makefile("rb", buffering=0)) as answer:
        try:
            sock.settimeout(GO_AHEAD_WITHIN)
            line = answer.readline(LONGEST_LINE)
        except TimeoutError:
            return
        finally:
            sock.settimeout(usual)
        _, _, rest = line.partition(b" ")
        if not line.startswith(b"HTTP/1.") or not rest[:3].isdigit():
            raise ConnectionError("the server closed the connection, or does not speak HTTP")
        headers = parse_headers(answer)
        status = int(rest[:3])
        if status == HTTPStatus.CONTINUE:
            return
        left = min(int(headers.get("content-length", 0)), LONGEST_REFUSAL)
        body = b""
        while len(body) < left and (part := answer.read(left - len(body))):
            body += part
    raise EarlyAnswerError(HTTPResponse(body, headers=dict(headers.items()), status=status))


class Connections(PoolManager):
    """A pool of keep-alive connections: no retries, no redirects, no proxies.

    Args:
        size: how many are kept.
        timeout: seconds to wait for the server's next byte.
        context: for https; its default trusts what the system trusts.
    """

    def __init__(self, *, size: int, timeout: float, context: ssl.SSLContext | None) -> None:
        limit = Timeout(connect=min(timeout, CONNECT_WITHIN), read=timeout)
        super().__init__(maxsize=size, retries=False, timeout=limit, blocksize=BLOCK, ssl_context=context)
        self._sockets: WeakSet[socket.socket] = WeakSet()
        remembered = {"sockets": self._sockets}
        plain = type("Plain", (_Asking, HTTPConnection), remembered)
        over_tls = type("OverTls", (_Asking, HTTPSConnection), remembered)
        self.pool_classes_by_scheme = {
            "http": type("PlainPool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
            "https": type("OverTlsPool", (HTTPSConnectionPool,), {"ConnectionCls": over_tls}),
        }

    def cut(self) -> None:
        """End every request that is in progress, from any thread."""
        for each in list(self._sockets):
            with suppress(OSError):
                # Not the method of a TLS socket, which would take the session from under the thread that reads.
                socket.socket.shutdown(each, socket.SHUT_RDWR)
