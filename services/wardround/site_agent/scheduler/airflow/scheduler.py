"""Trainings in the clinic's own Airflow: a DAG run for each task, which goes on whatever becomes of the agent."""

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import structlog

from wardround.site_agent.scheduler.airflow import meaning
from wardround.site_agent.scheduler.airflow.api import AirflowApi
from wardround.site_agent.scheduler.airflow.http import AirflowHttp, ConflictError
from wardround.site_agent.scheduler.airflow.said import OVER, QUEUED, SUCCESS, Run
from wardround.site_agent.scheduler.airflow.training_lock import is_held
from wardround.site_agent.scheduler.port import (
    Began,
    RunEnd,
    SchedulerError,
    SchedulerUnavailableError,
    UnknownRunError,
    nobody_asks,
)
from wardround.site_agent.settings import Airflow
from wardround_messages.codec import MalformedError, parse
from wardround_messages.names import parse_task_id
from wardround_messages.task_folder import FOLDER_AT_MOST, JOB, LOCK, RESULT, Job

log = structlog.get_logger()

LOOKED_AFTER_EVERY = 10.0  # seconds between two looks whether a run can still come to an end
STOPS_WITHIN = 5.0
TURNS_AFTER = 0.25  # seconds before a run is asked for anew whose stream has ended
NOTE = "Stopped by the Wardround agent of this site."


@dataclass(slots=True)
class _Watch:
    """A run that is waited for."""

    dag: str
    task: str
    began: Began
    begun: bool = False
    look_at: float = field(default_factory=lambda: _now() + LOOKED_AFTER_EVERY)

    def begin(self) -> None:
        if not self.begun:
            self.begun = True
            self.began()


class AirflowScheduler:
    """The run's id is the task's, its configuration `{"task": <task id>}`; the DAG is that of the job's trainer.

    Nothing is kept here that a restart of the agent would miss.
    """

    def __init__(self, settings: Airflow, spool: Path) -> None:
        self._settings = settings
        self._spool = spool
        self._http = AirflowHttp(
            settings.url, username=settings.username, password=settings.password.read, ca=settings.ca
        )
        self._api = AirflowApi(self._http)
        self._queued_since: dict[str, float] = {}
        # When the run was queued last, as it was before a call whose answer got lost: carried out, it is another time.
        self._unanswered: dict[str, datetime | None] = {}

    async def trigger(self, task: str, *, again: bool = False) -> None:
        dag = self._dag_of(task)
        run = await self._api.run(dag, task)
        queued_at = None if run is None else run.queued_at
        carried_out = self._unanswered.pop(task, queued_at) != queued_at
        if run is not None:
            _check_conf(run, task)
            if carried_out or not again or not run.over:
                return
        await self._check_runnable(dag)
        if again:
            (self._folder(task) / RESULT).unlink(missing_ok=True)
        try:
            if run is None:
                await self._start(dag, task)
            else:
                await self._api.clear(dag, task)
        except SchedulerUnavailableError:
            self._unanswered[task] = queued_at
            raise

    async def wait(self, task: str, *, began: Began = nobody_asks) -> RunEnd:
        try:
            watch = _Watch(self._dag_of(task), task, began)
        except SchedulerError:
            raise UnknownRunError(task) from None
        while True:
            async with aclosing(self._api.states(watch.dag, task)) as states:
                async for state in states:
                    if (end := await self._seen(watch, state)) is not None:
                        return end
            # The line was cut, or what waits at the other end knows no way to stream.
            if (end := await self._seen(watch, (await self._run(watch)).state)) is not None:
                return end
            await asyncio.sleep(TURNS_AFTER)

    async def cancel(self, task: str) -> None:
        self._unanswered.pop(task, None)
        try:
            dag = self._dag_of(task)
        except SchedulerError:
            return  # what has no job was never triggered
        await self._stop(dag, task)

    async def close(self) -> None:
        """What runs goes on: it is found again by its id."""
        await self._http.close()

    # --- what is seen of a run ---------------------------------------------------------------------------------------

    async def _seen(self, watch: _Watch, state: str) -> RunEnd | None:
        """How the run ended, once it has."""
        if state == QUEUED:
            since = self._queued_since.setdefault(watch.task, _now())
            if _now() - since > self._settings.queued_at_most:
                why = await self._why_it_would_not_run(watch.dag)
                await self._stop(watch.dag, watch.task)
                raise why or meaning.waited_too_long(self._settings.queued_at_most)
        else:
            self._queued_since.pop(watch.task, None)
            watch.begin()
            if state in OVER:
                return await self._end(watch)
        if _now() >= watch.look_at:
            watch.look_at = _now() + LOOKED_AFTER_EVERY
            return await self._look_after(watch)
        return None

    async def _look_after(self, watch: _Watch) -> RunEnd | None:
        """A run whose DAG is paused goes no further than its task in hand, and never ends."""
        dag = await self._api.dag(watch.dag)
        if dag is None or not dag.is_paused:
            return None
        if meaning.any_at_work(await self._api.task_instances(watch.dag, watch.task)):
            return None
        if (self._folder(watch.task) / RESULT).exists():
            log.warning("dag_paused", task=watch.task, dag=watch.dag)
            return RunEnd(True)
        await self._stop(watch.dag, watch.task)
        raise meaning.paused(watch.dag)

    async def _end(self, watch: _Watch) -> RunEnd | None:
        run = await self._run(watch)
        if not run.over:  # somebody let it run anew
            return None
        if run.note == NOTE:
            return meaning.CANCELLED
        return RunEnd(True) if run.state == SUCCESS else await self._why_it_failed(watch, run)

    async def _why_it_failed(self, watch: _Watch, run: Run) -> RunEnd:
        dag, task = watch.dag, watch.task
        try:
            events = await self._api.events(dag, task, run.queued_at)
            failed = meaning.first_failed(await self._api.task_instances(dag, task))
            reason = None if failed is None else await self._api.reason(dag, task, failed)
        except SchedulerError as error:  # it failed all the same
            log.warning("reason_not_told", task=task, code=error.code, hint=error.hint)
            return meaning.CRASHED
        return meaning.end_of_failed_run(events, reason)

    async def _run(self, watch: _Watch) -> Run:
        run = await self._api.run(watch.dag, watch.task)
        if run is None:
            self._queued_since.pop(watch.task, None)
            raise UnknownRunError(watch.task)
        return run

    # --- starting and stopping ---------------------------------------------------------------------------------------

    async def _start(self, dag: str, task: str) -> None:
        try:
            await self._api.start(dag, task, {"task": task})
        except ConflictError:  # somebody was quicker
            run = await self._api.run(dag, task)
            if run is None:
                raise SchedulerUnavailableError("the run was there, and is gone") from None
            _check_conf(run, task)

    async def _check_runnable(self, dag: str) -> None:
        if (why := await self._why_it_would_not_run(dag)) is not None:
            raise why

    async def _why_it_would_not_run(self, name: str) -> SchedulerError | None:
        dag = await self._api.dag(name)
        broken: tuple[str, ...] = ()
        if dag is None or dag.is_stale:
            try:
                broken = await self._api.files_with_import_errors()
            except SchedulerError as error:  # it is missing all the same
                log.warning("import_errors_not_told", code=error.code, hint=error.hint)
        return meaning.why_it_would_not_run(name, dag, broken)

    async def _stop(self, dag: str, task: str) -> None:
        """End the run if it goes on, and return when its training has let go of the folder."""
        until = _now() + STOPS_WITHIN
        while (run := await self._api.run(dag, task)) is not None and not run.over:
            if _now() > until:
                raise SchedulerUnavailableError("the run does not stop")
            await self._api.stop(dag, task, NOTE)
        self._queued_since.pop(task, None)
        lock = self._folder(task) / LOCK
        while is_held(lock):
            if _now() > until:
                log.warning("training_does_not_stop", task=task)
                return
            await asyncio.sleep(0.05)

    # --- the task's folder -------------------------------------------------------------------------------------------

    def _dag_of(self, task: str) -> str:
        """Raises `SchedulerError` where there is no such task, or no job in its folder, or no DAG for it."""
        try:
            with (self._folder(task) / JOB).open("rb") as file:
                job = parse(Job, file.read(FOLDER_AT_MOST + 1), at_most=FOLDER_AT_MOST)
        except OSError:
            raise SchedulerError("no_folder", "the folder of the task holds no job.json") from None
        except MalformedError:
            raise SchedulerError("no_folder", "the folder of the task holds an unreadable job.json") from None
        dag = self._settings.dag_of(job.trainer)
        if dag is None:
            raise SchedulerError("dag_missing", f"scheduler.dags names no DAG for {job.trainer}, and no default")
        return dag

    def _folder(self, task: str) -> Path:
        try:
            return self._spool / str(parse_task_id(task))
        except ValueError as error:
            raise SchedulerError("bad_task_id", str(error)) from None


def _check_conf(run: Run, task: str) -> None:
    if run.conf != {"task": task}:
        raise SchedulerError(
            "run_id_taken", "Airflow has a run of this id that the agent did not start: delete it there"
        )


def _now() -> float:
    return asyncio.get_running_loop().time()
