"""What the images promise: how they are built, how they are asked, and how MinIO comes to its secrets."""

import http.server
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from wardround.aggregator.settings import AggregatorSettings
from wardround.coordinator.settings import CoordinatorSettings
from wardround.metrics.settings import MetricsSettings
from wardround.site_agent.settings import SiteSettings
from wardround.stack.minio import minio

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "compose/images"
PROBE = IMAGES / "wardround/probe.py"
START = IMAGES / "minio/start.sh"
SETTINGS: Mapping[str, type[BaseModel]] = {
    "coordinator": CoordinatorSettings,
    "aggregator": AggregatorSettings,
    "metrics": MetricsSettings,
    "site-agent": SiteSettings,
}


def services() -> dict[str, Any]:
    """The services of both compose files, every variable at its default."""
    texts = [(ROOT / f"compose/{name}.yaml").read_text() for name in ("hub", "site")]
    hub, site = (yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text))["services"] for text in texts)
    return {**hub, **site}


SERVICES = services()
PARTS = {
    part: service for service in SERVICES.values() if (part := service.get("build", {}).get("args", {}).get("PART"))
}


def dockerfile(image: str) -> str:
    return (IMAGES / image / "Dockerfile").read_text()


# --- images -----------------------------------------------------------------------------------------------------------


def test_minio_is_built_from_the_source_that_the_tests_use() -> None:
    def source(text: str) -> str:
        found = re.search(r"MINIO_SOURCE=(\S+)", text)
        assert found is not None
        return found[1]

    built = source(dockerfile("minio"))
    assert built == source((ROOT / "deploy/servers.sh").read_text())
    commit = built.rpartition("-")[2]
    assert SERVICES["store"]["image"] == f"wardround/minio:{commit}"
    assert f'image.source="https://github.com/minio/minio/tree/{commit}"' in dockerfile("minio")


def test_every_part_has_a_command_and_extras_that_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    described = dict(re.findall(r"^ +([a-z| -]+)\) (extras=.*) ;;", dockerfile("wardround"), re.MULTILINE))
    parts = {part.strip(): line for parts, line in described.items() for part in parts.split("|")}
    assert parts.keys() == PARTS.keys() == {*SETTINGS, "client"}
    for part, line in parts.items():
        extras, command = (word.partition("=")[2] for word in line.replace("$PART", part).split())
        assert set(extras.split(",")) <= project["optional-dependencies"].keys()
        assert command in project["scripts"]


def test_images_have_the_version_of_the_project() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    ours = {s["image"] for s in SERVICES.values() if s["image"].startswith("wardround/") and "minio" not in s["image"]}
    assert {image.rpartition(":")[2] for image in ours} == {version}


def test_the_builder_is_sent_what_is_copied_and_nothing_else() -> None:
    lines = (IMAGES / "wardround/Dockerfile.dockerignore").read_text().splitlines()
    ignored = [line for line in lines if line and not line.startswith("#")]
    sent = {line[1:] for line in ignored if line.startswith("!")}
    assert ignored[0] == "*"
    copied = re.findall(r"^COPY (?!--from)(?:--chmod=\d+ )?(.*) \S+$", dockerfile("wardround"), re.MULTILINE)
    assert sent == {name for line in copied for name in line.split()}
    assert all((ROOT / name).exists() for name in sent)


@pytest.mark.parametrize("image", ["wardround", "minio"])
def test_an_image_runs_as_a_user_without_rights(image: str) -> None:
    users = re.findall(r"^USER (\d+):(\d+)$", dockerfile(image), re.MULTILINE)
    assert users == [("10001", "10001")]


# --- the probe of an image --------------------------------------------------------------------------------------------


def probe(*arguments: str, part: str = "coordinator") -> subprocess.CompletedProcess[str]:
    # A proxy that the clinic has for its programs is not asked about the container itself.
    environment = {"PART": part, "http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    return subprocess.run(
        [sys.executable, "-I", str(PROBE), *arguments], env=environment, capture_output=True, text=True, check=False
    )


@contextmanager
def answering(status: int) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(self.path.encode())

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_probe_asks_the_page_that_it_is_given() -> None:
    with answering(200) as url:
        asked = probe(f"{url}/ready")
    assert (asked.returncode, asked.stdout.strip()) == (0, "/ready")


def test_a_probe_fails_where_the_service_is_not_ready() -> None:
    with answering(503) as url:
        assert probe(f"{url}/ready").returncode == 1


def test_a_probe_fails_in_one_line_where_nothing_answers() -> None:
    asked = probe("http://127.0.0.1:1/health")
    assert (asked.returncode, asked.stderr) == (1, "")
    assert asked.stdout.startswith("127.0.0.1:1 does not answer: ")


def test_probes_and_services_know_the_same_ports() -> None:
    ports = {part: int(port) for part, port in re.findall(r'"([a-z-]+)": (\d+)', PROBE.read_text())}
    assert ports == {part: model.model_fields["http"].default.port for part, model in SETTINGS.items()}
    for part in SETTINGS:
        page = PARTS[part]["healthcheck"]["test"][-1]
        assert page.endswith(f"//127.0.0.1:{ports[part]}/ready")


# --- the start of MinIO -----------------------------------------------------------------------------------------------

SECRET = "Aa0-_" * 8


@pytest.fixture
def secrets_of_the_store(tmp_path: Path) -> Path:
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "root.store").write_text(f"root{SECRET}")
    (folder / "store.broker").write_text(f"{SECRET}\n")
    return folder


def start(
    secrets: Path, *command: str, broker: str = "amqps://hub.example.org:5671"
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(START), *command],
        env={
            "PATH": os.environ["PATH"],
            "BROKER": broker,
            "SECRETS": str(secrets),
            "RUN_FOLDER": str(secrets.parent),
        },
        capture_output=True,
        text=True,
        check=False,
    )


def test_minio_is_told_the_same_as_in_a_stack(
    secrets_of_the_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = start(secrets_of_the_store, "sh", "-c", 'cat "$MINIO_CONFIG_ENV_FILE"')
    assert started.returncode == 0, started.stderr
    monkeypatch.setenv("WARDROUND_MINIO", "true")  # a program that is everywhere: it is not run
    amqp = f"amqps://store:{SECRET}@hub.example.org:5671"
    minio(tmp_path / "stack", port=1, root_user="root", root_password=f"root{SECRET}", amqp=amqp)
    assert sorted(started.stdout.split()) == sorted((tmp_path / "stack/config.env").read_text().split())


def test_the_secrets_of_the_store_are_in_a_file_of_its_owner_and_not_in_the_environment(
    secrets_of_the_store: Path,
) -> None:
    started = start(secrets_of_the_store, "env")
    assert "MINIO_CONFIG_ENV_FILE=" in started.stdout
    assert SECRET not in started.stdout
    assert (secrets_of_the_store.parent / "config.env").stat().st_mode & 0o777 == 0o600


def test_the_store_does_not_start_without_a_secret_and_says_who_must_own_it(secrets_of_the_store: Path) -> None:
    (secrets_of_the_store / "store.broker").unlink()
    started = start(secrets_of_the_store, "true")
    assert started.returncode == 78
    assert re.fullmatch(r"start: .*store\.broker cannot be read by uid \d+: .*WARDROUND_USER.*\n", started.stderr)


@pytest.mark.parametrize("secret", ["", "with space", "quo'ted", "a@b", "a/b", "line\nline"])
def test_the_store_does_not_start_with_a_secret_that_would_change_the_brokers_address(
    secrets_of_the_store: Path, secret: str
) -> None:
    (secrets_of_the_store / "store.broker").write_text(secret)
    started = start(secrets_of_the_store, "true")
    assert started.returncode == 78
    assert "store.broker must be letters" in started.stderr
    assert not (secrets_of_the_store.parent / "config.env").exists()


def test_the_store_does_not_announce_in_the_clear(secrets_of_the_store: Path) -> None:
    started = start(secrets_of_the_store, "true", broker="amqp://hub.example.org:5672")
    assert (started.returncode, started.stderr) == (78, "start: BROKER must begin with amqps://\n")
