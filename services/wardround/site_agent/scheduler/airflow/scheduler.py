"""Trainings in the clinic's own Airflow: a DAG run for each task, which goes on whatever becomes of the agent."""

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import structlog

from wardround.site_agent.scheduler.airflow import meaning
from wardround.site_agent.scheduler.airflow.api import AirflowApi
from wardround.site_agent.scheduler.airflow.http import AirflowHttp
from wardround.site_agent.scheduler.airflow.runs import AirflowRuns, check_conf
from wardround.site_agent.scheduler.airflow.said import OVER, SUCCESS, Run, TaskInstance
from wardround.site_agent.scheduler.airflow.spool import (
    BAD_ID,
    NoTaskError,
    folder_of,
    forbid_training,
    remove,
    trainer_of,
)
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
from wardround_messages.task_folder import LOCK, RESULT, STOPPED

log = structlog.get_logger()

LOOKED_AFTER_EVERY = 10.0  # seconds between two looks whether a run can still come to an end
# A task of Airflow hears that it is ended with its next sign of life, which it gives every five seconds by default.
LETS_GO_WITHIN = 15.0
TURNS_AFTER = 0.25  # seconds before a run is asked for anew whose stream has ended


@dataclass(slots=True)
class _Seen:
    """What was seen of a run, by the clock of the event loop; it outlasts a wait that Airflow was away from."""

    since: float = field(default_factory=lambda: _now())
    at_work: float | None = None
    look_at: float = field(default_factory=lambda: _now() + LOOKED_AFTER_EVERY)


@dataclass(slots=True)
class _Watch:
    """A run that is waited for."""

    dag: str
    task: str
    began: Began
    lock: Path
    seen: _Seen
    begun: bool = False

    def begin(self) -> None:
        if not self.begun:
            self.begun = True
            self.began()


class AirflowScheduler:
    """The run's id is the task's, its configuration `{"task": <task id>}`; the DAG is that of the job's trainer, or,
    for a run that began before `scheduler.dags` was changed, any other of that table.

    Nothing is kept here that a restart of the agent would miss.
    """

    def __init__(self, settings: Airflow, spool: Path) -> None:
        self._settings = settings
        self._spool = spool
        self._http = AirflowHttp(
            settings.url, username=settings.username, password=settings.password.read, ca=settings.ca
        )
        self._api = AirflowApi(self._http)
        self._runs = AirflowRuns(self._api, settings.dags.values())
        self._seen: dict[str, _Seen] = {}
        # When the run was queued last, as it was before a call whose answer got lost: carried out, it is another time.
        self._unanswered: dict[str, datetime | None] = {}

    async def trigger(self, task: str, *, again: bool = False) -> None:
        own = self._dag_of(task)
        dag, run = await self._runs.find(task, _known(own)) or (None, None)
        queued_at = None if run is None else run.queued_at
        carried_out = self._unanswered.pop(task, queued_at) != queued_at
        if run is not None:
            check_conf(run, task)
            if carried_out or not again or not run.over:
                if not run.over:
                    remove(self._folder(task) / STOPPED)
                return
        if isinstance(own, SchedulerError):
            raise own
        await self._runs.check_runnable(own)
        self._seen.pop(task, None)
        remove(self._folder(task) / STOPPED)
        if again:
            remove(self._folder(task) / RESULT)
        try:
            if dag == own:
                await self._api.clear(own, task)
            else:
                await self._runs.start(own, task)
        except SchedulerUnavailableError:
            self._unanswered[task] = queued_at
            raise

    async def wait(self, task: str, *, began: Began = nobody_asks) -> RunEnd:
        """Raises `SchedulerUnavailableError` also where Airflow lets the agent in no more, as after a change of its
        password: the run goes on."""
        try:
            end = await self._end_of(task, began)
        except SchedulerError as error:
            raise SchedulerUnavailableError(f"the run cannot be looked at: {error}") from error
        if isinstance(end, SchedulerError):
            raise end
        return end

    async def _end_of(self, task: str, began: Began) -> RunEnd | SchedulerError:
        watch = await self._watch(task, began)
        while True:
            async with aclosing(self._api.states(watch.dag, task)) as states:
                async for state in states:
                    if (end := await self._seen_as(watch, state)) is not None:
                        return end
            # The line was cut, or what waits at the other end knows no way to stream.
            if (end := await self._seen_as(watch, (await self._run(watch)).state)) is not None:
                return end
            await asyncio.sleep(TURNS_AFTER)

    async def cancel(self, task: str) -> None:
        """Raises `SchedulerError` where it cannot be known that none runs, or what runs may not be stopped, and
        `SchedulerUnavailableError` also where a training does not let go of the folder."""
        self._unanswered.pop(task, None)
        try:
            own = _known(self._dag_of(task))
        except NoTaskError as error:
            if error.code == BAD_ID:
                return
            own = None  # a training may have removed its job
        await self._stop(task, own, why=None)

    async def close(self) -> None:
        """What runs goes on: it is found again by its id."""
        await self._http.close()

    # --- what is seen of a run ---------------------------------------------------------------------------------------

    async def _watch(self, task: str, began: Began) -> _Watch:
        try:
            dag = self._dag_of(task)
        except NoTaskError:
            raise UnknownRunError(task) from None
        if isinstance(dag, SchedulerError):
            found = await self._runs.find(task, None)
            if found is None:
                raise UnknownRunError(task)
            dag, _ = found
        return _Watch(dag, task, began, self._folder(task) / LOCK, self._seen.setdefault(task, _Seen()))

    async def _seen_as(self, watch: _Watch, state: str) -> RunEnd | SchedulerError | None:
        """How the run ended, once it has."""
        if not watch.begun and (state in OVER or is_held(watch.lock)):
            watch.begin()
        if state in OVER:
            return await self._end(watch)
        if _now() >= watch.seen.look_at:
            watch.seen.look_at = _now() + LOOKED_AFTER_EVERY
            try:
                return await self._look_after(watch)
            finally:  # lines have come meanwhile, and not each of them is worth another look
                watch.seen.look_at = _now() + LOOKED_AFTER_EVERY
        return None

    async def _look_after(self, watch: _Watch) -> RunEnd | SchedulerError | None:
        """End a run that would never end: one whose DAG is paused goes no further than its task in hand, and one whose
        task gets no slot or no worker waits for ever."""
        if is_held(watch.lock):
            watch.seen.at_work = _now()
            return None
        dag = await self._api.dag(watch.dag)
        tasks = await self._api.task_instances(watch.dag, watch.task)
        if meaning.any_running(tasks):
            watch.seen.at_work = _now()
            watch.begin()
            return None
        if dag is not None and dag.is_paused and not meaning.any_at_work(tasks):
            if (self._folder(watch.task) / RESULT).exists():
                log.warning("dag_paused", task=watch.task, dag=watch.dag)
                self._seen.pop(watch.task, None)
                return RunEnd(True)
            return await self._give_up(watch, meaning.paused(watch.dag))
        if meaning.waits(tasks) and await self._waited(watch, tasks) > self._settings.queued_at_most:
            why = await self._runs.why_it_would_not_run(watch.dag)
            return await self._give_up(watch, why or meaning.waited_too_long(self._settings.queued_at_most))
        return None

    async def _waited(self, watch: _Watch, tasks: tuple[TaskInstance, ...]) -> float:
        """For how many seconds nothing of the run has been at work, also where the agent has not seen all of it."""
        run, now = await self._api.run_and_clock(watch.dag, watch.task)
        since = None if run is None else meaning.waits_since(run.queued_at, tasks)
        seen = watch.seen
        by_agent = _now() - (seen.since if seen.at_work is None else seen.at_work)
        if since is None or now is None:
            return by_agent
        by_airflow = (now - since).total_seconds()
        # Airflow does not tell when it lost what was at work.
        return by_airflow if seen.at_work is None else min(by_airflow, by_agent)

    async def _give_up(self, watch: _Watch, why: SchedulerError) -> SchedulerError:
        try:
            await self._stop(watch.task, watch.dag, why=why)
        except (SchedulerError, SchedulerUnavailableError):  # it is waited for: it may come to its turn after all
            remove(self._folder(watch.task) / STOPPED)
            raise
        return why

    async def _end(self, watch: _Watch) -> RunEnd | SchedulerError | None:
        run = await self._run(watch)
        if not run.over:  # somebody let it run anew
            return None
        end = meaning.reason_of(run.note)
        if isinstance(end, SchedulerError):  # the agent could not say so at once
            await self._let_go(watch.task)
            self._seen.pop(watch.task, None)
            return end
        if end is None:
            end = RunEnd(True) if run.state == SUCCESS else await self._why_it_failed(watch, run)
        self._seen.pop(watch.task, None)
        return end

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
            found = await self._runs.find(watch.task, None, but=watch.dag)
            if found is None:
                self._seen.pop(watch.task, None)
                raise UnknownRunError(watch.task)
            watch.dag, run = found
        return run

    # --- the end of a training ---------------------------------------------------------------------------------------

    async def _stop(self, task: str, own: str | None, *, why: SchedulerError | None) -> None:
        """End the run if it goes on, and return when its training has let go of the folder and none can begin."""
        forbid_training(self._folder(task))
        await self._runs.end(task, own, meaning.note(why))
        await self._let_go(task)
        self._seen.pop(task, None)

    async def _let_go(self, task: str) -> None:
        lock = self._folder(task) / LOCK
        until = _now() + LETS_GO_WITHIN
        while is_held(lock):
            if _now() > until:
                log.warning("training_does_not_stop", task=task)
                raise SchedulerUnavailableError("the run was ended, and its training does not stop")
            await asyncio.sleep(0.05)

    # --- the task's folder -------------------------------------------------------------------------------------------

    def _dag_of(self, task: str) -> str | SchedulerError:
        """The DAG of the task's trainer, or why it is not known: a run may go on all the same. Raises `NoTaskError`."""
        try:
            trainer = trainer_of(self._folder(task))
        except NoTaskError:
            raise
        except SchedulerError as error:
            return error
        dag = self._settings.dag_of(trainer)
        return dag or SchedulerError("dag_missing", f"scheduler.dags names no DAG for {trainer}, and no default")

    def _folder(self, task: str) -> Path:
        return folder_of(self._spool, task)


def _known(dag: str | SchedulerError) -> str | None:
    return dag if isinstance(dag, str) else None


def _now() -> float:
    return asyncio.get_running_loop().time()
