"""The clinic's own Airflow as its agent's login sees it: reached, let in, healthy, and with the DAGs that train."""

from contextlib import suppress
from urllib.parse import quote

from wardround.client.doctor.findings import Verdict, ok, warning, worst_of, wrong
from wardround.site_agent.scheduler.airflow.api import API, AirflowApi
from wardround.site_agent.scheduler.airflow.http import AirflowHttp
from wardround.site_agent.scheduler.airflow.meaning import why_it_would_not_run
from wardround.site_agent.scheduler.airflow.said import Dag, Said
from wardround.site_agent.scheduler.port import SchedulerError, SchedulerUnavailableError
from wardround.site_agent.settings import Airflow

TRIED = (3, 3)
HEALTHY = "healthy"
LOOK = "look into Airflow's own logs"


class _Version(Said):
    version: str


class _Component(Said):
    status: str | None = None


class Health(Said):
    """What Airflow says of its parts; one that never ran has no status."""

    metadatabase: _Component = _Component()
    scheduler: _Component = _Component()
    dag_processor: _Component | None = None


class _Limits(Said):
    max_active_runs: int | None = None


class _Runs(Said):
    total_entries: int


class AirflowLook:
    """One login at one Airflow. Close it."""

    def __init__(self, settings: Airflow) -> None:
        self._settings = settings
        self._http = AirflowHttp(
            settings.url, username=settings.username, password=settings.password.read, ca=settings.ca
        )
        self._api = AirflowApi(self._http)

    async def close(self) -> None:
        await self._http.close()

    async def look_at_login(self) -> Verdict:
        """Whether Airflow lets the login in, and which version it is."""
        try:
            version = _Version.read(await self._http.call("GET", f"{API}/version")).version
        except (SchedulerError, SchedulerUnavailableError) as error:
            return refused(error)
        return judge_version(version, self._settings.username)

    async def look_at_health(self) -> Verdict:
        """Whether all its parts show signs of life."""
        try:
            health = Health.read(await self._http.call("GET", f"{API}/monitor/health"))
        except (SchedulerError, SchedulerUnavailableError) as error:
            return refused(error)
        return judge_health(health)

    async def look_at_dag(self, dag: str) -> Verdict:
        """Whether a run of the DAG would run, and as many at once as the agent asks for."""
        try:
            known = await self._api.dag(dag)
            why = why_it_would_not_run(dag, known, await self._broken(known))
            if why is not None:
                return wrong(why.hint, "then run this again")
            limits = _Limits.read(await self._http.call("GET", f"{API}/dags/{quote(dag, safe='')}"))
        except (SchedulerError, SchedulerUnavailableError) as error:
            return refused(error)
        return judge_limit(dag, limits.max_active_runs, self._settings.slots)

    async def _broken(self, dag: Dag | None) -> tuple[str, ...]:
        """The files that Airflow cannot read, where they can be why there is no DAG, and the login may see them."""
        if dag is None or dag.is_stale:
            with suppress(SchedulerError):
                return await self._api.files_with_import_errors()
        return ()

    async def is_busy(self, dag: str) -> bool:
        """Whether as many runs of the DAG are at work as may be. False where Airflow does not say."""
        path = f"{API}/dags/{quote(dag, safe='')}"
        try:
            limit = _Limits.read(await self._http.call("GET", path)).max_active_runs
            running = await self._http.call("GET", f"{path}/dagRuns", query={"state": "running", "limit": 1})
            return limit is not None and _Runs.read(running).total_entries >= limit
        except (SchedulerError, SchedulerUnavailableError):
            return False


def refused(error: SchedulerError | SchedulerUnavailableError) -> Verdict:
    """What Airflow's refusal, or its absence, means."""
    if isinstance(error, SchedulerError):
        return wrong(error.hint or error.code, "mend it, then run this again")
    return wrong(f"Airflow does not answer as it should: {error}", LOOK)


def judge_version(version: str, username: str) -> Verdict:
    """Whether the version is one that Wardround was tried with."""
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < (3, 0):
        return wrong(f"Airflow {version} has another interface", "Airflow 3 is needed, best from 3.3 on")
    if numbers < TRIED:
        return warning(f"Airflow {version} lets '{username}' in", "Wardround is tested with Airflow 3.3: update it")
    return ok(f"Airflow {version} lets '{username}' in")


def judge_health(health: Health) -> Verdict:
    """The scheduler and the database are needed for every run, the DAG processor to take in changed files."""
    verdicts = []
    for name, component in (("metadatabase", health.metadatabase), ("scheduler", health.scheduler)):
        if component.status != HEALTHY:
            verdicts.append(
                wrong(f"its {name} is {component.status or 'not there'}: no run starts", f"start it; {LOOK}")
            )
    processor = health.dag_processor
    if processor is None or processor.status != HEALTHY:
        status = None if processor is None else processor.status
        verdicts.append(
            warning(f"its DAG processor is {status or 'not there'}: changed DAGs are not read", f"start it; {LOOK}")
        )
    return worst_of(verdicts, "database, scheduler and DAG processor are healthy")


def judge_limit(dag: str, max_active_runs: int | None, slots: int) -> Verdict:
    """Whether Airflow lets as many runs work at once as the agent asks for."""
    if max_active_runs is not None and max_active_runs < slots:
        return warning(
            f"{dag} may have {max_active_runs} runs at once, the agent asks for {slots}: the others wait",
            "raise max_active_runs of the DAG, or lower scheduler.slots in site.toml",
        )
    return ok(f"{dag} is there and not paused")
