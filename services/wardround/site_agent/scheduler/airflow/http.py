"""HTTP to a clinic's Airflow, as its agent's login: bounded, never redirected, and failures as the port names them."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, ValidationError

from wardround.runtime.logging import printable
from wardround.site_agent.scheduler.airflow.login import Login, login_refused
from wardround.site_agent.scheduler.airflow.said import Method
from wardround.site_agent.scheduler.port import SchedulerError, SchedulerUnavailableError

CONNECTS_WITHIN = 5.0
ANSWERS_WITHIN = 30.0  # seconds, for a whole answer; of a stream, for its beginning and between two pieces of it
ANSWER_AT_MOST = 4 * 2**20
DETAIL_AT_MOST = 200
PAUSE_AT_MOST = 60.0  # seconds that Airflow may ask for

UNAUTHORISED, FORBIDDEN, ABSENT, CONFLICT, TOO_SLOW, TOO_EARLY, TOO_MANY = 401, 403, 404, 409, 408, 425, 429

Query = Mapping[str, str | int | float | Sequence[str]]


class AbsentError(SchedulerError):
    """Airflow knows of no such thing."""


class ConflictError(SchedulerError):
    """Airflow has something of this name already."""


class AirflowHttp:
    """Calls to what lies below `url`."""

    def __init__(self, url: str, *, username: str, password: Callable[[], str], ca: Path | None = None) -> None:
        """`password` is called at each login. `ca` takes the place of the system's authorities."""
        self._url = url.rstrip("/")
        self._username = username
        self._login = Login(self._log_in, password=password)
        self._client = httpx.AsyncClient(
            verify=ssl.create_default_context(cafile=ca) if urlsplit(url).scheme == "https" else False,
            follow_redirects=False,  # the token would go with it
            trust_env=False,
            timeout=httpx.Timeout(ANSWERS_WITHIN, connect=CONNECTS_WITHIN),
            limits=httpx.Limits(max_connections=None),  # each run that is waited for holds one
            # What comes compressed may be a thousand times as large.
            headers={"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "wardround-site-agent"},
        )

    async def call(
        self, method: Method, path: str, *, query: Query | None = None, body: Mapping[str, object] | None = None
    ) -> bytes:
        """The body of a successful answer; raises what `answer` raises."""
        async with self.answer(method, path, query=query, body=body) as answer:
            return await read(answer)

    @asynccontextmanager
    async def answer(
        self, method: Method, path: str, *, query: Query | None = None, body: Mapping[str, object] | None = None
    ) -> AsyncIterator[httpx.Response]:
        """A successful answer whose body is still to be read.

        Raises:
            SchedulerError: `airflow_login`, `airflow_forbidden`, `airflow_redirect`, and for all other refusals
                `airflow_refused`, of which `AbsentError` and `ConflictError` are two.
            SchedulerUnavailableError: Airflow is away, busy or broken, or something else answers in its place.
        """
        token = await self._login.token()
        answer = await self._send(method, path, query, body, token)
        # Airflow answers 401 to a token that expired, and 403 to one that was signed with a key it has no more.
        try:
            if answer.status_code in (UNAUTHORISED, FORBIDDEN):
                forbidden = answer.status_code == FORBIDDEN
                if (another := await self._login.renewed(token, forbidden=forbidden)) is not None:
                    await answer.aclose()
                    answer = await self._send(method, path, query, body, another)
            await _check(answer)
            yield answer
        finally:
            await answer.aclose()

    async def close(self) -> None:
        await self._client.aclose()

    async def _log_in(self, password: str) -> bytes:
        login = {"username": self._username, "password": password}
        answer = await self._send("POST", "/auth/token", None, login, None)
        try:
            if answer.status_code in (400, UNAUTHORISED, FORBIDDEN):
                raise login_refused()
            await _check(answer)
            return await read(answer)
        finally:
            await answer.aclose()

    async def _send(
        self, method: Method, path: str, query: Query | None, body: Mapping[str, object] | None, token: str | None
    ) -> httpx.Response:
        authorisation = {} if token is None else {"Authorization": f"Bearer {token}"}
        request = self._client.build_request(method, self._url + path, params=query, json=body, headers=authorisation)
        try:
            async with asyncio.timeout(ANSWERS_WITHIN):
                return await self._client.send(request, stream=True)
        except (httpx.HTTPError, OSError) as error:  # also TimeoutError
            raise _away(error) from None


async def read(answer: httpx.Response) -> bytes:
    """The body, unless it is larger than any of Airflow's answers that matter here.

    Raises:
        SchedulerUnavailableError: it is larger, or did not come whole.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(ANSWERS_WITHIN):
            async for piece in answer.aiter_raw():
                body += piece
                if len(body) > ANSWER_AT_MOST:
                    raise SchedulerUnavailableError(f"an answer of more than {ANSWER_AT_MOST} bytes")
    except (httpx.HTTPError, OSError) as error:
        raise _away(error) from None
    return bytes(body)


def answered_at(answer: httpx.Response) -> datetime | None:
    """The time by the clock at the other end, in whole seconds; None where it is not told."""
    try:
        at = parsedate_to_datetime(answer.headers.get("Date", ""))
    except ValueError:
        return None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def _away(error: Exception) -> SchedulerUnavailableError:
    # Of what the other side said nothing is told: it may hold what it was sent, such as the password.
    ours = isinstance(error, httpx.ConnectError)
    words = f"{type(error).__name__}: {printable(str(error))}" if ours else type(error).__name__
    return SchedulerUnavailableError(words[:DETAIL_AT_MOST])


# --- what an answer's status means -----------------------------------------------------------------------------------


class _Detail(BaseModel):
    """Where it is no text it repeats what was sent, and is left alone."""

    detail: str


async def _check(answer: httpx.Response) -> None:
    """Raises the error that the status stands for; where Airflow asks for a pause, after it."""
    status = answer.status_code
    if answer.is_success:
        return
    if answer.is_redirect or 300 <= status < 400:
        raise SchedulerError(
            "airflow_redirect",
            f"the address of Airflow sends on to {_host(answer)}, where the agent's login never goes: "
            "give scheduler.url as Airflow itself is reached",
        )
    if status in (TOO_SLOW, TOO_EARLY, TOO_MANY) or status >= 500:
        pause = answer.headers.get("Retry-After", "")
        await answer.aclose()
        if pause.isascii() and pause.isdigit():
            await asyncio.sleep(min(float(pause), PAUSE_AT_MOST))
        raise SchedulerUnavailableError(f"Airflow answers with status {status}")
    detail = await _detail(answer)
    match status:
        case 401:
            raise login_refused()
        case 403:
            raise SchedulerError(
                "airflow_forbidden", "Airflow forbids this to the agent's login: give it the right to run its DAG"
            )
        case 404:
            raise AbsentError("airflow_refused", detail)
        case 409:
            raise ConflictError("airflow_refused", detail)
    raise SchedulerError("airflow_refused", detail)


async def _detail(answer: httpx.Response) -> str:
    words = ""
    with suppress(ValidationError, SchedulerUnavailableError):
        words = f": {printable(_Detail.model_validate_json(await read(answer)).detail)}"
    return f"Airflow refuses with status {answer.status_code}{words[:DETAIL_AT_MOST]}"


def _host(answer: httpx.Response) -> str:
    """Where a redirect leads, without what may be secret in it."""
    try:
        return printable(urlsplit(answer.headers.get("Location", "")).hostname or "another page")[:DETAIL_AT_MOST]
    except ValueError:
        return "an address that is none"
