"""A stack whose clinics train on an Airflow each: the same bytes, the runs to be seen there, nothing left behind."""

import asyncio
import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from servers.airflow import require_airflow
from servers.airflow_person import DAG, Person, person_at
from servers.stack import SITES, Stack, require_servers
from simulation.whole import counting, run
from wardround.client.experiment_file import load_experiment
from wardround.client.hub import Hub
from wardround.metrics.view import ExperimentView
from wardround.simulation.run import Embedding, run_federation
from wardround.simulation.sites import make_clinics
from wardround.site_agent.settings import load_site
from wardround.stack.airflow_home import AGENT, PERSON, AirflowHome
from wardround.stack.folder import read_state
from wardround_messages.manifest import Manifest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Stack]:
    """One clinic with an Airflow, not yet up."""
    require_servers()
    require_airflow()
    stack = Stack(tmp_path, "alone")
    yield stack
    if read_state(stack.folder) is not None:
        stack.down()


def told(stack: Stack) -> dict[str, Any]:
    """What `status` says."""
    return dict(json.loads(stack.cli("stack", "status", "--folder", str(stack.folder), "--json")))


def airflow_of(stack: Stack, site: str) -> AbstractAsyncContextManager[Person]:
    login = told(stack)["airflow"][site]
    return person_at(login["url"], login["username"], login["password"])


async def runs_at(stack: Stack, site: str, experiment: str) -> dict[str, str]:
    """Run id -> state, of the runs of an experiment."""
    async with airflow_of(stack, site) as person:
        only = {"limit": 100, "run_id_pattern": f"{experiment}.%"}
        answer = await person.asks("GET", f"{DAG}/dagRuns", params=only)
    return {run["dag_run_id"]: run["state"] for run in answer["dag_runs"]}


async def carried_through(hub: Hub, experiment: str, *, within: float = 200) -> ExperimentView:
    async with asyncio.timeout(within):
        async for view in hub.watch(experiment):
            last = view
    return last


async def simulated(folder: Path, manifest: Manifest) -> str:
    _, state = await run(folder, manifest)
    return state.models[manifest.rounds.count].sha256


def of_the_stack(stack: Stack) -> list[psutil.Process]:
    """The processes that work in the stack's folder, whatever they call themselves and whoever started them."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(stack.folder):
                found.append(process)
        except psutil.Error:
            continue
    return found


def trainings(stack: Stack) -> list[psutil.Process]:
    return [process for process in of_the_stack(stack) if "wardround.training" in process.cmdline()]


async def until_a_training_runs(stack: Stack) -> psutil.Process:
    async with asyncio.timeout(60):
        while not (found := trainings(stack)):  # noqa: ASYNC110 - a process raises no event
            await asyncio.sleep(0.1)
    return found[0]


async def test_breast_cancer_ends_with_the_bytes_of_the_simulation_and_airflow_shows_its_runs(
    airflow_stack: Stack, tmp_path: Path
) -> None:
    manifest = load_experiment(Path("examples/breast-cancer.toml"))
    alike = await run_federation(
        manifest,
        make_clinics(tmp_path / "sites", manifest, scheduler="inline"),
        tmp_path,
        Embedding(),
        watch=lambda *_: None,
    )
    assert alike.view is not None
    assert alike.view.model is not None

    async with airflow_stack.hub() as hub:
        await hub.start(manifest)
        view = await carried_through(hub, manifest.id)

    assert (view.phase, view.rounds_done) == ("finished", 10)
    assert view.model is not None
    assert view.model.sha256 == alike.view.model.sha256
    for site in SITES:
        runs = await runs_at(airflow_stack, site, manifest.id)
        assert len([run for run in runs if ".train." in run]) == 10
        assert set(runs.values()) == {"success"}


async def test_status_tells_a_person_where_each_airflow_is_and_how_to_log_in(airflow_stack: Stack) -> None:
    shown = airflow_stack.cli("stack", "status", "--folder", str(airflow_stack.folder))
    logins = told(airflow_stack)["airflow"]
    assert logins.keys() == set(SITES)
    for site, login in logins.items():
        line = rf"^Airflow of {site} +{re.escape(login['url'])} +{PERSON}, password {re.escape(login['password'])}$"
        assert re.search(line, shown, re.MULTILINE), shown
        assert Path(login["password_file"]).read_text() == login["password"]
        assert Path(login["password_file"]).stat().st_mode & 0o077 == 0
        async with airflow_of(airflow_stack, site) as person:
            await person.asks("GET", "/api/v2/connections")


async def test_the_agents_login_starts_runs_and_sees_no_connections(airflow_stack: Stack) -> None:
    home = AirflowHome.of(airflow_stack.folder, airflow_stack.plan, "clinic-1")
    async with httpx.AsyncClient(base_url=home.url, trust_env=False, timeout=20) as client:
        login = {"username": AGENT, "password": home.password_file(AGENT).read_text()}
        token = (await client.post("/auth/token", json=login)).json()["access_token"]
        client.headers["Authorization"] = f"Bearer {token}"
        assert (await client.get(f"{DAG}/dagRuns")).status_code == 200
        assert (await client.get("/api/v2/connections")).status_code == 403


def test_each_airflow_listens_on_its_own_port_of_the_loopback_interface_and_on_no_other(airflow_stack: Stack) -> None:
    ports = {airflow_stack.plan.airflow_port(site) for site in SITES}
    listening = set()
    for process in of_the_stack(airflow_stack):
        if process.cwd().startswith(str(airflow_stack.folder / "servers" / "airflow")):
            listening |= {each.laddr for each in process.net_connections("inet") if each.status == psutil.CONN_LISTEN}
    assert {address.ip for address in listening} == {"127.0.0.1"}
    assert {address.port for address in listening} == ports


def test_no_secret_of_an_airflow_stands_in_a_log_a_command_line_or_an_environment(airflow_stack: Stack) -> None:
    airflows = airflow_stack.folder / "servers" / "airflow"
    secrets = {str(file): file.read_text() for file in airflows.glob("*/secrets/*")}
    assert len(secrets) == 15
    places = {
        str(log): log.read_text(errors="replace")
        for log in (*(airflow_stack.folder / "logs").glob("*.log"), *airflows.glob("*/logs/**/*.log"))
    }
    places |= {str(file): file.read_text() for file in airflow_stack.folder.glob("*.json")}
    for process in of_the_stack(airflow_stack):
        places[f"{process.pid}: command"] = "\0".join(process.cmdline())
        places[f"{process.pid}: environment"] = "\0".join(process.environ().values())
    for place, text in places.items():
        for name, secret in secrets.items():
            assert secret not in text, f"the secret {name} stands in {place}"


def test_a_clinic_of_the_stack_is_one_that_a_person_can_look_into(airflow_stack: Stack) -> None:
    site = load_site(airflow_stack.folder / "sites" / "clinic-2" / "site.toml")
    assert site.scheduler.kind == "airflow"
    folder = str(airflow_stack.folder / "sites" / "clinic-2")
    shown = airflow_stack.cli("site", "policy", "explain", "examples/breast-cancer.toml", "--site", folder)
    assert "allow" in shown


async def test_a_training_cut_off_by_down_is_finished_after_the_next_up_and_the_runs_of_before_are_there(
    alone: Stack, tmp_path: Path
) -> None:
    manifest = counting(id="count", sites=1, count=2, parameters={"seconds": 3.0})
    alone.up("--sites", "1", "--airflow")
    async with alone.hub() as hub:
        await hub.start(manifest)
    cut_off = await until_a_training_runs(alone)
    alone.down()
    assert of_the_stack(alone) == []
    assert not cut_off.is_running()

    alone.up("--sites", "1", "--airflow")
    async with alone.hub() as hub:
        view = await carried_through(hub, "count")
    assert view.phase == "finished"
    assert view.model is not None
    assert view.model.sha256 == await simulated(tmp_path / "simulated", manifest)
    runs = await runs_at(alone, "clinic-1", "count")
    assert len([run for run in runs if ".train." in run]) >= 2

    # The machine fails, as far as programs see: nobody has told them to stop.
    async with alone.hub() as hub:
        await hub.start(manifest.model_copy(update={"id": "second"}))
    await until_a_training_runs(alone)
    state = read_state(alone.folder)
    assert state is not None
    os.kill(state.supervisor, signal.SIGKILL)
    alone.down()
    assert of_the_stack(alone) == []
