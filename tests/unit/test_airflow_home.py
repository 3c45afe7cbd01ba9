"""A clinic's Airflow before it runs: its settings, its secrets, its database, and what a stack makes of it."""

import json
import os
import sqlite3
import sys
import tomllib
from configparser import ConfigParser
from contextlib import closing
from pathlib import Path

import pytest

from wardround.hub.folder import HubFolder
from wardround.runtime.roster import Roster
from wardround.site_agent.settings import Airflow, Local, load_site
from wardround.stack import airflow as module
from wardround.stack.airflow import airflow_programs, find_airflow, inherited_environment, prepare_airflow
from wardround.stack.airflow_home import AGENT, PERSON, AirflowHome
from wardround.stack.folder import Plan, StackError, read_plan, write_plan
from wardround.stack.ports import LOOPBACK
from wardround.stack.program import ProgramError
from wardround.stack.services import service_programs
from wardround.stack.sites import make_sites, python_of, spool_of, write_site_files
from wardround.stack.stages import missing_servers, stages

SITES = ("clinic-1", "clinic-2")


@pytest.fixture
def home(tmp_path: Path) -> AirflowHome:
    return AirflowHome(tmp_path / "50%" / "airflow", 20_001)


def written(home: AirflowHome) -> ConfigParser:
    home.write(Path("/dags"))
    parser = ConfigParser()
    parser.read(home.folder / "airflow.cfg")
    return parser


# --- settings and secrets --------------------------------------------------------------------------------------------


def test_tasks_speak_to_the_port_that_the_web_server_has(home: AirflowHome) -> None:
    settings = written(home)
    assert settings["api"]["port"] == "20001"
    assert settings["core"]["execution_api_server_url"] == "http://127.0.0.1:20001/execution/"


def test_nothing_but_the_loopback_interface_is_served_and_nobody_is_told(home: AirflowHome) -> None:
    settings = written(home)
    assert settings["api"]["host"] == LOOPBACK
    assert not settings.getboolean("scheduler", "enable_health_check")
    assert not settings.getboolean("usage_data_collection", "enabled")
    assert inherited_environment(home, {})["SCARF_ANALYTICS"] == "false"


def test_a_percent_sign_in_the_folder_stays_one(home: AirflowHome) -> None:
    assert written(home)["database"]["sql_alchemy_conn"] == f"sqlite:///{home.folder}/airflow.db"


def test_dags_run_at_once_and_are_not_paused(home: AirflowHome) -> None:
    assert not written(home).getboolean("core", "dags_are_paused_at_creation")


def test_secrets_are_their_owners_alone_and_stay_the_same(home: AirflowHome) -> None:
    first = written(home)
    passwords = json.loads((home.folder / "passwords.json").read_text())
    again = written(home)

    assert passwords == {name: home.password_file(name).read_text() for name in (AGENT, PERSON)}
    assert first == again
    secrets = [home.folder / "airflow.cfg", home.folder / "passwords.json", *(home.folder / "secrets").iterdir()]
    assert {file.stat().st_mode & 0o077 for file in secrets} == {0}
    assert len({file.read_text() for file in secrets}) == len(secrets)


def test_the_agent_may_start_runs_and_a_person_everything(home: AirflowHome) -> None:
    assert written(home)["core"]["simple_auth_manager_users"] == "site-agent:user,admin:admin"


# --- programs --------------------------------------------------------------------------------------------------------


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment whose `airflow` makes a database, notes that it did, and does nothing else."""
    command = tmp_path / "environment" / "bin" / "airflow"
    command.parent.mkdir(parents=True)
    command.write_text(
        f"#!{sys.executable}\n"
        "import os, sqlite3, sys\n"
        "from pathlib import Path\n"
        "assert sys.argv[1:] == ['db', 'migrate']\n"
        "home = Path(os.environ['AIRFLOW_HOME'])\n"
        "Path(__file__).with_name('migrated').open('a').write(home.name + ' ')\n"
        "connection = sqlite3.connect(home / 'airflow.db')\n"
        "connection.execute('CREATE TABLE IF NOT EXISTS runs (id)')\n"
        "connection.execute('INSERT INTO runs VALUES (1)')\n"
        "connection.commit()\n"
    )
    command.chmod(0o755)
    monkeypatch.setenv("WARDROUND_AIRFLOW", str(tmp_path / "environment"))
    return command


def says_its_version(command: Path, version: str) -> None:
    packages = command.parents[1] / "lib" / "python3.11" / "site-packages"
    for old in packages.glob("apache_airflow_core-*"):
        old.rmdir()
    (packages / f"apache_airflow_core-{version}.dist-info").mkdir(parents=True)


def test_trainings_find_no_secret_in_what_they_inherit(home: AirflowHome, fake: Path) -> None:
    written(home)
    secrets = [file.read_text() for file in (home.folder / "secrets").iterdir()]
    for program in airflow_programs(home, spool=Path("/spool"), python="/python", environment=dict(os.environ)):
        seen = "\0".join((*program.command, *program.environment.values()))
        assert not [secret for secret in secrets if secret in seen]
        assert program.environment["WARDROUND_SPOOL"] == "/spool"
        assert program.environment["WARDROUND_PYTHON"] == "/python"


def test_another_airflows_settings_foreign_modules_and_proxies_are_not_inherited(home: AirflowHome) -> None:
    foreign = {
        "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
        "AIRFLOW_HOME": "/home/person/airflow",
        "PYTHONPATH": "/home/person",
        "https_proxy": "http://proxy",
        "HTTP_PROXY": "http://proxy",
    }
    inherited = inherited_environment(home, {**foreign, "WARDROUND_STACK": "/stack", "TZ": "UTC"})
    assert inherited.keys() & foreign.keys() == {"AIRFLOW_HOME"}
    assert inherited["AIRFLOW_HOME"] == str(home.folder)
    assert (inherited["WARDROUND_STACK"], inherited["TZ"]) == ("/stack", "UTC")


def test_airflow_is_found_by_its_environment_or_its_command(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_airflow() == fake
    monkeypatch.setenv("WARDROUND_AIRFLOW", str(fake))
    assert find_airflow() == fake


def test_an_airflow_that_is_named_and_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARDROUND_AIRFLOW", str(tmp_path))
    monkeypatch.setattr("wardround.stack.stages.find_rabbitmq", lambda: tmp_path)
    monkeypatch.setattr("wardround.stack.stages.find_minio", lambda: tmp_path)
    missing_servers()
    with pytest.raises(StackError, match=f"WARDROUND_AIRFLOW names {tmp_path}, which is no environment"):
        missing_servers(airflow=True)
    with pytest.raises(ProgramError, match="WARDROUND_AIRFLOW"):
        airflow_programs(AirflowHome(tmp_path, 1), spool=tmp_path, python="python")


# --- the database ----------------------------------------------------------------------------------------------------


def rows(home: AirflowHome) -> int:
    with closing(sqlite3.connect(home.database)) as connection:
        return int(connection.execute("SELECT count(*) FROM runs").fetchone()[0])


async def test_the_database_is_made_once_and_copied_for_each_clinic(tmp_path: Path, fake: Path) -> None:
    says_its_version(fake, "3.3.2")
    homes = [AirflowHome(tmp_path / site, 1) for site in SITES]
    for home in (*homes, *homes):
        await prepare_airflow(home, tmp_path)
    assert fake.with_name("migrated").read_text() == "clinic-1 "
    assert [rows(home) for home in homes] == [1, 1]


async def test_a_database_of_another_version_is_migrated_and_keeps_its_runs(tmp_path: Path, fake: Path) -> None:
    home = AirflowHome(tmp_path / "clinic-1", 1)
    for version in ("3.3.2", "3.4.0", "3.4.0"):
        says_its_version(fake, version)
        await prepare_airflow(home, tmp_path)
    assert rows(home) == 2


async def test_a_new_clinics_database_is_not_a_copy_of_an_earlier_versions(tmp_path: Path, fake: Path) -> None:
    for site, version in zip(SITES, ("3.3.2", "3.4.0"), strict=True):
        says_its_version(fake, version)
        await prepare_airflow(AirflowHome(tmp_path / site, 1), tmp_path)
    assert fake.with_name("migrated").read_text() == "clinic-1 clinic-2 "


async def test_an_airflow_that_does_not_tell_its_version_migrates_at_each_start(tmp_path: Path, fake: Path) -> None:
    home = AirflowHome(tmp_path / "clinic-1", 1)
    for _ in range(2):
        await prepare_airflow(home, tmp_path)
    assert rows(home) == 2


async def test_a_migration_that_fails_is_told_with_its_log(tmp_path: Path, fake: Path) -> None:
    fake.write_text("#!/bin/sh\necho no space\nexit 3\n")
    home = AirflowHome(tmp_path / "clinic-1", 1)
    with pytest.raises(ProgramError, match="could not make its database"):
        await prepare_airflow(home, tmp_path)
    assert "no space" in (home.folder / "logs" / "migrate.log").read_text()


async def test_a_migration_that_hangs_is_ended(tmp_path: Path, fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.write_text("#!/bin/sh\nexec sleep 600\n")
    monkeypatch.setattr(module, "PREPARED_WITHIN", 0.3)
    with pytest.raises(ProgramError, match="was not ready in 0 s"):
        await prepare_airflow(AirflowHome(tmp_path / "clinic-1", 1), tmp_path)


# --- in a stack ------------------------------------------------------------------------------------------------------


def planned(**options: object) -> Plan:
    return Plan.model_validate({"name": "x", "sites": SITES, "seed": 7, **options}).with_ports()


def hub_of(folder: Path, plan: Plan) -> HubFolder:
    roster = Roster(broker="amqp://127.0.0.1:1", store="http://127.0.0.1:2", sites=plan.sites, researchers=())
    hub = HubFolder(folder / "hub", roster)
    hub.write()
    return hub


def made(folder: Path, plan: Plan) -> HubFolder:
    """The clinics and the hub, as `stack up` makes them."""
    make_sites(folder / "sites", plan.sites, plan.seed)
    hub = hub_of(folder, plan)
    if plan.airflow:
        for site in plan.sites:
            AirflowHome.of(folder, plan, site).write(Path("/dags"))
    write_site_files(folder, plan, hub)
    return hub


def test_each_clinic_has_an_airflow_at_a_port_of_its_own() -> None:
    plan = planned(airflow=True)
    ports = {plan.airflow_port(site) for site in SITES}
    assert len(ports | {plan.ports[site] for site in SITES}) == 4
    assert not [name for name in planned().ports if "." in name]


def test_a_plan_from_before_there_was_airflow_is_read(tmp_path: Path) -> None:
    write_plan(tmp_path, planned())
    table = json.loads((tmp_path / "stack.json").read_text())
    del table["airflow"]
    (tmp_path / "stack.json").write_text(json.dumps(table))
    plan = read_plan(tmp_path)
    assert plan is not None
    assert not plan.airflow


def test_the_clinics_airflows_start_before_their_agents_and_stop_after_them(tmp_path: Path, fake: Path) -> None:
    if not _servers_are_here():
        pytest.skip("RabbitMQ or MinIO is not installed here")
    plan = planned(airflow=True)
    names = [[program.name for program in stage.programs] for stage in stages(tmp_path, plan, made(tmp_path, plan))]
    assert names[2:4] == [
        ["clinic-1.api-server", "clinic-2.api-server"],
        ["clinic-1.dag-processor", "clinic-1.scheduler", "clinic-2.dag-processor", "clinic-2.scheduler"],
    ]
    assert {"clinic-1", "clinic-2"} < set(names[4])


def _servers_are_here() -> bool:
    try:
        missing_servers()
    except StackError:
        return False
    return True


def test_the_site_file_of_a_stacks_clinic_is_complete(tmp_path: Path) -> None:
    plan = planned(airflow=True)
    hub = made(tmp_path, plan)
    site = load_site(tmp_path / "sites" / "clinic-1" / "site.toml")

    assert site.hub is not None
    assert site.hub.password.read() == hub.broker_secret("clinic-1").read_text()
    assert site.hub.store_key.read() == hub.store_secret("clinic-1").read_text()
    assert site.http.port == plan.ports["clinic-1"]
    assert site.paths.spool == spool_of(tmp_path, "clinic-1")
    assert isinstance(site.scheduler, Airflow)
    assert site.scheduler.url == f"http://127.0.0.1:{plan.airflow_port('clinic-1')}"
    assert site.scheduler.password.read() == AirflowHome.of(tmp_path, plan, "clinic-1").password_file(AGENT).read_text()
    assert {"breast-cancer", "counting"} < site.datasets.keys()
    assert site.datasets["counting"].salt()


def test_what_a_person_added_to_the_site_file_is_kept(tmp_path: Path) -> None:
    plan = planned(airflow=True)
    hub = made(tmp_path, plan)
    file = tmp_path / "sites" / "clinic-1" / "site.toml"
    salt = (file.parent / "secrets" / "split").read_text()
    file.write_text(
        file.read_text().replace("slots = 1", "slots = 3\nretries = 2") + '\n[datasets.ours]\npath = "/data/ours"\n'
    )

    write_site_files(tmp_path, plan.model_copy(update={"airflow": False}), hub)
    site = load_site(file)

    assert isinstance(site.scheduler, Local)
    assert (site.scheduler.slots, site.scheduler.retries) == (3, 2)
    assert {"ours", "counting"} < site.datasets.keys()
    assert (file.parent / "secrets" / "split").read_text() == salt


def test_a_persons_own_clinics_are_told_by_the_environment_and_their_files_stay(tmp_path: Path) -> None:
    own = tmp_path / "own"
    for site in SITES:
        (own / site).mkdir(parents=True)
        paths = '[paths]\ninbox = "i"\nlog = "l"\nspool = "s"\n'
        (own / site / "site.toml").write_text(
            f'schema = 1\nsite = "{site}"\n{paths}[scheduler]\npython = "bin/python"\n'
        )
    plan = planned(airflow=True, own_sites=own)
    before = (own / "clinic-1" / "site.toml").read_text()
    agent = service_programs(tmp_path, plan, hub_of(tmp_path, plan))["clinic-1"]

    said = {
        name.removeprefix("WARDROUND_SITE_AGENT__"): tomllib.loads(f"value = {value}")["value"]
        for name, value in agent.environment.items()
        if name.startswith("WARDROUND_SITE_AGENT__")
    }
    assert said["SCHEDULER__KIND"] == "airflow"
    assert said["SCHEDULER__URL"] == AirflowHome.of(tmp_path, plan, "clinic-1").url
    assert said["PATHS__SPOOL"] == str(spool_of(tmp_path, "clinic-1"))
    assert said["HUB__USERNAME"] == "clinic-1"
    assert python_of(tmp_path, plan, "clinic-1") == str(own / "clinic-1" / "bin" / "python")
    assert (own / "clinic-1" / "site.toml").read_text() == before


def test_without_another_word_trainings_run_with_this_interpreter(tmp_path: Path) -> None:
    plan = planned(airflow=True)
    made(tmp_path, plan)
    assert python_of(tmp_path, plan, "clinic-1") == sys.executable
