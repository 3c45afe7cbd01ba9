"""How people at the clinic reach the running agent: HTTP on the Unix socket `agent.sock` beside its inbox.

Whoever may connect is the agent's own user, or root: the socket's mode says so, and there is no other login.
"""

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import structlog
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from wardround import __version__
from wardround.runtime.http import CannotListenError
from wardround.runtime.http_guard import refusal
from wardround.runtime.http_protocol import ASKS_WITHIN, BoundedServer
from wardround.site_agent.agent_socket import Word, reachable
from wardround.site_agent.duty import Duty
from wardround.site_agent.hand import Hand
from wardround.site_agent.judgement import RefusedError
from wardround_messages.codec import what_is_wrong
from wardround_messages.names import EXPERIMENT_MAX, is_id
from wardround_messages.objects import Consent

log = structlog.get_logger()

BODY_AT_MOST = 8 * 1024
LENGTH_AT_MOST = 20  # digits, of a length that is said
BACKLOG = 16
DECIDES_WITHIN = 20.0  # seconds, where trainers must be listed first
HEEDS_EVERY = 1.0  # seconds until a `stopped.json` that was written without the agent is noticed

Decide = Callable[..., Awaitable[tuple[Consent, ...]]]


class Control:
    """Answers on the socket, and heeds `stopped.json`, as long as the agent is on duty."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def __call__(self, duty: Duty) -> None:
        """Serve until cancelled. Raises `CannotListenError`: something else is where the socket should be."""
        with _listening(self._path) as listening:
            async with _beside(_heeding(duty)):
                server = BoundedServer(_Bounded(_pages(duty)), encrypted=None)
                log.info("door_open", path=str(self._path))
                await server.serve_until_cancelled(listening, closing=asyncio.Event())


async def _heeding(duty: Duty) -> None:
    while True:
        await asyncio.sleep(HEEDS_EVERY)
        try:
            duty.heed()
        except Exception:
            log.exception("not_heeded")


@asynccontextmanager
async def _beside(work: Awaitable[None]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    """The socket, which only its owner may connect to, from the first moment on; gone at the end.

    The agent holds its inbox, so what lies there was left by one that was killed.
    """
    _clear(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        before = os.umask(0o177)
        try:
            with reachable(path) as name:
                listening.bind(name)
        except OSError as error:
            raise CannotListenError(f"{path}: cannot listen there: {error.strerror}") from None
        finally:
            os.umask(before)
        listening.listen(BACKLOG)
        listening.setblocking(False)
        try:
            yield listening
        finally:
            path.unlink(missing_ok=True)


def _clear(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise CannotListenError(f"{path} is in the way of the agent's socket: move it elsewhere")
    except FileNotFoundError:
        return
    path.unlink()


# --- pages -----------------------------------------------------------------------------------------------------------


def _pages(duty: Duty) -> Starlette:
    async def state(_: Request) -> JSONResponse:
        return JSONResponse(_state(duty))

    async def stop(request: Request) -> JSONResponse:
        word = await _word(request)
        over = await duty.stop(by=word.by, reason=word.reason)
        ended = [str(task) for task, is_over in over.items() if is_over]
        left = [str(task) for task, is_over in over.items() if not is_over]
        return JSONResponse(_state(duty) | {"ended": ended, "still_stopping": left})

    async def resume(request: Request) -> JSONResponse:
        word = await _word(request)
        await duty.resume(by=word.by, reason=word.reason)
        return JSONResponse(_state(duty))

    def decision(decide: Decide) -> Callable[[Request], Awaitable[JSONResponse]]:
        async def page(request: Request) -> JSONResponse:
            experiment = request.path_params["experiment"]
            if not is_id(experiment, EXPERIMENT_MAX):
                return refusal(400, "experiment", "this cannot be the id of an experiment")
            word = await _word(request)
            try:
                async with asyncio.timeout(DECIDES_WITHIN):
                    given = await decide(experiment, by=word.by, reason=word.reason)
            except RefusedError as error:
                return refusal(409, error.code, error.reason)
            except TimeoutError:
                return refusal(503, "not_decided", duty.trouble or f"not decided within {DECIDES_WITHIN:g} s")
            return JSONResponse(
                {"trouble": duty.trouble, "consents": [consent.model_dump(mode="json") for consent in given]}
            )

        return page

    decisions = {"approve": duty.approve, "refuse": duty.refuse, "withdraw": duty.withdraw}
    return Starlette(
        routes=[
            Route("/state", state, methods=["GET"]),
            Route("/stop", stop, methods=["POST"]),
            Route("/resume", resume, methods=["POST"]),
            *(
                Route(f"/experiments/{{experiment}}/{name}", decision(decide), methods=["POST"])
                for name, decide in decisions.items()
            ),
        ],
        exception_handlers={_BadWordError: _bad_word, OSError: _not_kept},
    )


def _state(duty: Duty) -> dict[str, object]:
    stopped = duty.stopped
    return {
        "site": duty.site_name,
        "version": __version__,
        "pid": os.getpid(),
        "stopped": None if stopped is None else stopped.model_dump(mode="json"),
        "trouble": duty.trouble,
        "waits_for": duty.waits_for,
        "at_most": duty.at_most,
        "tasks": [
            {"task": str(hand.start.task_id), "phase": hand.phase, "transfer": _transfer(hand)} for hand in duty.tasks
        ],
    }


def _transfer(hand: Hand) -> dict[str, object] | None:
    passage = hand.passage
    if passage is None:
        return None
    return {"done": passage.done, "of": passage.size, "per_second": passage.speed()}


class _BadWordError(Exception):
    """The body is not what a person's word is sent as."""


async def _word(request: Request) -> Word:
    try:
        async with asyncio.timeout(ASKS_WITHIN):
            return Word.model_validate_json(await request.body())
    except TimeoutError:
        raise _BadWordError(f"it did not come within {ASKS_WITHIN:g} s") from None
    except ValidationError as error:
        raise _BadWordError(what_is_wrong(error)) from None


async def _bad_word(_: Request, error: Exception) -> JSONResponse:
    return refusal(400, "body", str(error))


async def _not_kept(_: Request, error: Exception) -> JSONResponse:
    log.error("not_kept", error=repr(error))
    what = error.strerror if isinstance(error, OSError) else None
    return refusal(507, "not_kept", f"it cannot be written down here: {what or error}")


class _Bounded:
    """Lets a request with a body of a known, small size through; a fault ends that request alone."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        page = self._app if _is_bounded(scope) else refusal(413, "body", f"a body has at most {BODY_AT_MOST} bytes")
        try:
            await page(scope, receive, send)
        except Exception:
            log.exception("request_failed", path=ascii(scope["path"][:200]))


def _is_bounded(scope: Scope) -> bool:
    headers: dict[bytes, bytes] = dict(scope["headers"])
    length = headers.get(b"content-length", b"0")
    if b"transfer-encoding" in headers or len(length) > LENGTH_AT_MOST or not length.isdigit():
        return False
    return int(length) <= BODY_AT_MOST
