"""What the files for Docker Compose promise, read from them as they are: no engine and no server is needed."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from wardround.aggregator.main import AggregatorShell
from wardround.coordinator.main import CoordinatorShell
from wardround.hub.folder import HubFolder
from wardround.hub.rabbitmq_conf import Tls, rabbitmq_conf
from wardround.metrics.main import MetricsShell
from wardround.runtime.encryption import refuse_unencrypted
from wardround.runtime.http_settings import is_loopback, refuse_exposed
from wardround.runtime.roster import Roster
from wardround.runtime.service import Shell
from wardround.site_agent.main import AgentShell

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "compose"
SHELLS: Mapping[str, Shell[Any]] = {
    "coordinator": CoordinatorShell(),
    "aggregator": AggregatorShell(),
    "metrics": MetricsShell(),
    "agent": AgentShell(),
}
# What the README has an operator make beside what `wardround hub init` makes.
MADE_BY_HAND = ("tls/hub.crt", "tls/hub.key", "secrets/metrics.token")


def defaults(value: Any) -> Any:
    """The value with every variable at its default."""
    if isinstance(value, str):
        return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)
    if isinstance(value, list):
        return [defaults(each) for each in value]
    if isinstance(value, dict):
        return {key: defaults(each) for key, each in value.items()}
    return value


def read(name: str) -> dict[str, Any]:
    composed: dict[str, Any] = defaults(yaml.safe_load((COMPOSE / name).read_text()))
    return composed


HUB, SITE = read("hub.yaml"), read("site.yaml")
SERVICES = {**HUB["services"], **SITE["services"]}
STAYING = {name: service for name, service in SERVICES.items() if service["restart"] != "no"}

each_service = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
each_staying_service = pytest.mark.parametrize("service", STAYING.values(), ids=STAYING)


# --- containers -------------------------------------------------------------------------------------------------------


@each_service
def test_a_container_has_no_rights_that_it_does_not_need(service: dict[str, Any]) -> None:
    uid, gid = service["user"].split(":")
    assert int(uid) > 0
    assert int(gid) > 0
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "network_mode", "pid", "ipc", "devices"} & service.keys()


@each_service
def test_what_a_container_may_use_is_bounded(service: dict[str, Any]) -> None:
    assert service["mem_limit"]
    assert service["pids_limit"]
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}


@each_staying_service
def test_a_container_that_stays_is_restarted_and_says_how_it_is(service: dict[str, Any]) -> None:
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"][0] == "CMD"
    assert {"interval", "timeout", "start_period"} <= service["healthcheck"].keys()


def test_a_service_of_the_hub_stays_within_256_mib() -> None:
    assert {SERVICES[name]["mem_limit"] for name in ("coordinator", "aggregator", "metrics", "apply")} == {"256m"}


def test_other_machines_reach_broker_and_store_alone() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"broker": ["5671:5671"], "store": ["9000:9000"], "metrics": ["127.0.0.1:8080:8080"]}


def test_services_that_publish_nothing_reach_nothing_but_the_hub() -> None:
    assert HUB["networks"]["hub"] == {"internal": True}
    for name, service in HUB["services"].items():
        assert "hub" in service["networks"]
        assert ("outside" in service["networks"]) is ("ports" in service), name


def test_services_start_after_the_store_knows_their_logins() -> None:
    for name in ("coordinator", "aggregator", "metrics"):
        assert SERVICES[name]["depends_on"] == {
            "broker": {"condition": "service_healthy"},
            "store": {"condition": "service_healthy"},
            "apply": {"condition": "service_completed_successfully"},
        }
    assert SERVICES["apply"]["depends_on"] == {"store": {"condition": "service_healthy"}}


# --- files and secrets ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> HubFolder:
    """A hub's folder as the README has it made."""
    made = tmp_path_factory.mktemp("compose") / "hub"
    made.mkdir()
    trustme.CA().cert_pem.write_to_path(made / "ca.pem")
    roster = Roster(
        broker="amqps://hub.example.org:5671",
        store="https://store.example.org:9000",
        ca=str(made / "ca.pem"),  # type: ignore[arg-type]
        sites=("clinic-1",),
    )
    folder = HubFolder.init(made, roster)
    for name in MADE_BY_HAND:
        (made / name).parent.mkdir(exist_ok=True)
        (made / name).touch(0o600)
        (made / name).write_text("made by hand")
    return folder


def on_disk(source: str, hub: HubFolder) -> Path:
    return hub.path / source.removeprefix("./hub/") if source.startswith("./hub/") else COMPOSE / source


@pytest.mark.parametrize("kind", ["configs", "secrets"])
def test_every_file_that_is_mounted_is_there_when_the_hub_was_made(kind: str, hub: HubFolder) -> None:
    used = {each if isinstance(each, str) else each["source"] for s in SERVICES.values() for each in s.get(kind, ())}
    assert used == HUB[kind].keys()
    for name, entry in HUB[kind].items():
        assert on_disk(entry["file"], hub).is_file(), name


def test_what_others_must_not_read_is_a_secret(hub: HubFolder) -> None:
    for entry in HUB["configs"].values():
        assert "secrets/" not in entry["file"]
        assert not entry["file"].endswith((".key", "definitions.json"))


@each_service
def test_no_secret_is_in_the_environment(service: dict[str, Any]) -> None:
    for key, value in service.get("environment", {}).items():
        assert not re.search("PASSWORD|SECRET|TOKEN", key) or (key.endswith("__FILE") and value.startswith("/")), key
        assert not re.search("//.*@", str(value)), key


def mounted(service: Mapping[str, Any], hub: HubFolder, root: Path) -> None:
    """The files that the container would find, below `root`."""
    for kind in ("configs", "secrets"):
        for each in service.get(kind, ()):
            target = root / each["target"].removeprefix("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(on_disk(HUB[kind][each["source"]]["file"], hub), target)


def inside(service: Mapping[str, Any], root: Path) -> dict[str, str]:
    """The container's environment, its folders below `root`."""
    environment = {key: str(value) for key, value in service["environment"].items()}
    return {key: f"{root}{value}" if value.startswith("/") else value for key, value in environment.items()}


@pytest.mark.parametrize("name", ["coordinator", "aggregator", "metrics"])
def test_a_service_starts_with_the_settings_and_secrets_that_are_mounted(
    name: str, hub: HubFolder, tmp_path: Path
) -> None:
    service = SERVICES[name]
    mounted(service, hub, tmp_path)
    settings = SHELLS[name].load(f"{tmp_path}{service['command'][0]}", inside(service, tmp_path))
    assert settings.hub.password.read() == hub.broker_secret(name).read_text()
    assert settings.hub.store_key.read() == hub.store_secret(name).read_text()
    assert settings.hub.ca.is_file()
    refuse_unencrypted((settings.hub.broker, settings.hub.store), False)
    refuse_exposed(settings.http, insecure_lab=False)
    assert is_loopback(settings.http.host) is ("ports" not in service)
    assert service["healthcheck"]["test"][-1].endswith(f":{settings.http.port}/ready")


def test_the_services_reach_broker_and_store_by_names_of_their_network() -> None:
    aliases = {
        f"{port}": HUB["services"][name]["networks"]["hub"]["aliases"][0]
        for name, port in (("broker", "5671"), ("store", "9000"))
    }
    assert len(set(aliases.values())) == 2
    for name in ("coordinator", "aggregator", "metrics"):
        prefix = f"WARDROUND_{name.upper()}__HUB__"
        assert SERVICES[name]["environment"][f"{prefix}BROKER"] == f"amqps://{aliases['5671']}:5671"
        assert SERVICES[name]["environment"][f"{prefix}STORE"] == f"https://{aliases['9000']}:9000"
    assert SERVICES["store"]["environment"]["BROKER"] == f"amqps://{aliases['5671']}:5671"
    assert f"https://{aliases['9000']}:9000" in SERVICES["apply"]["command"]


def test_an_agent_starts_from_the_folder_that_was_handed_over_and_writes_beside_it(
    hub: HubFolder, tmp_path: Path
) -> None:
    agent = SERVICES["agent"]
    shutil.copytree(hub.path / "sites/clinic-1", tmp_path / "site")
    settings = SHELLS["agent"].load(f"{tmp_path}{agent['command'][0]}", inside(agent, tmp_path))
    assert settings.site.hub.password.read() == hub.broker_secret("clinic-1").read_text()
    paths = settings.site.paths
    volumes = {each.partition(":")[2] for each in agent["volumes"] if isinstance(each, str)}
    written = {f"/{path.relative_to(tmp_path).parts[0]}" for path in (paths.inbox, paths.log, paths.spool)}
    assert written == volumes == {"/state", "/spool"}
    binds = {each["target"]: each for each in agent["volumes"] if isinstance(each, dict)}
    assert binds.keys() == {"/site", "/data"}
    assert all(each["read_only"] and not each["bind"]["create_host_path"] for each in binds.values())
    assert "ports" not in agent


# --- the broker's settings --------------------------------------------------------------------------------------------


def test_the_brokers_settings_are_those_of_every_broker_of_wardround() -> None:
    secrets = Path("/run/secrets")
    assert (COMPOSE / "rabbitmq.conf").read_text() == rabbitmq_conf(
        definitions=secrets / "definitions.json",
        port=None,
        tls=Tls(5671, secrets / "hub.crt", secrets / "hub.key", host="0.0.0.0"),
        memory="512MB",
    )
    assert {"definitions.json", "hub.crt", "hub.key"} == set(SERVICES["broker"]["secrets"])


# --- a real client ----------------------------------------------------------------------------------------------------


def compose_client() -> list[str]:
    """The command of an installed Docker Compose."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]):
            asked = subprocess.run([*command, "version"], capture_output=True, check=False)
            if asked.returncode == 0:
                return command
    pytest.skip("no Docker Compose is installed here")


@pytest.mark.parametrize("name", ["hub", "site"])
def test_docker_compose_reads_the_files(name: str) -> None:
    command = [*compose_client(), "-f", str(COMPOSE / f"{name}.yaml")]
    for more in ([], ["--env-file", str(COMPOSE / f"{name}.env.example")]):
        asked = subprocess.run([*command, *more, "config", "-q"], capture_output=True, text=True, check=False)
        assert (asked.returncode, asked.stderr) == (0, "")
