"""Runs in Airflow as an agent handles them: found under whichever DAG, started once, ended."""

import asyncio
from collections.abc import AsyncIterator, Iterable

import structlog

from wardround.site_agent.scheduler.airflow import meaning
from wardround.site_agent.scheduler.airflow.api import AirflowApi
from wardround.site_agent.scheduler.airflow.http import ConflictError
from wardround.site_agent.scheduler.airflow.said import Run
from wardround.site_agent.scheduler.port import SchedulerError, SchedulerUnavailableError

log = structlog.get_logger()

ENDS_WITHIN = 5.0  # seconds in which Airflow takes a run for ended
TURNS_AFTER = 0.25  # seconds before it is told once more


class AirflowRuns:
    """`dags` are those of the table: a run that began before the table was changed may be under any of them.

    Raises everywhere what `AirflowApi` raises.
    """

    def __init__(self, api: AirflowApi, dags: Iterable[str]) -> None:
        self._api = api
        self._dags = tuple(dict.fromkeys(dags))

    async def find(self, task: str, own: str | None, *, but: str | None = None) -> tuple[str, Run] | None:
        """The run of this id and its DAG: under the task's own DAG whatever it is, else one that an agent began.

        Args:
            own: the DAG of the task's trainer, where it is known.
            but: a DAG under which it is not.
        """
        if own is not None and (run := await self._api.run(own, task)) is not None:
            return own, run
        async for dag, run in self._others(task, {own, but}):
            if run.conf == conf(task):
                return dag, run
        return None

    async def _others(self, task: str, but: set[str | None]) -> AsyncIterator[tuple[str, Run]]:
        for dag in self._dags:
            if dag in but:
                continue
            try:
                run = await self._api.run(dag, task)
            except SchedulerError as error:  # the task at hand need not fail for a DAG that is not its own
                log.warning("dag_not_looked_at", task=task, dag=dag, code=error.code, hint=error.hint)
                continue
            if run is not None:
                yield dag, run

    async def start(self, dag: str, task: str) -> None:
        """Raises `SchedulerError` also where somebody else has a run of this id."""
        try:
            await self._api.start(dag, task, conf(task))
        except ConflictError:  # somebody was quicker
            run = await self._api.run(dag, task)
            if run is None:
                raise SchedulerUnavailableError("the run was there, and is gone") from None
            check_conf(run, task)

    async def end(self, task: str, own: str | None, note: str) -> None:
        """End the run if it goes on, under the task's own DAG or any other, with a note that says why.

        Raises:
            SchedulerError: none was found, and not all DAGs could be looked at; or it may not be ended.
        """
        refusal: SchedulerError | None = None
        for dag in dict.fromkeys([*([] if own is None else [own]), *self._dags]):
            try:
                if await self._is_ended(dag, task, note):
                    return
            except SchedulerError as error:
                refusal = refusal or error
        if refusal is not None:
            raise refusal

    async def _is_ended(self, dag: str, task: str, note: str) -> bool:
        """Whether the run is under this DAG, where it goes on no longer."""
        until = asyncio.get_running_loop().time() + ENDS_WITHIN
        told = False
        while (run := await self._api.run(dag, task)) is not None and run.conf == conf(task):
            # Airflow ends a run and its tasks one after the other: a task that begins in that moment goes on.
            if run.over and not meaning.any_at_work(await self._api.task_instances(dag, task)):
                return True
            if told:
                if asyncio.get_running_loop().time() > until:
                    raise SchedulerUnavailableError("the run does not stop")
                await asyncio.sleep(TURNS_AFTER)
            await self._api.stop(dag, task, note)
            told = True
        return False

    async def check_runnable(self, dag: str) -> None:
        """Raises `SchedulerError` where a run of the DAG would fail, or wait for ever."""
        if (why := await self.why_it_would_not_run(dag)) is not None:
            raise why

    async def why_it_would_not_run(self, name: str) -> SchedulerError | None:
        dag = await self._api.dag(name)
        broken: tuple[str, ...] = ()
        if dag is None or dag.is_stale:
            try:
                broken = await self._api.files_with_import_errors()
            except SchedulerError as error:  # it is missing all the same
                log.warning("import_errors_not_told", code=error.code, hint=error.hint)
        return meaning.why_it_would_not_run(name, dag, broken)


def conf(task: str) -> dict[str, str]:
    """The configuration of a task's run."""
    return {"task": task}


def check_conf(run: Run, task: str) -> None:
    """Raises `SchedulerError` for a run that bears the task's id and is for something else."""
    if run.conf != conf(task):
        raise SchedulerError(
            "run_id_taken", "Airflow has a run of this id that the agent did not start: delete it there"
        )
