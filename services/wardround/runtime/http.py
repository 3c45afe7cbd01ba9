"""What every service answers over HTTP: that it works, whether it is ready, and its figures."""

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from wardround import __version__
from wardround.runtime.http_guard import Guard
from wardround.runtime.http_protocol import BoundedServer
from wardround.runtime.http_settings import HttpSettings
from wardround.runtime.telemetry import process_figures

BACKLOG = 128
NEVER_KEPT = {"Cache-Control": "no-store"}

log = structlog.get_logger()


class EndpointError(Exception):
    """The service cannot answer HTTP as configured; the message names the key to change."""


class PortTakenError(EndpointError):
    """Something else listens on the port."""


class CannotListenError(EndpointError):
    """The host is not of this machine, or the port may not be used."""


class CertificateError(EndpointError):
    """Certificate and key cannot be read, or do not belong together."""


class Endpoint:
    """`/health`, `/ready`, `/metrics`, and the routes that a service adds.

    Args:
        checks: what must hold for the service to be ready, by name: each tells in words what is missing, or None.
            Anybody who reaches the port may read them.
        registry: what `/metrics` shows; figures of the process are added to it.
        routes: further pages. While the endpoint is closing, `request.app.state.closing`, an `asyncio.Event`, is set:
            an answer without an end must end then.
    """

    def __init__(
        self,
        settings: HttpSettings,
        *,
        service: str,
        checks: Mapping[str, Callable[[], str | None]],
        registry: CollectorRegistry,
        routes: Sequence[BaseRoute] = (),
    ) -> None:
        self._settings = settings
        self._service = service
        self._checks = checks
        self._concerns: dict[str, Callable[[], str | None]] = {}
        self._registry = registry
        self._socket: socket.socket | None = None
        self._port: int | None = None
        self._closing = asyncio.Event()
        self._app = Starlette(
            routes=[
                Route("/health", self._health),
                Route("/ready", self._ready),
                Route("/metrics", self._metrics),
                *routes,
            ]
        )
        self._app.state.closing = self._closing
        process_figures(registry, service=service, up=lambda: not self._missing())

    @property
    def port(self) -> int:
        """The port that is listened on; raises `RuntimeError` before there is one."""
        if self._port is None:
            raise RuntimeError("not listening yet")
        return self._port

    def add(
        self, routes: Sequence[BaseRoute], *, concerns: Mapping[str, Callable[[], str | None]] | None = None
    ) -> None:
        """Serve these pages, too, from here on; of these concerns `/health` tells, and they keep nothing from ready."""
        self._app.router.routes.extend(routes)
        self._concerns |= concerns or {}

    def bind(self) -> None:
        """Listen from here on; requests wait until `serve` runs. Raises `PortTakenError`, `CannotListenError`."""
        if self._socket is None:
            self._socket = _listening(self._settings.host, self._settings.port)
            self._port = self._socket.getsockname()[1]

    async def serve(self) -> None:
        """Answer until cancelled, then finish what was begun within seconds; streams without an end are ended.

        Raises:
            EndpointError: it cannot listen, or the certificate cannot be used.
            SecretUnreadableError: the token cannot be read.
        """
        token = None if self._settings.token is None else self._settings.token.read()
        encrypted = _encrypted(self._settings.certificate, self._settings.key)
        self.bind()
        assert self._socket is not None  # noqa: S101 - just bound
        server = BoundedServer(Guard(self._app, token=token), encrypted=encrypted)
        log.info("listening", host=self._settings.host, port=self.port, encrypted=encrypted is not None)
        await server.serve_until_cancelled(self._socket, closing=self._closing)

    def _missing(self) -> dict[str, str]:
        """What keeps the service from being ready, by the name of the check."""
        return _found(self._checks)

    # --- pages -------------------------------------------------------------------------------------------------------

    async def _health(self, _: Request) -> Response:
        amiss = [*self._missing().items(), *_found(self._concerns).items()]
        return JSONResponse(
            {
                "status": "degraded" if amiss else "ok",
                "service": self._service,
                "version": __version__,
                "detail": "; ".join(f"{name}: {what}" for name, what in amiss),
            },
            headers=NEVER_KEPT,
        )

    async def _ready(self, _: Request) -> Response:
        missing = self._missing()
        return JSONResponse(
            {"status": "not ready" if missing else "ready", "service": self._service, "missing": missing},
            status_code=503 if missing else 200,
            headers=NEVER_KEPT,
        )

    async def _metrics(self, request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self._registry), headers={**NEVER_KEPT, "Content-Type": content_type})


def _found(checks: Mapping[str, Callable[[], str | None]]) -> dict[str, str]:
    return {name: what for name, check in checks.items() if (what := check()) is not None}


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortTakenError(
                f"http.port: port {port} of {host} is taken: end what listens there, or set another port"
            ) from None
        raise CannotListenError(
            f"http.host: cannot listen on port {port} of {host}: {error.strerror or error}"
        ) from None


def _encrypted(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    if certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        # Without the callback OpenSSL would ask the terminal for the passphrase of an encrypted key.
        context.load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ValueError) as error:
        what = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        raise CertificateError(f"http.certificate: {certificate} and {key} cannot be used: {what}") from None
    return context
