"""One clinic's Airflow as child processes: web server, scheduler and DAG processor, on one SQLite file."""

import asyncio
import os
import sqlite3
from asyncio.subprocess import DEVNULL, STDOUT
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from wardround.stack.airflow_home import AGENT, AirflowHome
from wardround.stack.loopback import loopback_client
from wardround.stack.program import Program, ProgramError

OVERRIDE = "WARDROUND_AIRFLOW"
INSTALLED = Path(".cache/airflow")
COMMAND = Path("bin/airflow")
CHECKOUT = Path(__file__).parents[3]
DAGS = CHECKOUT / "deploy" / "airflow" / "dags"
# Another Airflow's settings; modules that are not Airflow's; a proxy between the scheduler and its own web server.
NOT_INHERITED = ("AIRFLOW", "PYTHON", "VIRTUAL_ENV")
NO_PROXY = ("_PROXY", "_proxy")
MIGRATED_FOR = "migrated-for"
PREPARED_WITHIN = 180.0
READY_WITHIN = 120.0
ANSWERS_WITHIN = 5.0
LOOK_EVERY = 0.25  # each look costs the web server some ten milliseconds while the rest starts


def find_airflow() -> Path | None:
    """The command `airflow`: of the environment or the command that `WARDROUND_AIRFLOW` names, or installed into
    `.cache/airflow` of this folder or checkout; None if nowhere."""
    named = os.environ.get(OVERRIDE)
    folders = [Path(named)] if named else [Path.cwd() / INSTALLED, CHECKOUT / INSTALLED]
    candidates = [folder / COMMAND if folder.is_dir() else folder for folder in folders]
    return next((each.absolute() for each in candidates if each.is_file() and os.access(each, os.X_OK)), None)


class AirflowPrograms(NamedTuple):
    """The web server has to be ready before the scheduler starts a task, and to outlive it: a task ends through it."""

    api_server: Program
    dag_processor: Program
    scheduler: Program


def airflow_programs(
    home: AirflowHome, *, spool: Path, python: str, environment: Mapping[str, str] | None = None
) -> AirflowPrograms:
    """The programs of a home that `prepare_airflow` has prepared.

    A training outlives a scheduler that is killed, as it does at a hospital. The next scheduler takes the run up again
    within `LOST_AFTER` seconds, finds the training's folder locked until that is over, and then its result.

    Args:
        spool: where the clinic's agent lays the tasks' folders.
        python: the interpreter that its trainers are installed in.
        environment: what the programs inherit, but for what would change Airflow.

    Raises:
        ProgramError: Airflow is not installed.
    """
    command = _command()
    inherited = inherited_environment(home, environment or {})
    tasks = {"WARDROUND_SPOOL": str(spool.absolute()), "WARDROUND_PYTHON": python}

    def program(name: str, *arguments: str, ready: Any, stops_within: float = 10.0) -> Program:
        return Program(
            name=name,
            command=(str(command), name, *arguments),
            environment=inherited | tasks,
            folder=home.folder,
            log=home.folder / "logs" / f"{name}.log",
            ready=ready,
            ready_within=READY_WITHIN,
            look_every=LOOK_EVERY,
            stops_within=stops_within,
        )

    # Each stands by what is in the database: the web server's own end takes four seconds and saves nothing.
    return AirflowPrograms(
        api_server=program("api-server", ready=lambda: _serves(home), stops_within=2.0),
        dag_processor=program("dag-processor", ready=lambda: _knows_its_dags(home)),
        # Without a task it ends within a second. A task would keep it until the training is over: that is begun again
        # at the next start.
        scheduler=program("scheduler", "--skip-serve-logs", ready=lambda: _schedules(home), stops_within=5.0),
    )


async def prepare_airflow(home: AirflowHome, templates: Path, environment: Mapping[str, str] | None = None) -> None:
    """Write the home's files and make its database fit the Airflow that is installed. A new one is a copy of the one in
    the folder `templates` for that version, which is made if it is not there: three seconds less for each clinic.

    Raises:
        ProgramError: Airflow is not installed, or cannot make its database; OSError: a file cannot be written.
    """
    command = _command()
    if not DAGS.is_dir():
        raise ProgramError(f"the DAGs for the clinics' Airflow are missing: {DAGS}; run from a checkout of Wardround")
    home.write(DAGS)
    version = installed_version(command)
    mark = home.folder / MIGRATED_FOR
    template = templates / f"{version}.db"
    if version and not home.database.exists() and template.exists():
        await asyncio.to_thread(_copy_database, template, home.database)
        mark.write_text(version)
    if version and mark.exists() and mark.read_text() == version:
        return
    new = not home.database.exists()
    await _migrate(home, command, environment or {})
    mark.write_text(version)
    if new and version:
        templates.mkdir(parents=True, exist_ok=True)
        await asyncio.to_thread(_copy_database, home.database, template)


def inherited_environment(home: AirflowHome, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of all that Airflow runs: trainings too, which therefore find no secret in it."""
    kept = {
        name: value
        for name, value in environment.items()
        if not name.startswith(NOT_INHERITED) and not name.endswith(NO_PROXY)
    }
    return {
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        **kept,
        "AIRFLOW_HOME": str(home.folder),
        "SCARF_ANALYTICS": "false",
        "DO_NOT_TRACK": "true",
        "NO_COLOR": "1",
        "SPT_NOENV": "1",  # else a process that names itself hides its environment, and is not found by its mark
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",  # the DAGs lie in the checkout
    }


def installed_version(command: Path) -> str:
    """The version of the Airflow in the command's environment; empty where it is not told from outside."""
    found = command.resolve().parents[1].glob("lib/python3*/site-packages/apache_airflow_core-*.dist-info")
    return next((folder.name.removesuffix(".dist-info") for folder in found), "")


def _command() -> Path:
    command = find_airflow()
    if command is None:
        raise ProgramError(
            f"Airflow is not installed here: `make servers` installs it, or name its environment in {OVERRIDE}"
        )
    return command


# --- the database ----------------------------------------------------------------------------------------------------


async def _migrate(home: AirflowHome, command: Path, environment: Mapping[str, str]) -> None:
    log = home.folder / "logs" / "migrate.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("ab") as opened:
        process = await asyncio.create_subprocess_exec(
            str(command),
            "db",
            "migrate",
            cwd=home.folder,
            env=inherited_environment(home, environment),
            stdin=DEVNULL,
            stdout=opened,
            stderr=STDOUT,
        )
        try:
            async with asyncio.timeout(PREPARED_WITHIN):
                status = await process.wait()
        except BaseException as error:
            process.kill()
            await process.wait()
            if isinstance(error, TimeoutError):
                raise ProgramError(f"Airflow's database was not ready in {PREPARED_WITHIN:.0f} s: {log}") from None
            raise
    if status != 0:
        raise ProgramError(f"Airflow could not make its database {home.database}: {log}")
    await asyncio.to_thread(_read_while_written, home.database)


def _read_while_written(database: Path) -> None:
    """Readers do not wait for the writer from now on: three programs share the file."""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")


def _copy_database(database: Path, copy: Path) -> None:
    """The copy appears whole."""
    aside = copy.with_suffix(f".{os.getpid()}")
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(aside)) as target:
        source.backup(target)
    os.replace(aside, copy)


# --- when it is ready ------------------------------------------------------------------------------------------------


async def _serves(home: AirflowHome) -> bool:
    """Whether the pages, and the interface that tasks speak to, answer: the latter is built at its first call."""
    async with _client(home) as client:
        return await _get(client, "/execution/health") is not None and await _health(client) is not None


async def _schedules(home: AirflowHome) -> bool:
    async with _client(home) as client:
        health = await _health(client)
    return health is not None and health["scheduler"]["status"] == "healthy"


async def _knows_its_dags(home: AirflowHome) -> bool:
    """Whether it works, and a DAG of each file is known, so that the first trigger finds its own."""
    async with _client(home) as client:
        health = await _health(client)
        if health is None or health["dag_processor"]["status"] != "healthy":
            return False
        login = {"username": AGENT, "password": home.password_file(AGENT).read_text()}
        try:
            answer = await client.post("/auth/token", json=login)
            client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        except (httpx.HTTPError, ValueError, KeyError):
            return False
        known = await _get(client, "/api/v2/dags?limit=100")
    files = {file.name for file in DAGS.glob("*.py")}
    return known is not None and files <= {Path(dag["fileloc"]).name for dag in known["dags"]}


def _client(home: AirflowHome) -> httpx.AsyncClient:
    return loopback_client(home.url, timeout=ANSWERS_WITHIN)


async def _health(client: httpx.AsyncClient) -> dict[str, Any] | None:
    return await _get(client, "/api/v2/monitor/health")


async def _get(client: httpx.AsyncClient, path: str) -> dict[str, Any] | None:
    with suppress(httpx.HTTPError, ValueError):
        answer = await client.get(path)
        if answer.is_success:
            return dict(answer.json())
    return None
