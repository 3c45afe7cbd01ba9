"""What is asked of every HTTP request before a page sees it: a bounded GET or HEAD, by somebody who may ask."""

from hmac import compare_digest

import structlog
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from wardround.runtime.http_protocol import HEADERS_AT_MOST
from wardround.runtime.store.port import StoreUnavailableError

OPEN_TO_ALL = frozenset({"/health", "/ready"})
METHODS = ("GET", "HEAD")
TARGET_AT_MOST = 4 * 1024

log = structlog.get_logger()


class Guard:
    """Lets a request through to `app`, or refuses it; a fault in `app` is logged and ends that request alone."""

    def __init__(self, app: ASGIApp, *, token: str | None) -> None:
        self._app = app
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        page = self._refusal(scope) or self._app
        try:
            await page(scope, receive, send)
        except (ClientDisconnect, TimeoutError, StoreUnavailableError) as error:
            log.info("request_given_up", path=ascii(scope["path"][:200]), error=repr(error))
        except Exception:
            log.exception("request_failed", path=ascii(scope["path"][:200]))

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        if scope["method"] not in METHODS:
            return refusal(405, "method", "only GET and HEAD are answered", {"Allow": ", ".join(METHODS)})
        if len(scope["raw_path"]) + len(scope["query_string"]) > TARGET_AT_MOST:
            return refusal(414, "too_long", f"the address has more than {TARGET_AT_MOST} bytes")
        if sum(len(name) + len(value) for name, value in headers) > HEADERS_AT_MOST:
            return refusal(431, "too_long", f"the headers have more than {HEADERS_AT_MOST} bytes")
        if any(
            name == b"transfer-encoding" or (name == b"content-length" and value != b"0") for name, value in headers
        ):
            return refusal(413, "body", "a request has no body here")
        if self._token is not None and scope["path"] not in OPEN_TO_ALL and not self._knows_the_token(headers):
            return refusal(
                401, "token", "this page needs the token: Authorization: Bearer ...", {"WWW-Authenticate": "Bearer"}
            )
        return None

    def _knows_the_token(self, headers: list[tuple[bytes, bytes]]) -> bool:
        given = [value for name, value in headers if name == b"authorization"]
        if len(given) != 1 or self._token is None:
            return False
        scheme, _, token = given[0].partition(b" ")
        return scheme.lower() == b"bearer" and compare_digest(token.strip(), self._token)


def refusal(status: int, code: str, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """The answer to a request that is not carried out. The connection ends, with all that still comes over it."""
    return JSONResponse(
        {"error": code, "detail": detail}, status_code=status, headers={"Connection": "close", **(headers or {})}
    )
