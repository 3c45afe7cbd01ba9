"""A clinic's doctor at a real Airflow: a healthy one is found well, and each fault is found where it is."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from servers.airflow import AirflowServer
from servers.airflow_person import person_at
from wardround.client.doctor import probe as probing
from wardround.client.doctor.findings import Finding, examine
from wardround.client.doctor.site import SiteDoctor
from wardround.site_agent.main import AgentShell
from wardround.stack.ports import free_ports
from wardround.training.datasets.counting import write

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

DAG = "wardround_task"
Found = dict[str, Finding]


@dataclass
class Clinic:
    """A clinic's folder whose scheduler is the Airflow under test, with whatever is changed in its settings."""

    folder: Path
    server: AirflowServer
    keys: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        write(self.folder / "data", ["clinic-1"], 1)
        settings = self.server.settings()
        self.keys = {
            "scheduler.url": settings.url,
            "scheduler.username": settings.username,
            "scheduler.password.file": f"'{settings.password.file}'",
            "paths.spool": f"'{self.server.spool}'",
        }
        (self.folder / "site.toml").write_text(
            """schema = 1
site = "clinic-1"
[paths]
inbox = "inbox"
log = "log"
spool = "spool"
[scheduler]
kind = "airflow"
[datasets.counting]
path = "data/clinic-1/counting"
"""
        )

    async def looked(self, **changed: str) -> Found:
        keys = self.keys | {key.replace("__", "."): value for key, value in changed.items()}
        environ = {f"WARDROUND_SITE_AGENT__{key.upper().replace('.', '__')}": value for key, value in keys.items()}
        doctor = SiteDoctor(AgentShell().load(str(self.folder), environ))
        try:
            found = {each.name: each for each in await examine(doctor.checks())}
        finally:
            await doctor.close()
        assert list(self.server.spool.glob("doctor-*")) == []
        return found


@pytest.fixture
def clinic(tmp_path: Path, airflow_server: AirflowServer) -> Clinic:
    return Clinic(tmp_path, airflow_server)


@pytest.fixture
async def paused(airflow_server: AirflowServer) -> AsyncIterator[None]:
    async with person_at(airflow_server.url, *airflow_server.admin) as person:
        await person.pauses(True)
        yield
        await person.pauses(False)


def of_airflow(found: Found) -> dict[str, str]:
    """The state of each finding about the scheduler."""
    return {name: each.state for name, each in found.items() if "Airflow" in name or DAG in name}


async def test_healthy_airflow_is_well_and_a_probe_comes_back(clinic: Clinic) -> None:
    found = await clinic.looked()

    assert of_airflow(found) == dict.fromkeys(
        ("Airflow", "Airflow login", "Airflow health", f"DAG {DAG}", f"run of {DAG}", f"data at {DAG}"), "ok"
    )
    assert found["Airflow login"].what.startswith("Airflow 3.3")
    assert "a task came back with its result" in found[f"run of {DAG}"].what


async def test_spool_that_the_worker_does_not_share_is_found_by_the_probe(clinic: Clinic) -> None:
    found = await clinic.looked(paths__spool=f"'{clinic.folder / 'another'}'")

    spool = found[f"run of {DAG}"]
    assert spool.state == "wrong"
    assert "does not see the folder" in spool.what
    assert "WARDROUND_SPOOL" in spool.to_do
    assert found[f"data at {DAG}"].what == f"needs: run of {DAG}"
    assert list((clinic.folder / "another").iterdir()) == []


async def test_paused_dag_is_found_before_anything_is_triggered(clinic: Clinic, paused: None) -> None:
    found = await clinic.looked()
    assert found[f"DAG {DAG}"].state == "wrong"
    assert "is paused" in found[f"DAG {DAG}"].what
    assert found[f"run of {DAG}"].what == f"needs: DAG {DAG}"


async def test_dag_that_is_not_there_is_named(clinic: Clinic) -> None:
    found = await clinic.looked(scheduler__dags__default="another_task")
    assert found["DAG another_task"].state == "wrong"
    assert "Airflow has no DAG another_task" in found["DAG another_task"].what


async def test_dag_with_fewer_runs_at_once_than_slots_is_a_warning(clinic: Clinic) -> None:
    found = await clinic.looked(scheduler__slots="100")
    assert found[f"DAG {DAG}"].state == "warning"
    assert "the agent asks for 100" in found[f"DAG {DAG}"].what
    assert found[f"run of {DAG}"].state == "ok"


async def test_wrong_password_is_found_at_the_login_and_not_shown(clinic: Clinic) -> None:
    other = clinic.folder / "other"
    other.write_text("another-password")
    other.chmod(0o600)
    found = await clinic.looked(scheduler__password__file=f"'{other}'")
    assert found["Airflow login"].state == "wrong"
    assert "refuses the agent's login" in found["Airflow login"].what
    assert "another-password" not in json.dumps([each.what + each.to_do for each in found.values()])
    assert found["Airflow health"].state == "skipped"


async def test_airflow_that_is_away_is_found_at_its_address(clinic: Clinic) -> None:
    (port,) = free_ports(1)
    found = await clinic.looked(scheduler__url=f"http://127.0.0.1:{port}")
    assert found["Airflow"].what == f"nothing listens at 127.0.0.1:{port}"


@pytest.fixture
async def without(airflow_server: AirflowServer) -> AsyncIterator[Callable[[str], Awaitable[None]]]:
    """Kill a component, and have Airflow notice; it runs again at the end."""
    async with AsyncExitStack() as again:

        async def without(component: str) -> None:
            airflow_server.kill(component)
            again.push_async_callback(airflow_server.start, component)
            name = component.replace("-", "_")
            async with (
                httpx.AsyncClient(base_url=airflow_server.url, trust_env=False, timeout=60) as client,
                asyncio.timeout(60),
            ):
                while (await client.get("/api/v2/monitor/health")).json()[name]["status"] == "healthy":  # noqa: ASYNC110
                    await asyncio.sleep(0.5)

        yield without


async def test_scheduler_that_died_is_found_by_its_missing_heartbeat(
    clinic: Clinic, without: Callable[[str], Awaitable[None]]
) -> None:
    await without("scheduler")
    found = await clinic.looked()
    assert found["Airflow health"].state == "wrong"
    assert found["Airflow health"].what == "its scheduler is unhealthy: no run starts"
    assert found[f"run of {DAG}"].state == "skipped"


async def test_run_that_nobody_takes_out_of_the_queue_is_found_and_taken_back(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scheduler dies when Airflow still believes it alive."""
    monkeypatch.setattr(probing, "BEGINS_WITHIN", 3.0)
    clinic.server.kill("scheduler")
    try:
        found = await clinic.looked()
        assert found[f"run of {DAG}"].state == "wrong"
        assert "waited in the queue for 3 s" in found[f"run of {DAG}"].what
        async with person_at(clinic.server.url, *clinic.server.admin) as person:
            runs = await person.asks("GET", f"/api/v2/dags/{DAG}/dagRuns?limit=100&state=queued")
        assert runs["total_entries"] == 0
    finally:
        await clinic.server.start("scheduler")
