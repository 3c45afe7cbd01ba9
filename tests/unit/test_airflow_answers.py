"""What a clinic's agent makes of all that an Airflow may answer, and of what may answer in its place."""

import asyncio
import errno
import fcntl
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
import trustme
from airflow_scripted import PASSWORD, Answer, Run, ScriptedAirflow, says, serving, token
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from structlog.testing import capture_logs

from wardround.runtime import logging
from wardround.runtime.secrets import Secret
from wardround.site_agent.scheduler.airflow import http as airflow_http
from wardround.site_agent.scheduler.airflow import login as airflow_login
from wardround.site_agent.scheduler.airflow import runs as airflow_runs
from wardround.site_agent.scheduler.airflow import scheduler as airflow
from wardround.site_agent.scheduler.airflow.scheduler import AirflowScheduler
from wardround.site_agent.scheduler.port import (
    RunEnd,
    SchedulerError,
    SchedulerUnavailableError,
    UnknownRunError,
)
from wardround.site_agent.settings import Airflow
from wardround_messages.task_folder import JOB, LOCK, RESULT, STOPPED

pytestmark = pytest.mark.asyncio(loop_scope="module")

TASK = "counting.r000001.train.clinic-1.a01"
JOB_OF_TASK = {
    "experiment": "counting",
    "round": 1,
    "task": "train",
    "site": "clinic-1",
    "attempt": 1,
    "trainer": "adding",
    "parameters": {},
    "seed": 1,
    "epochs": 1,
    "optimizer_state": "reset",
    "deterministic": True,
    "data": {"name": "counting", "folders": ["/data"]},
    "model_sha256": "0" * 64,
}


@dataclass
class Stage:
    """A server, and who speaks there at present."""

    port: int = 0
    airflow: ScriptedAirflow = field(default_factory=ScriptedAirflow)

    async def answer(self, request: Request) -> Response:
        return await self.airflow.answer(request)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    """One server for all tests, as to start and to stop one costs more than most of them."""
    stage = Stage()
    async with serving(stage.answer) as stage.port:
        yield stage


@pytest.fixture
def server(stage: Stage) -> ScriptedAirflow:
    stage.airflow = ScriptedAirflow(stage.port)
    return stage.airflow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "spool" / TASK
    folder.mkdir(parents=True)
    (folder / JOB).write_text(json.dumps(JOB_OF_TASK))
    return folder


@pytest.fixture
def settings(server: ScriptedAirflow, tmp_path: Path) -> Airflow:
    password = tmp_path / "password"
    password.write_text(PASSWORD)
    password.chmod(0o600)
    return Airflow(
        kind="airflow", url=server.url, username="site-agent", password=Secret.model_validate({"file": str(password)})
    )


@pytest_asyncio.fixture(loop_scope="module")
async def scheduler(settings: Airflow, folder: Path) -> AsyncIterator[AirflowScheduler]:
    scheduler = AirflowScheduler(settings, folder.parent)
    yield scheduler
    await scheduler.close()


def adopted(
    server: ScriptedAirflow, *states: str, conf: dict[str, Any] | None = None, under: str = "wardround_task"
) -> Run:
    """A run that is there already."""
    run = server.runs[TASK] = Run(TASK, under, {"task": TASK} if conf is None else conf, list(states))
    return run


@asynccontextmanager
async def scheduling(settings: Airflow, folder: Path, **changed: object) -> AsyncIterator[AirflowScheduler]:
    """A scheduler with other settings, or one after a restart of the agent."""
    scheduler = AirflowScheduler(settings.model_copy(update=changed), folder.parent)
    try:
        yield scheduler
    finally:
        await scheduler.close()


@contextmanager
def held(lock: Path) -> Iterator[None]:
    """A training is at work."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def ago(seconds: float) -> str:
    """A time as Airflow tells it."""
    return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - the server makes it true
            await asyncio.sleep(0.01)


async def error_of(call: Any) -> SchedulerError:
    with pytest.raises(SchedulerError) as raised:
        await call
    assert PASSWORD not in str(raised.value)
    assert "token-" not in str(raised.value)
    return raised.value


# --- the login -------------------------------------------------------------------------------------------------------


async def test_one_login_serves_many_calls(server: ScriptedAirflow, scheduler: AirflowScheduler) -> None:
    await asyncio.gather(*(scheduler.cancel(TASK) for _ in range(5)))
    await scheduler.trigger(TASK)
    assert server.logins == 1


@pytest.mark.parametrize("status", [401, 403])
async def test_a_token_that_is_not_taken_any_more_is_renewed_once(
    server: ScriptedAirflow, scheduler: AirflowScheduler, status: int
) -> None:
    await scheduler.cancel(TASK)
    server.next[f"GET /{TASK}"].append(says({"detail": "Invalid JWT token"}, status))
    await scheduler.trigger(TASK)
    assert server.logins == 2
    assert server.authorisations[-1] == f"Bearer {server.tokens[1]}"


async def test_a_token_is_renewed_before_it_expires(server: ScriptedAirflow, scheduler: AirflowScheduler) -> None:
    server.tokens[0] = token("short", lives=0)
    await scheduler.cancel(TASK)
    await scheduler.cancel(TASK)
    assert server.logins == 2
    assert server.heard == ["POST /token", f"GET /{TASK}"] * 2


async def test_what_stays_forbidden_is_not_answered_by_a_login_each_time(
    server: ScriptedAirflow, scheduler: AirflowScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.next[f"GET /{TASK}"].extend([says({"detail": "Forbidden"}, 403)] * 100)
    for _ in range(5):
        assert (await error_of(scheduler.trigger(TASK))).code == "airflow_forbidden"
    assert server.logins == 2
    monkeypatch.setattr(airflow_login, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + 61))
    await error_of(scheduler.trigger(TASK))
    assert server.logins == 3


async def test_a_token_that_expired_is_renewed_however_young_it_is(
    server: ScriptedAirflow, scheduler: AirflowScheduler
) -> None:
    for refusal in (403, 401):
        server.next[f"GET /{TASK}"].append(says({"detail": "refused"}, refusal))
        await scheduler.trigger(TASK)
    assert server.logins == 3


async def test_a_token_that_was_replaced_is_searched_for_in_no_log(
    server: ScriptedAirflow, scheduler: AirflowScheduler
) -> None:
    before = len(logging._concealed)
    for _ in range(3):
        server.next[f"GET /{TASK}"].append(says({"detail": "Token Expired"}, 401))
        await scheduler.cancel(TASK)
    assert server.tokens[server.logins - 1] in logging._concealed
    assert not logging._concealed.intersection(server.tokens[: server.logins - 1])
    assert len(logging._concealed) <= before + 2  # the password


async def test_a_second_refusal_of_the_token_is_an_error(server: ScriptedAirflow, scheduler: AirflowScheduler) -> None:
    server.next[f"GET /{TASK}"].extend([says({"detail": "Token Expired"}, 401)] * 2)
    assert (await error_of(scheduler.trigger(TASK))).code == "airflow_login"
    assert server.heard.count(f"GET /{TASK}") == 2


async def test_a_wrong_password_is_an_error_that_does_not_show_it(
    server: ScriptedAirflow, settings: Airflow, scheduler: AirflowScheduler
) -> None:
    settings.password.file.write_text("hush-wrong")
    error = await error_of(scheduler.trigger(TASK))
    assert (error.code, "scheduler.password" in error.hint, "hush" in str(error)) == ("airflow_login", True, False)
    settings.password.file.write_text(PASSWORD)
    await scheduler.trigger(TASK)


async def test_a_password_that_cannot_be_read_is_an_error_without_a_path(
    settings: Airflow, scheduler: AirflowScheduler
) -> None:
    settings.password.file.unlink()
    error = await error_of(scheduler.trigger(TASK))
    assert (error.code, "/" in str(error)) == ("airflow_login", False)


@pytest.mark.parametrize("said", [{"access_token": "a\r\nX-Evil: 1"}, {"access_token": ""}, {}, [], "<html>"])
async def test_what_is_no_token_is_not_used(server: ScriptedAirflow, scheduler: AirflowScheduler, said: object) -> None:
    server.next["POST /token"].append(says(said, 201))
    with pytest.raises(SchedulerUnavailableError):
        await scheduler.trigger(TASK)
    assert server.heard == ["POST /token"]


async def test_without_the_right_to_run_the_dag_the_task_is_refused(
    server: ScriptedAirflow, scheduler: AirflowScheduler
) -> None:
    server.next["POST /dagRuns"].extend([says({"detail": "Forbidden"}, 403)] * 2)
    assert (await error_of(scheduler.trigger(TASK))).code == "airflow_forbidden"


# --- something else answers ------------------------------------------------------------------------------------------


async def test_a_training_goes_on_while_the_agent_may_not_look_at_it(
    server: ScriptedAirflow, scheduler: AirflowScheduler, folder: Path
) -> None:
    """As where somebody has changed its password or its role, and changes it back."""
    run = adopted(server, "running", "success")
    server.next["GET /wait"].extend([says({}, 403)] * 3)
    server.next[f"GET /{TASK}"].extend([says({}, 403)] * 3)
    with pytest.raises(SchedulerUnavailableError, match="airflow_forbidden"):
        await scheduler.wait(TASK)
    assert run.note is None
    server.next.clear()
    assert await scheduler.wait(TASK) == RunEnd(True)


@pytest.mark.parametrize("at", ["POST /token", f"GET /{TASK}", "POST /dagRuns"])
@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_an_error_and_the_other_host_hears_nothing(
    server: ScriptedAirflow, scheduler: AirflowScheduler, at: str, status: int
) -> None:
    heard: list[str | None] = []

    async def other(request: Request) -> Response:
        heard.append(request.headers.get("Authorization"))
        return Response()

    async with serving(other) as port:
        where = f"http://somebody:hush@localhost:{port}/?token=hush"
        server.next[at].append(says({}, status, location=where))
        error = await error_of(scheduler.trigger(TASK))
    assert error.code == "airflow_redirect"
    assert "localhost" in error.hint
    assert "hush" not in str(error)
    assert heard == []


async def _broken_off(request: Request) -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        yield b'{"state": '
        raise ConnectionError

    return StreamingResponse(pieces())


async def _huge(request: Request) -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield b" " * 2**20

    return StreamingResponse(pieces())


async def _gzipped(request: Request) -> Response:
    return Response(b"\x1f\x8b\x08\x00", headers={"content-encoding": "gzip"})


@pytest.mark.parametrize(
    "answer",
    [
        says({}, 500),
        says("<h1>Bad gateway</h1>", 502),
        says("<h1>Down for maintenance</h1>"),
        says({}, 429),
        says({}, 408),
        says({}),
        says([]),
        says({"state": 7}),
        _broken_off,
        _huge,
        _gzipped,
    ],
)
@pytest.mark.parametrize("call", ["trigger", "wait", "cancel"])
async def test_what_may_mend_by_itself_is_tried_again_later(
    server: ScriptedAirflow, scheduler: AirflowScheduler, answer: Answer, call: str
) -> None:
    server.next[f"GET /{TASK}"].append(answer)
    if call == "wait":
        server.next["GET /wait"].append(answer)
    with pytest.raises(SchedulerUnavailableError):
        await getattr(scheduler, call)(TASK)
    server.next.clear()
    await scheduler.trigger(TASK)
    assert (await scheduler.wait(TASK)).succeeded


async def test_an_answer_that_never_ends_is_given_up(
    server: ScriptedAirflow, scheduler: AirflowScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def trickle(request: Request) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            while True:
                yield b" "
                await asyncio.sleep(0.01)

        return StreamingResponse(pieces())

    await scheduler.cancel(TASK)
    monkeypatch.setattr(airflow_http, "ANSWERS_WITHIN", 0.1)
    server.next[f"GET /{TASK}"].append(trickle)
    with pytest.raises(SchedulerUnavailableError):
        await scheduler.trigger(TASK)


async def test_no_server_at_all_is_tried_again_later(settings: Airflow, folder: Path) -> None:
    scheduler = AirflowScheduler(settings.model_copy(update={"url": "http://127.0.0.1:9"}), folder.parent)
    with pytest.raises(SchedulerUnavailableError):
        await scheduler.trigger(TASK)
    await scheduler.close()


async def test_a_certificate_of_an_unknown_authority_is_not_trusted_and_that_of_the_own_is(
    settings: Airflow, folder: Path, tmp_path: Path
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    scripted = ScriptedAirflow()
    async with serving(scripted.answer, certificate=authority.issue_cert("127.0.0.1")) as port:
        https = settings.model_copy(update={"url": f"https://127.0.0.1:{port}"})
        for ca, trusted in (("other.pem", False), ("ca.pem", True)):
            scheduler = AirflowScheduler(https.model_copy(update={"ca": tmp_path / ca}), folder.parent)
            try:
                if trusted:
                    await scheduler.trigger(TASK)
                else:
                    with pytest.raises(SchedulerUnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
                        await scheduler.trigger(TASK)
            finally:
                await scheduler.close()
    assert TASK in scripted.runs


async def test_a_proxy_of_the_environment_is_not_used(
    scheduler: AirflowScheduler, settings: Airflow, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    scheduler = AirflowScheduler(settings, folder.parent)
    await scheduler.trigger(TASK)
    await scheduler.close()


async def test_where_airflow_asks_for_a_pause_it_is_made(
    server: ScriptedAirflow, scheduler: AirflowScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(airflow_http, "PAUSE_AT_MOST", 0.2)
    start = asyncio.get_running_loop().time()
    server.next[f"GET /{TASK}"].append(says({}, 429, **{"Retry-After": "3600"}))
    with pytest.raises(SchedulerUnavailableError):
        await scheduler.trigger(TASK)
    assert 0.2 <= asyncio.get_running_loop().time() - start < 2


async def test_any_other_refusal_is_told_in_airflows_words(
    server: ScriptedAirflow, scheduler: AirflowScheduler
) -> None:
    server.next["POST /dagRuns"].append(says({"detail": "does not allow\x1b[31m manual runs"}, 400))
    error = await error_of(scheduler.trigger(TASK))
    assert error.code == "airflow_refused"
    assert "manual runs" in error.hint
    assert "\x1b" not in error.hint


async def test_what_a_refusal_repeats_of_the_question_is_not_told(
    server: ScriptedAirflow, scheduler: AirflowScheduler
) -> None:
    server.next["POST /token"].append(says({"detail": [{"input": {"password": PASSWORD}}]}, 422))
    assert (await error_of(scheduler.trigger(TASK))).code == "airflow_refused"


# --- triggering ------------------------------------------------------------------------------------------------------


async def test_a_run_is_started_with_the_task_and_nothing_else(
    server: ScriptedAirflow, scheduler: AirflowScheduler
) -> None:
    bodies: list[Any] = []

    async def note(request: Request) -> Response:
        bodies.append(json.loads(await request.body()))
        return await server.honestly(request)

    server.next["POST /dagRuns"].append(note)
    await scheduler.trigger(TASK)
    (body,) = bodies
    due = body.pop("run_after")
    assert body == {"dag_run_id": TASK, "logical_date": None, "conf": {"task": TASK}}
    assert due.endswith("+00:00")


async def test_the_dag_is_that_of_the_trainer(server: ScriptedAirflow, settings: Airflow, folder: Path) -> None:
    server.dags["adding.v2"] = {"is_paused": False}
    async with scheduling(settings, folder, dags={"adding": "adding.v2"}) as scheduler:
        (folder / JOB).write_text(json.dumps({**JOB_OF_TASK, "trainer": "another"}))
        assert (await error_of(scheduler.trigger(TASK))).code == "dag_missing"
        (folder / JOB).write_text(json.dumps(JOB_OF_TASK))
        await scheduler.trigger(TASK)
    assert server.runs[TASK].under == "adding.v2"


@pytest.mark.parametrize("job", ["", "{}", json.dumps({**JOB_OF_TASK, "trainer": "../x"}), "[" * 100_000])
async def test_a_task_whose_job_cannot_be_read_is_not_triggered(
    server: ScriptedAirflow, scheduler: AirflowScheduler, folder: Path, job: str
) -> None:
    (folder / JOB).write_text(job)
    assert (await error_of(scheduler.trigger(TASK))).code == "no_folder"
    with pytest.raises(UnknownRunError):
        await scheduler.wait(TASK)
    await scheduler.cancel(TASK)
    assert server.runs == {}


@pytest.mark.parametrize("left", ["a folder", "nothing"])
async def test_a_folder_without_a_job_was_never_triggered(
    server: ScriptedAirflow, scheduler: AirflowScheduler, folder: Path, left: str
) -> None:
    (folder / JOB).unlink()
    if left == "nothing":
        folder.rmdir()
    assert (await error_of(scheduler.trigger(TASK))).code == "no_folder"
    with pytest.raises(UnknownRunError):
        await scheduler.wait(TASK)
    assert server.heard == []
    await scheduler.cancel(TASK)
    assert server.runs == {}


@pytest.mark.parametrize(
    ("dags", "broken", "code"),
    [
        ({}, [], "dag_missing"),
        ({}, ["another.py"], "dag_missing"),
        ({}, ["wardround_task.py"], "dag_import_error"),
        ({"wardround_task": {"is_paused": False, "is_stale": True, "relative_fileloc": "x.py"}}, [], "dag_missing"),
        (
            {"wardround_task": {"is_paused": False, "is_stale": True, "relative_fileloc": "x.py"}},
            ["x.py"],
            "dag_import_error",
        ),
        ({"wardround_task": {"is_paused": False, "has_import_errors": True}}, [], "dag_import_error"),
        ({"wardround_task": {"is_paused": True}}, [], "dag_paused"),
    ],
)
async def test_a_dag_that_would_not_run_is_refused_and_nothing_is_left_waiting(
    server: ScriptedAirflow, scheduler: AirflowScheduler, dags: dict[str, Any], broken: list[str], code: str
) -> None:
    server.dags, server.broken = dags, broken
    error = await error_of(scheduler.trigger(TASK))
    assert error.code == code
    assert "wardround_task" in error.hint
    assert server.runs == {}


async def test_a_missing_dag_is_missing_also_where_import_errors_may_not_be_read(
    server: ScriptedAirflow, scheduler: AirflowScheduler
) -> None:
    server.dags = {}
    server.next["GET /importErrors"].extend([says({"detail": "Forbidden"}, 403)] * 2)
    assert (await error_of(scheduler.trigger(TASK))).code == "dag_missing"


async def test_a_run_that_is_there_is_taken_also_where_its_dag_was_paused_since(
    server: ScriptedAirflow, scheduler: AirflowScheduler
) -> None:
    adopted(server, "running", "success")
    server.dags["wardround_task"]["is_paused"] = True
    await scheduler.trigger(TASK)
    assert (await scheduler.wait(TASK)).succeeded


@pytest.mark.parametrize("conf", [{"task": "another"}, {"task": TASK, "more": 1}, {}])
async def test_a_run_of_this_id_with_another_configuration_is_not_taken(
    server: ScriptedAirflow, scheduler: AirflowScheduler, conf: dict[str, Any]
) -> None:
    run = adopted(server, "running", conf=conf)
    assert (await error_of(scheduler.trigger(TASK))).code == "run_id_taken"
    assert run.states == ["running"]


@pytest.mark.parametrize(("conf", "code"), [({"task": TASK}, None), ({"task": "another"}, "run_id_taken")])
async def test_where_somebody_was_quicker_the_configuration_tells_whether_the_run_is_the_same(
    server: ScriptedAirflow, scheduler: AirflowScheduler, conf: dict[str, Any], code: str | None
) -> None:
    async def quicker(request: Request) -> Response:
        adopted(server, "running", conf=conf)
        return await server.honestly(request)

    server.next["POST /dagRuns"].append(quicker)
    if code is None:
        await scheduler.trigger(TASK)
    else:
        assert (await error_of(scheduler.trigger(TASK))).code == code


def unanswered(server: ScriptedAirflow) -> Answer:
    """Does what is asked, and answers that it could not."""

    async def answer(request: Request) -> Response:
        await server.honestly(request)
        return Response(status_code=504)

    return answer


@pytest.mark.parametrize("again", [True, False])
async def test_a_trigger_that_was_carried_out_unheard_is_not_repeated(
    server: ScriptedAirflow, scheduler: AirflowScheduler, again: bool
) -> None:
    server.states = ("failed",)  # over before it is asked for again
    server.next["POST /dagRuns"].append(unanswered(server))
    with pytest.raises(SchedulerUnavailableError):
        await scheduler.trigger(TASK, again=again)
    await scheduler.trigger(TASK, again=again)
    assert server.heard.count("POST /dagRuns") == 1
    assert server.heard.count("POST /clear") == 0


async def test_a_clear_that_was_carried_out_unheard_is_not_repeated(
    server: ScriptedAirflow, scheduler: AirflowScheduler, folder: Path
) -> None:
    adopted(server, "failed")
    server.states = ("failed",)
    server.next["POST /clear"].append(unanswered(server))
    with pytest.raises(SchedulerUnavailableError):
        await scheduler.trigger(TASK, again=True)
    (folder / RESULT).write_text("of the run that was begun unheard")
    await scheduler.trigger(TASK, again=True)
    assert server.heard.count("POST /clear") == 1
    assert (folder / RESULT).exists()
    await scheduler.trigger(TASK, again=True)  # another wish
    assert server.heard.count("POST /clear") == 2


async def test_a_clear_that_was_not_carried_out_is_repeated(
    server: ScriptedAirflow, scheduler: AirflowScheduler
) -> None:
    adopted(server, "failed")
    server.next["POST /clear"].append(says({}, 503))
    with pytest.raises(SchedulerUnavailableError):
        await scheduler.trigger(TASK, again=True)
    await scheduler.trigger(TASK, again=True)
    assert server.heard.count("POST /clear") == 2


@pytest.mark.parametrize("states", [("queued",), ("running",)])
async def test_again_leaves_alone_what_goes_on(
    server: ScriptedAirflow, scheduler: AirflowScheduler, folder: Path, states: tuple[str, ...]
) -> None:
    adopted(server, *states)
    (folder / RESULT).touch()
    await scheduler.trigger(TASK, again=True)
    assert "POST /clear" not in server.heard
    assert (folder / RESULT).exists()


async def test_a_run_begun_anew_finds_no_result_of_an_earlier_one(
    server: ScriptedAirflow, scheduler: AirflowScheduler, folder: Path
) -> None:
    adopted(server, "success")
    (folder / RESULT).touch()
    await scheduler.trigger(TASK, again=True)
    assert not (folder / RESULT).exists()


# --- waiting ---------------------------------------------------------------------------------------------------------


async def test_the_run_has_begun_when_its_training_is_at_work(
    server: ScriptedAirflow, scheduler: AirflowScheduler, folder: Path
) -> None:
    begun: list[str] = []
    run = adopted(server, "queued")
    (folder / LOCK).touch()  # of an earlier training
    waiting = asyncio.create_task(scheduler.wait(TASK, began=lambda: begun.append("begun")))
    await until(lambda: "GET /wait" in server.heard)
    run.states = ["running"]
    await asyncio.sleep(0.1)
    assert begun == []
    with held(folder / LOCK):
        await until(lambda: begun == ["begun"])
        assert server.heard == ["POST /token", "GET /wait"]  # it costs no call
        run.states = ["success"]
        assert await waiting == RunEnd(True)
    assert begun == ["begun"]


async def test_a_run_has_begun_also_where_its_training_takes_no_lock(
    server: ScriptedAirflow, scheduler: AirflowScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(airflow, "LOOKED_AFTER_EVERY", 0.05)
    begun: list[str] = []
    run = adopted(server, "running")
    server.tasks = [{"task_id": "train", "state": "running"}]
    waiting = asyncio.create_task(scheduler.wait(TASK, began=lambda: begun.append("begun")))
    await until(lambda: begun == ["begun"])
    run.states = ["success"]
    assert await waiting == RunEnd(True)


async def test_a_run_that_is_over_has_begun(server: ScriptedAirflow, scheduler: AirflowScheduler) -> None:
    begun: list[str] = []
    adopted(server, "success")
    await scheduler.wait(TASK, began=lambda: begun.append("begun"))
    assert begun == ["begun"]


@pytest.mark.parametrize(
    "answer",
    [
        _broken_off,
        _huge,
        says({"detail": "no such page"}, 404),
        says({}, 204),
    ],
)
async def test_a_stream_that_is_cut_or_not_there_is_made_up_for(
    server: ScriptedAirflow, scheduler: AirflowScheduler, answer: Answer
) -> None:
    adopted(server, "running", "running", "success")
    server.next["GET /wait"].extend([answer] * 2)
    assert await scheduler.wait(TASK) == RunEnd(True)


async def test_what_a_dag_returns_may_be_large(server: ScriptedAirflow, scheduler: AirflowScheduler) -> None:
    adopted(server, "success")
    server.next["GET /wait"].append(says({"state": "success", "results": {"train": "x" * 100_000}}))
    assert await scheduler.wait(TASK) == RunEnd(True)


async def test_a_run_that_was_deleted_is_unknown(server: ScriptedAirflow, scheduler: AirflowScheduler) -> None:
    adopted(server, "running")
    waiting = asyncio.create_task(scheduler.wait(TASK))
    await until(lambda: "GET /wait" in server.heard)
    server.next["GET /wait"].append(says({}, 404))
    run = server.runs.pop(TASK)
    run.states = ["failed"]  # ends the stream
    with pytest.raises(UnknownRunError):
        await waiting


async def test_a_run_that_somebody_lets_run_anew_at_its_end_is_waited_for(
    server: ScriptedAirflow, scheduler: AirflowScheduler
) -> None:
    run = adopted(server, "failed")

    async def anew(request: Request) -> Response:
        run.states = ["running", "success"]
        return await server.honestly(request)

    server.next[f"GET /{TASK}"].append(anew)
    assert await scheduler.wait(TASK) == RunEnd(True)


FAILED_TASK = {"task_id": "train", "map_index": -1, "state": "failed"}


def event(name: str, **extra: object) -> dict[str, Any]:
    return {"event": name, "extra": json.dumps(extra)}


@pytest.mark.parametrize(
    ("events", "reason", "code"),
    [
        ([], None, "crashed"),
        ([], "crashed: the training ended with exit code 3", "crashed"),
        ([], "killed: the training was ended by signal 9", "killed"),
        ([], "not_configured: set WARDROUND_PYTHON", "not_configured"),
        ([], "Traceback: ", "crashed"),
        ([], "no__code: words", "crashed"),
        ([], f"{'x' * 41}: words", "crashed"),
        ([], "x" * 100_000, "crashed"),
        ([], {"left": "by another DAG"}, "crashed"),
        ([], "x" * 5_000_000, "crashed"),
        ([], "cancelled: the training was stopped", "scheduler_lost"),
        ([event("patch_dag_run", state="failed")], "cancelled: the training was stopped", "cancelled"),
        ([event("patch_task_instance", new_state="failed")], None, "cancelled"),
        ([event("patch_dag_run", note="looks odd")], None, "crashed"),
        ([{"event": "patch_dag_run", "extra": "[1]"}, {"event": "patch_dag_run", "extra": None}], None, "crashed"),
        ([{"event": "heartbeat timeout", "extra": "Task did not emit heartbeat"}], None, "scheduler_lost"),
        ([{"event": "state mismatch", "extra": None}], None, "scheduler_lost"),
    ],
)
async def test_why_a_run_failed_is_told_apart(
    server: ScriptedAirflow, scheduler: AirflowScheduler, events: list[Any], reason: object, code: str
) -> None:
    run = adopted(server, "failed")
    server.tasks, server.events, server.reason = [FAILED_TASK], events, reason
    end = await scheduler.wait(TASK)
    assert (end.succeeded, end.code) == (False, code)
    assert end.hint
    asked = server.queries[server.heard.index("GET /eventLogs")]
    assert (asked["run_id"], asked["after"]) == (TASK, run.queued_at)


async def test_a_run_failed_also_where_the_reason_may_not_be_read(
    server: ScriptedAirflow, scheduler: AirflowScheduler
) -> None:
    adopted(server, "failed")
    server.next["GET /eventLogs"].extend([says({"detail": "Forbidden"}, 403)] * 2)
    assert (await scheduler.wait(TASK)).code == "crashed"


async def test_a_run_that_is_queued_for_too_long_is_ended_also_by_an_agent_that_was_restarted(
    server: ScriptedAirflow, settings: Airflow, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(airflow, "LOOKED_AFTER_EVERY", 0.05)
    run = adopted(server, "queued")
    run.queued_at = ago(3500)
    async with scheduling(settings, folder) as scheduler:
        waiting = asyncio.create_task(scheduler.wait(TASK))
        await until(lambda: server.heard.count("GET /taskInstances") > 2)
        waiting.cancel()
        await asyncio.wait({waiting})
    run.queued_at = ago(3700)
    async with scheduling(settings, folder) as restarted:
        error = await error_of(restarted.wait(TASK))
    assert error.code == "airflow_queued"
    assert "queued_at_most" in error.hint
    assert run.states == ["failed"]


async def test_a_run_whose_task_gets_no_slot_or_no_worker_is_ended_and_has_never_begun(
    server: ScriptedAirflow, settings: Airflow, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(airflow, "LOOKED_AFTER_EVERY", 0.05)
    begun: list[str] = []
    for state in ("scheduled", "queued", None):
        run = adopted(server, "running")
        run.queued_at = ago(3700)
        server.tasks = [{"task_id": "train", "state": state, "scheduled_when": ago(3690)}]
        async with scheduling(settings, folder) as scheduler:
            error = await error_of(scheduler.wait(TASK, began=lambda: begun.append("begun")))
        assert error.code == "airflow_queued"
        assert "pool" in error.hint
        assert run.states == ["failed"]
    assert begun == []


@pytest.mark.parametrize(
    "tasks",
    [
        [("scheduled", {"scheduled_when": -3000})],  # Airflow lost it, and lets it begin once more
        [("success", {"end_date": -1}), (None, {})],  # the next task of another DAG
        [("success", {"end_date": -3700})],  # nobody has told the run yet
        [("up_for_retry", {"end_date": -3700}), (None, {})],
        [("running", {"scheduled_when": -3700}), (None, {})],
    ],
)
async def test_a_run_that_waits_for_no_place_or_not_for_long_is_left_alone(
    server: ScriptedAirflow,
    scheduler: AirflowScheduler,
    monkeypatch: pytest.MonkeyPatch,
    tasks: list[tuple[str | None, dict[str, int]]],
) -> None:
    monkeypatch.setattr(airflow, "LOOKED_AFTER_EVERY", 0.05)
    run = adopted(server, "running")
    run.queued_at = ago(3800)
    server.tasks = [
        {"task_id": f"task-{number}", "state": state, **{name: ago(-since) for name, since in times.items()}}
        for number, (state, times) in enumerate(tasks)
    ]
    waiting = asyncio.create_task(scheduler.wait(TASK))
    await until(lambda: server.heard.count("GET /taskInstances") > 2)
    run.states = ["success"]
    assert await waiting == RunEnd(True)


async def test_airflow_counts_the_time_in_the_queue_by_its_own_clock(
    server: ScriptedAirflow, scheduler: AirflowScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(airflow, "LOOKED_AFTER_EVERY", 0.05)
    run = adopted(server, "queued")
    run.queued_at = "2020-01-01T12:00:00+00:00"
    soon, late = (says(run.seen("queued"), Date=f"Wed, 01 Jan 2020 {time} GMT") for time in ("12:59:59", "13:00:01"))
    server.next[f"GET /{TASK}"].extend([soon, soon, late])
    assert (await error_of(scheduler.wait(TASK))).code == "airflow_queued"
    assert not server.next[f"GET /{TASK}"]


@pytest.mark.parametrize("date", ["", "yesterday"])
async def test_where_airflow_tells_no_time_the_agent_counts_also_over_an_outage(
    server: ScriptedAirflow, settings: Airflow, folder: Path, monkeypatch: pytest.MonkeyPatch, date: str
) -> None:
    monkeypatch.setattr(airflow, "LOOKED_AFTER_EVERY", 0.05)
    seconds = 0.0
    clock = airflow._now
    monkeypatch.setattr(airflow, "_now", lambda: clock() + seconds)
    run = adopted(server, "queued")
    undated = says(run.seen("queued"), Date=date)
    async with scheduling(settings, folder) as scheduler:
        waiting = asyncio.create_task(scheduler.wait(TASK))
        server.next[f"GET /{TASK}"].extend([undated] * 2 + [says({}, 503)])
        with pytest.raises(SchedulerUnavailableError):
            await waiting
        seconds = 3601.0
        server.next[f"GET /{TASK}"].append(undated)
        assert (await error_of(scheduler.wait(TASK))).code == "airflow_queued"


async def test_a_training_that_airflow_lost_may_wait_as_long_as_any_other(
    server: ScriptedAirflow, scheduler: AirflowScheduler, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its times in Airflow are those of its first beginning, until Airflow lets it begin once more."""
    monkeypatch.setattr(airflow, "LOOKED_AFTER_EVERY", 0.05)
    run = adopted(server, "running")
    run.queued_at = ago(20_000)
    with held(folder / LOCK):
        waiting = asyncio.create_task(scheduler.wait(TASK))
        await asyncio.sleep(0.2)
    server.tasks = [{"task_id": "train", "state": None, "scheduled_when": ago(20_000)}]
    before = server.heard.count("GET /taskInstances")
    await until(lambda: server.heard.count("GET /taskInstances") > before + 2)
    run.states = ["success"]
    assert await waiting == RunEnd(True)


async def test_an_agent_that_could_not_say_why_it_ended_a_run_says_so_later(
    server: ScriptedAirflow, settings: Airflow, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(airflow, "LOOKED_AFTER_EVERY", 0.05)
    run = adopted(server, "queued")
    server.dags["wardround_task"]["is_paused"] = True
    server.next[f"PATCH /{TASK}"].append(unanswered(server))
    async with scheduling(settings, folder) as scheduler:
        with pytest.raises(SchedulerUnavailableError):
            await scheduler.wait(TASK)
    async with scheduling(settings, folder) as restarted:
        error = await error_of(restarted.wait(TASK))
    assert error.code == "dag_paused"
    assert error.hint in (run.note or "")


async def test_a_run_that_was_queued_when_its_dag_was_paused_is_ended_with_that_reason(
    server: ScriptedAirflow, scheduler: AirflowScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(airflow, "LOOKED_AFTER_EVERY", 0.05)
    run = adopted(server, "queued")
    server.dags["wardround_task"]["is_paused"] = True
    assert (await error_of(scheduler.wait(TASK))).code == "dag_paused"
    assert run.states == ["failed"]


async def test_a_training_goes_on_when_its_dag_is_paused_and_counts_when_it_is_done(
    server: ScriptedAirflow, scheduler: AirflowScheduler, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(airflow, "LOOKED_AFTER_EVERY", 0.05)
    run = adopted(server, "running")
    server.tasks = [{"task_id": "train", "state": "running"}]
    server.dags["wardround_task"]["is_paused"] = True
    waiting = asyncio.create_task(scheduler.wait(TASK))
    await until(lambda: server.heard.count("GET /taskInstances") > 2)
    assert not waiting.done()
    (folder / RESULT).touch()
    server.tasks = [{"task_id": "train", "state": "success"}]
    async with asyncio.timeout(5):
        assert await waiting == RunEnd(True)
    assert run.states == ["running"]


async def test_a_training_that_failed_while_its_dag_was_paused_is_ended_with_that_reason(
    server: ScriptedAirflow, scheduler: AirflowScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(airflow, "LOOKED_AFTER_EVERY", 0.05)
    adopted(server, "running")
    server.tasks = [{"task_id": "train", "state": "up_for_retry"}]
    server.dags["wardround_task"]["is_paused"] = True
    assert (await error_of(scheduler.wait(TASK))).code == "dag_paused"


# --- cancelling ------------------------------------------------------------------------------------------------------


async def test_a_cancelled_run_bears_a_note_that_says_so_and_loses_it_when_it_runs_again(
    server: ScriptedAirflow, scheduler: AirflowScheduler
) -> None:
    run = adopted(server, "running")
    await scheduler.cancel(TASK)
    assert "Wardround" in (run.note or "")
    assert (await scheduler.wait(TASK)).code == "cancelled"
    await scheduler.trigger(TASK, again=True)
    assert await scheduler.wait(TASK) == RunEnd(True)


async def test_what_does_not_stop_is_tried_again_later(
    server: ScriptedAirflow, scheduler: AirflowScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(airflow_runs, "ENDS_WITHIN", 0.1)
    adopted(server, "running")
    server.next[f"PATCH /{TASK}"].extend([says({})] * 100)
    with pytest.raises(SchedulerUnavailableError):
        await scheduler.cancel(TASK)


async def test_a_stop_is_done_when_the_training_has_let_go_of_the_folder(
    server: ScriptedAirflow, scheduler: AirflowScheduler, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = adopted(server, "running")
    with held(folder / LOCK):
        monkeypatch.setattr(airflow, "LETS_GO_WITHIN", 0.1)
        for _ in range(2):  # the second time the run is over
            with pytest.raises(SchedulerUnavailableError):
                await scheduler.cancel(TASK)
        assert run.states == ["failed"]
        monkeypatch.setattr(airflow, "LETS_GO_WITHIN", 60)
        cancelling = asyncio.create_task(scheduler.cancel(TASK))
        await asyncio.sleep(0.2)
        assert not cancelling.done()
    async with asyncio.timeout(5):
        await cancelling


async def test_a_task_that_began_while_its_run_was_ended_is_ended_too(
    server: ScriptedAirflow, scheduler: AirflowScheduler
) -> None:
    adopted(server, "failed")
    server.tasks = [{"task_id": "train", "state": "running"}]
    await scheduler.cancel(TASK)
    assert [task["state"] for task in server.tasks] == ["failed"]


async def test_no_training_may_begin_after_a_stop_until_the_run_is_wanted_again(
    server: ScriptedAirflow, scheduler: AirflowScheduler, folder: Path
) -> None:
    adopted(server, "running")
    await scheduler.cancel(TASK)
    assert (folder / STOPPED).exists()
    await scheduler.trigger(TASK)
    assert (folder / STOPPED).exists()
    await scheduler.trigger(TASK, again=True)
    assert not (folder / STOPPED).exists()


async def test_a_run_that_could_not_be_stopped_and_is_wanted_again_goes_on(
    server: ScriptedAirflow, scheduler: AirflowScheduler, folder: Path
) -> None:
    adopted(server, "running")
    server.next[f"PATCH /{TASK}"].append(says({"detail": "database is locked"}, 500))
    with pytest.raises(SchedulerUnavailableError):
        await scheduler.cancel(TASK)
    await scheduler.trigger(TASK)
    assert not (folder / STOPPED).exists()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("left", ["a link", "a pipe", "a folder"])
async def test_whatever_a_training_left_in_place_of_the_sign_is_one(
    server: ScriptedAirflow, scheduler: AirflowScheduler, folder: Path, tmp_path: Path, left: str
) -> None:
    run = adopted(server, "running")
    sign = folder / STOPPED
    match left:
        case "a link":
            sign.symlink_to(tmp_path / "elsewhere")
        case "a pipe":
            os.mkfifo(sign)
        case "a folder":
            (sign / "within").mkdir(parents=True)
    await scheduler.cancel(TASK)
    assert run.states == ["failed"]
    assert os.path.lexists(sign)
    assert not (tmp_path / "elsewhere").exists()
    await scheduler.trigger(TASK, again=True)
    assert not os.path.lexists(sign)


async def test_a_run_is_stopped_also_where_the_folder_takes_no_sign(
    server: ScriptedAirflow, scheduler: AirflowScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    run = adopted(server, "running")
    monkeypatch.setattr(os, "open", no_room)
    with capture_logs() as logs:
        await scheduler.cancel(TASK)
    monkeypatch.undo()
    assert [line["event"] for line in logs] == ["stopped_without_a_sign"]
    assert run.states == ["failed"]


async def test_a_run_that_could_not_be_given_up_and_comes_to_its_turn_may_train(
    server: ScriptedAirflow, scheduler: AirflowScheduler, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(airflow, "LOOKED_AFTER_EVERY", 0.05)
    adopted(server, "queued")
    server.tasks = [{"task_id": "train", "state": "scheduled"}]
    server.dags["wardround_task"]["is_paused"] = True
    server.next[f"PATCH /{TASK}"].append(says({"detail": "database is locked"}, 500))
    with pytest.raises(SchedulerUnavailableError):
        await scheduler.wait(TASK)
    assert not (folder / STOPPED).exists()


async def test_a_run_is_stopped_also_where_its_training_has_removed_its_job(
    server: ScriptedAirflow, scheduler: AirflowScheduler, folder: Path
) -> None:
    run = adopted(server, "running")
    (folder / JOB).unlink()
    await scheduler.cancel(TASK)
    assert run.states == ["failed"]
    assert (folder / STOPPED).exists()


@pytest.mark.parametrize("job", ["", "{}", json.dumps({**JOB_OF_TASK, "trainer": "another"}), None])
@pytest.mark.parametrize("under", ["wardround_task", "of-others"])
async def test_a_run_is_stopped_also_where_its_dag_cannot_be_told_from_the_job(
    server: ScriptedAirflow, settings: Airflow, folder: Path, job: str | None, under: str
) -> None:
    run = adopted(server, "running", under=under)
    if job is None:  # it cannot be opened, and is there
        (folder / JOB).unlink()
        (folder / JOB).mkdir()
    else:
        (folder / JOB).write_text(job)
    dags = {"adding": "wardround_task", "third": "of-others"}
    async with scheduling(settings, folder, dags=dags) as scheduler:
        await scheduler.cancel(TASK)
        assert run.states == ["failed"]
        await scheduler.trigger(TASK)
        assert (await scheduler.wait(TASK)).code == "cancelled"
        assert (await error_of(scheduler.trigger(TASK, again=True))).code in ("no_folder", "dag_missing")


async def test_where_it_cannot_be_seen_whether_a_run_goes_on_it_is_not_said_to_be_stopped(
    server: ScriptedAirflow, scheduler: AirflowScheduler, folder: Path
) -> None:
    (folder / JOB).write_text("")
    server.next[f"GET /{TASK}"].extend([says({"detail": "Forbidden"}, 403)] * 2)
    assert (await error_of(scheduler.cancel(TASK))).code == "airflow_forbidden"


async def test_a_run_that_no_agent_began_is_not_stopped(server: ScriptedAirflow, scheduler: AirflowScheduler) -> None:
    run = adopted(server, "running", conf={"task": "another"})
    await scheduler.cancel(TASK)
    assert run.states == ["running"]


# --- another table of DAGs -------------------------------------------------------------------------------------------

CHANGED = {"adding": "adding.v2", "default": "wardround_task"}


async def test_a_run_under_its_former_dag_goes_on_and_is_waited_for(
    server: ScriptedAirflow, settings: Airflow, folder: Path
) -> None:
    server.dags["adding.v2"] = {"is_paused": False}
    run = adopted(server, "running", under="wardround_task")
    async with scheduling(settings, folder, dags=CHANGED) as scheduler:
        for again in (False, True):
            await scheduler.trigger(TASK, again=again)
        assert "POST /dagRuns" not in server.heard
        waiting = asyncio.create_task(scheduler.wait(TASK))
        await until(lambda: server.heard.count("GET /wait") > 1)
        run.states = ["success"]
        assert await waiting == RunEnd(True)
        await scheduler.trigger(TASK, again=True)
        assert server.runs[TASK].under == "adding.v2"


async def test_a_dag_of_others_that_may_not_be_looked_at_keeps_no_task_from_its_own(
    server: ScriptedAirflow, settings: Airflow, folder: Path
) -> None:
    server.dags["adding.v2"] = {"is_paused": False}
    server.next[f"GET /{TASK}"].extend([server.honestly, says({}, 403), says({}, 403)])
    async with scheduling(settings, folder, dags=CHANGED) as scheduler:
        await scheduler.trigger(TASK)
    assert server.runs[TASK].under == "adding.v2"


async def test_one_dag_for_all_costs_a_trigger_no_further_look(
    server: ScriptedAirflow, scheduler: AirflowScheduler
) -> None:
    await scheduler.trigger(TASK)
    assert server.heard == ["POST /token", f"GET /{TASK}", "GET /wardround_task", "POST /dagRuns"]


# --- what leaves the machine -----------------------------------------------------------------------------------------


async def test_no_secret_stands_in_the_log_of_the_agent(server: ScriptedAirflow, scheduler: AirflowScheduler) -> None:
    server.next["GET /eventLogs"].extend([says({"detail": PASSWORD}, 403)] * 2)
    server.dags = {}
    with capture_logs() as logs:
        with pytest.raises(SchedulerError):
            await scheduler.trigger(TASK)
        adopted(server, "failed")
        await scheduler.wait(TASK)
    assert PASSWORD not in repr(logs)
    assert "token-" not in repr(logs)


async def test_what_the_other_side_says_in_a_broken_answer_is_told_nobody(settings: Airflow, folder: Path) -> None:
    """It may be what it was sent."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.read(65536)
        writer.write(b"HTTP/1.1 200 OK\r\n" + asked[-60:].replace(b":", b"") + b"\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(echo, "127.0.0.1", 0) as echoing:
        port = echoing.sockets[0].getsockname()[1]
        scheduler = AirflowScheduler(settings.model_copy(update={"url": f"http://127.0.0.1:{port}"}), folder.parent)
        try:
            with pytest.raises(SchedulerUnavailableError) as raised:
                await scheduler.trigger(TASK)
        finally:
            await scheduler.close()
    assert PASSWORD not in str(raised.value)
    assert "Error" in str(raised.value)
