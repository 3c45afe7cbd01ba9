"""The calls of Airflow's REST API v2 that an agent makes."""

from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TypeVar
from urllib.parse import quote

import httpx

from wardround.site_agent.scheduler.airflow.http import AbsentError, AirflowHttp, answered_at, read
from wardround.site_agent.scheduler.airflow.said import (
    Dag,
    Event,
    Events,
    ImportErrors,
    Reason,
    Run,
    Said,
    State,
    TaskInstance,
    TaskInstances,
)
from wardround.site_agent.scheduler.port import SchedulerUnavailableError

API = "/api/v2"
LOOKS_EVERY = 0.25  # seconds between two looks of Airflow at a run that is waited for
# Airflow compares whole seconds with its clock: a run due now is looked at up to a second later.
DUE_AGO = timedelta(seconds=2)
LINE_AT_MOST = 64 * 1024
LISTED_AT_MOST = 100
REASON = "reason"  # under which a DAG says why its task failed

STOPPING_EVENTS = frozenset({"patch_dag_run", "patch_task_instance"})
LOSING_EVENTS = frozenset({"heartbeat timeout", "state mismatch", "stuck in queued tries exceeded"})


class AirflowApi:
    """Raises everywhere what `AirflowHttp.answer` raises."""

    def __init__(self, http: AirflowHttp) -> None:
        self._http = http

    async def dag(self, dag: str) -> Dag | None:
        return await _or_none(self._http.call("GET", _dag(dag)), Dag)

    async def files_with_import_errors(self) -> tuple[str, ...]:
        """The files of DAGs that Airflow could not read last time."""
        said = await self._http.call("GET", f"{API}/importErrors", query={"limit": LISTED_AT_MOST})
        return tuple(each.filename for each in ImportErrors.read(said).import_errors)

    async def run(self, dag: str, run: str) -> Run | None:
        return await _or_none(self._http.call("GET", _run(dag, run)), Run)

    async def run_and_clock(self, dag: str, run: str) -> tuple[Run | None, datetime | None]:
        """The run, and the time by the clock of Airflow's web server, where it tells it."""
        try:
            async with self._http.answer("GET", _run(dag, run)) as answer:
                return Run.read(await read(answer)), answered_at(answer)
        except AbsentError:
            return None, None

    async def start(self, dag: str, run: str, conf: Mapping[str, str]) -> None:
        """Raises `ConflictError` where there is a run of this id."""
        due = (datetime.now(UTC) - DUE_AGO).isoformat()
        body = {"dag_run_id": run, "logical_date": None, "run_after": due, "conf": dict(conf)}
        await self._http.call("POST", f"{_dag(dag)}/dagRuns", body=body)

    async def clear(self, dag: str, run: str) -> None:
        """Let a run that is over run anew, without its note."""
        await self._http.call(
            "POST", f"{_run(dag, run)}/clear", body={"dry_run": False, "only_failed": False, "note": ""}
        )

    async def stop(self, dag: str, run: str, note: str) -> None:
        """End a run as failed, with a note that says why."""
        await self._http.call("PATCH", _run(dag, run), body={"state": "failed", "note": note})

    async def states(self, dag: str, run: str) -> AsyncGenerator[str, None]:
        """The states of the run as time goes by, until it is over, the line is cut, or there is no such run."""
        with suppress(AbsentError, httpx.HTTPError, OSError):
            async with self._http.answer("GET", f"{_run(dag, run)}/wait", query={"interval": LOOKS_EVERY}) as answer:
                unfinished = b""
                async for piece in answer.aiter_raw():
                    *lines, unfinished = (unfinished + piece).split(b"\n")
                    for line in lines:
                        yield State.read(line).state
                    if len(unfinished) > LINE_AT_MOST:  # what the DAG returned, which is told with the last state
                        return

    async def task_instances(self, dag: str, run: str) -> tuple[TaskInstance, ...]:
        said = await self._http.call("GET", f"{_run(dag, run)}/taskInstances", query={"limit": LISTED_AT_MOST})
        return TaskInstances.read(said).task_instances

    async def events(self, dag: str, run: str, since: datetime | None) -> tuple[Event, ...]:
        """Of Airflow's log, by whom or what the run was ended since then."""
        query: dict[str, str | int | list[str]] = {"dag_id": dag, "run_id": run, "limit": LISTED_AT_MOST}
        query["included_events"] = sorted(STOPPING_EVENTS | LOSING_EVENTS)
        if since is not None:
            query["after"] = since.isoformat()
        return Events.read(await self._http.call("GET", f"{API}/eventLogs", query=query)).event_logs

    async def reason(self, dag: str, run: str, task: TaskInstance) -> str | None:
        """What the DAG left for its agent about a task that failed; None also where it cannot be had now."""
        path = f"{_run(dag, run)}/taskInstances/{quote(task.task_id, safe='')}/xcomEntries/{REASON}"
        with suppress(SchedulerUnavailableError):  # a DAG may leave anything, of any size
            said = await _or_none(self._http.call("GET", path, query={"map_index": task.map_index}), Reason)
            return said.value if said is not None and isinstance(said.value, str) else None
        return None


T = TypeVar("T", bound=Said)


async def _or_none(call: Awaitable[bytes], model: type[T]) -> T | None:
    try:
        return model.read(await call)
    except AbsentError:
        return None


def _dag(dag: str) -> str:
    return f"{API}/dags/{quote(dag, safe='')}"


def _run(dag: str, run: str) -> str:
    return f"{_dag(dag)}/dagRuns/{quote(run, safe='')}"
