"""An Airflow that says what a test wants it to say: its REST interface over real HTTP, and behind it nothing but runs
that come to the states they are told to."""

import asyncio
import base64
import json
import socket
import ssl
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import trustme
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

PASSWORD = "hush-airflow"
Answer = Callable[[Request], Awaitable[Response]]


def says(content: Any, status: int = 200, **headers: str) -> Answer:
    """The same answer for everybody: text as HTML, all else as JSON."""

    async def answer(request: Request) -> Response:
        if isinstance(content, str):
            return Response(content, status, headers, media_type="text/html")
        return JSONResponse(content, status, headers)

    return answer


def token(name: str, *, lives: float = 86_400) -> str:
    claims = base64.urlsafe_b64encode(json.dumps({"iat": 1000, "exp": 1000 + lives}).encode()).decode().rstrip("=")
    return f"{name}.{claims}.signature"


@dataclass
class Run:
    id: str
    under: str  # the DAG
    conf: dict[str, Any]
    states: list[str]  # the last of which stays
    queued_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat())
    note: str | None = None

    def state(self) -> str:
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]

    def seen(self, state: str) -> dict[str, Any]:
        return {
            "dag_run_id": self.id,
            "state": state,
            "conf": self.conf,
            "queued_at": self.queued_at,
            "note": self.note,
        }


@dataclass
class ScriptedAirflow:
    """`next["POST /clear"]` are answers to give before the honest ones, by method and the end of the path."""

    port: int = 0
    states: tuple[str, ...] = ("queued", "running", "success")
    tokens: list[str] = field(default_factory=lambda: [token(f"token-{number}") for number in range(10)])
    dags: dict[str, dict[str, Any]] = field(default_factory=lambda: {"wardround_task": {"is_paused": False}})
    broken: list[str] = field(default_factory=list)
    tasks: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    reason: object = None
    runs: dict[str, Run] = field(default_factory=dict)
    next: defaultdict[str, deque[Answer]] = field(default_factory=lambda: defaultdict(deque))
    heard: list[str] = field(default_factory=list)
    authorisations: list[str | None] = field(default_factory=list)
    queries: list[dict[str, str]] = field(default_factory=list)
    logins: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def answer(self, request: Request) -> Response:
        what = f"{request.method} /{request.url.path.rpartition('/')[2]}"
        self.heard.append(what)
        self.authorisations.append(request.headers.get("Authorization"))
        self.queries.append(dict(request.query_params))
        said = await (self.next[what].popleft() if self.next[what] else self.honestly)(request)
        said.headers.setdefault("Date", format_datetime(datetime.now(UTC), usegmt=True))
        return said

    async def honestly(self, request: Request) -> Response:
        path = request.url.path.removeprefix("/api/v2")
        body = json.loads(await request.body() or b"null")
        if path == "/auth/token":
            return self._log_in(body)
        if request.headers.get("Authorization") != f"Bearer {self.tokens[self.logins - 1]}":
            return JSONResponse({"detail": "Token Expired"}, 401)
        match [request.method, *path.split("/")[1:]]:
            case ["GET", "importErrors"]:
                return JSONResponse({"import_errors": [{"filename": each} for each in self.broken]})
            case ["GET", "eventLogs"]:
                return JSONResponse({"event_logs": self.events})
            case ["GET", "dags", name]:
                return JSONResponse(self.dags[name]) if name in self.dags else _absent()
            case ["POST", "dags", dag, "dagRuns"]:
                return self._start(dag, body)
            case [method, "dags", dag, "dagRuns", name, *rest]:
                return self._of_run(method, dag, name, rest, body)
        return _absent()

    def _log_in(self, body: Any) -> Response:
        if body["password"] != PASSWORD:
            return JSONResponse({"detail": "Invalid credentials"}, 401)
        self.logins += 1
        return JSONResponse({"access_token": self.tokens[self.logins - 1]}, 201)

    def _start(self, dag: str, body: Any) -> Response:
        name = body["dag_run_id"]
        if (run := self.runs.get(name)) is not None and run.under == dag:
            return JSONResponse({"detail": {"reason": "Unique constraint violation"}}, 409)
        run = self.runs[name] = Run(name, dag, body["conf"], list(self.states))
        return JSONResponse(run.seen("queued"))

    def _of_run(self, method: str, dag: str, name: str, rest: list[str], body: Any) -> Response:
        if (run := self.runs.get(name)) is None or run.under != dag:
            return _absent()
        match [method, *rest]:
            case ["GET"]:
                return JSONResponse(run.seen(run.states[0]))
            case ["PATCH"]:
                run.states, run.note = [body["state"]], body["note"]
                self.tasks = [_ended(task) for task in self.tasks]
                return JSONResponse(run.seen("failed"))
            case ["POST", "clear"]:
                run.states, run.note, run.queued_at = list(self.states), None, datetime.now(UTC).isoformat()
                return JSONResponse(run.seen("queued"))
            case ["GET", "wait"]:
                return StreamingResponse(self._states_of(run))
            case ["GET", "taskInstances"]:
                return JSONResponse({"task_instances": self.tasks})
            case ["GET", "taskInstances", _, "xcomEntries", "reason"]:
                return _absent() if self.reason is None else JSONResponse({"value": self.reason})
        return _absent()

    async def _states_of(self, run: Run) -> AsyncIterator[str]:
        while True:
            yield json.dumps({"state": (state := run.state())}) + "\n"
            if state in ("success", "failed"):
                return
            await asyncio.sleep(0.01)


def _ended(task: dict[str, Any]) -> dict[str, Any]:
    over = {"running": "failed", "success": "success", "failed": "failed"}
    return {**task, "state": over.get(task["state"], "skipped")}


def _absent() -> Response:
    return JSONResponse({"detail": "was not found"}, 404)


@asynccontextmanager
async def serving(app: Answer, *, certificate: trustme.LeafCert | None = None) -> AsyncIterator[int]:
    """The port of a server that answers so whatever is asked, with TLS where it has a certificate."""
    listening = socket.create_server(("127.0.0.1", 0))
    routes = [Route("/{path:path}", app, methods=["GET", "POST", "PATCH"])]
    config = uvicorn.Config(Starlette(routes=routes), lifespan="off", log_config=None, date_header=False)
    config.load()
    if certificate is not None:
        config.ssl = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(config.ssl)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        await task
        listening.close()
