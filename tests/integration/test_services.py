"""The services' own commands, over TLS with the certificates of a private authority: `--check`, waiting, stopping, and
what an operator gets wrong."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import trustme

from servers.stack import require_servers
from wardround.hub.folder import STORE_ROOT, HubFolder
from wardround.hub.logins import apply_store_logins
from wardround.hub.rabbitmq_conf import Tls
from wardround.runtime.roster import Roster
from wardround.stack.minio import minio
from wardround.stack.ports import LOOPBACK, free_ports
from wardround.stack.program import Child
from wardround.stack.rabbitmq import rabbitmq

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

MODULES = {
    "coordinator": "wardround.coordinator.main",
    "aggregator": "wardround.aggregator.main",
    "metrics": "wardround.metrics.main",
    "site-agent": "wardround.site_agent.main",
}


@dataclass
class Site:
    """A hub's folder whose servers speak TLS, and the server processes."""

    hub: HubFolder
    broker: Child
    store: Child

    def settings(self, service: str) -> Path:
        return self.hub.path / ("sites/clinic-1/site.toml" if service == "site-agent" else f"{service}.toml")


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    require_servers()
    folder = tmp_path_factory.mktemp("secure")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "authority.pem")
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    (folder / "certificates").mkdir()
    for name in ("certificates/public.crt", "broker.crt"):
        certificate.cert_chain_pems[0].write_to_path(folder / name)
    for name in ("certificates/private.key", "broker.key"):
        certificate.private_key_pem.write_to_path(folder / name)
    plain, tls, store_port = free_ports(3)
    hub = HubFolder.init(
        folder / "hub",
        Roster(
            broker=f"amqps://localhost:{tls}",
            store=f"https://localhost:{store_port}",
            ca=str(folder / "authority.pem"),  # type: ignore[arg-type]
            researchers=("researcher-a",),
        ),
    ).with_site("clinic-1")
    mapper, broker = rabbitmq(
        folder / "rabbitmq",
        definitions=hub.definitions(),
        port=plain,
        tls=Tls(tls, folder / "broker.crt", folder / "broker.key"),
    )
    store = minio(
        folder / "minio",
        port=store_port,
        root_user=STORE_ROOT,
        root_password=hub.store_secret(STORE_ROOT).read_text(),
        amqp=f"amqp://store:{hub.broker_secret('store').read_text()}@{LOOPBACK}:{plain}",
        certificates=folder / "certificates",
    )
    children = [Child(program) for program in (mapper, broker, store)]

    async def up() -> None:
        for child in children:
            await child.start()
        await apply_store_logins(hub)

    asyncio.run(up())
    yield Site(hub, children[1], children[2])
    for child in reversed(children):
        asyncio.run(child.stop())


def command(service: str, *arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", MODULES[service], *arguments]


def run(service: str, *arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(service, *arguments),
        env=os.environ | environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def changed(site: Site, tmp_path: Path, service: str, old: str, new: str) -> Path:
    """A copy of the service's settings, beside the original so that its paths stay right, with a text replaced."""
    original = site.settings(service)
    text = original.read_text()
    assert old in text
    copy = original.with_name(f"{tmp_path.name}.toml")
    copy.write_text(text.replace(old, new))
    return copy


def refused(ended: subprocess.CompletedProcess[str], *parts: str, code: int = 78) -> None:
    """It ended with one line on standard error that says what is wrong, and no traceback."""
    assert ended.returncode == code, ended.stdout + ended.stderr
    (line,) = ended.stderr.strip().splitlines()
    for part in parts:
        assert part in line


# --- what works ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", MODULES)
def test_check_finds_everything_in_order_over_tls_with_a_private_authority(secure: Site, service: str) -> None:
    ended = run(service, str(secure.settings(service)), "--check", cwd=secure.hub.path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert [line[:5] for line in ended.stdout.splitlines()] == ["ok   "] * 3
    assert "amqps://localhost" in ended.stdout
    assert "https://localhost" in ended.stdout


@pytest.mark.parametrize("service", MODULES)
def test_a_service_gets_ready_and_stops_in_good_order(secure: Site, service: str) -> None:
    with at_work(secure, service) as at:
        until(lambda: httpx.get(f"{at}/ready").status_code == 200)


def test_a_service_waits_for_a_broker_that_is_away_and_says_so(secure: Site) -> None:
    asyncio.run(secure.broker.stop())
    try:
        with at_work(secure, "aggregator") as at:
            until(lambda: answers(f"{at}/health"))
            ready = httpx.get(f"{at}/ready")
            assert ready.status_code == 503
            assert "no connection to amqps://localhost" in ready.json()["missing"]["broker"]
            asyncio.run(secure.broker.start())
            until(lambda: httpx.get(f"{at}/ready").status_code == 200, within=60)
    finally:
        if not secure.broker.running:
            asyncio.run(secure.broker.start())


def test_the_environment_takes_the_place_of_the_file(secure: Site) -> None:
    (port,) = free_ports(1)
    with at_work(secure, "metrics", port=port) as at:
        assert at.endswith(str(port))
        until(lambda: answers(f"{at}/health"))


def test_a_coordinator_knows_a_site_that_was_added_while_it_works(secure: Site) -> None:
    from wardround.coordinator.main import CurrentRoster

    roster = CurrentRoster(secure.hub.path / "hub.toml")
    assert roster.sites() == {"clinic-1"}
    HubFolder.open(secure.hub.path).with_site("clinic-2")
    assert roster.sites() == {"clinic-1", "clinic-2"}
    (secure.hub.path / "hub.toml").write_text("sites = [")
    assert roster.sites() == {"clinic-1", "clinic-2"}
    HubFolder(secure.hub.path, secure.hub.roster).write()


# --- what does not start, or is found by --check --------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [(), ("--check",)])
def test_a_wrong_password_is_told_with_the_login(secure: Site, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("not the password")
    wrong.chmod(0o600)
    settings = changed(secure, tmp_path, "metrics", 'file = "secrets/metrics.broker"', f'file = "{wrong}"')
    ended = run("metrics", str(settings), *arguments, cwd=tmp_path, WARDROUND_METRICS__HTTP__PORT="0")
    assert ended.returncode == 78
    said = ended.stdout if arguments else ended.stderr.strip().splitlines()[-1]
    assert "refuses the login 'metrics'" in said
    assert "not the password" not in ended.stdout + ended.stderr


def test_a_wrong_secret_of_the_store_is_told_with_the_login(secure: Site, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("not the secret")
    wrong.chmod(0o600)
    settings = changed(secure, tmp_path, "aggregator", 'file = "secrets/aggregator.store"', f'file = "{wrong}"')
    ended = run("aggregator", str(settings), "--check", cwd=tmp_path)
    assert ended.returncode == 78
    assert "wrong secret for the login 'aggregator'" in ended.stdout
    assert "not the secret" not in ended.stdout + ended.stderr


def test_a_certificate_of_another_authority_is_not_trusted(secure: Site, tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    settings = changed(secure, tmp_path, "metrics", 'ca        = "ca.pem"', f'ca = "{tmp_path / "other.pem"}"')
    ended = run("metrics", str(settings), "--check", cwd=tmp_path)
    assert ended.returncode != 0
    lines = ended.stdout.splitlines()
    assert lines[1].startswith("WRONG broker")
    assert "certificate" in lines[1]
    assert lines[2].startswith("WRONG store")
    assert "certificate" in lines[2]


def test_a_broker_that_is_away_is_told_by_check_as_passing(secure: Site, tmp_path: Path) -> None:
    (nobody,) = free_ports(1)
    broker = f"amqps://localhost:{nobody}"
    ended = run(
        "metrics",
        str(secure.settings("metrics")),
        "--check",
        cwd=tmp_path,
        WARDROUND_METRICS__HUB__BROKER=f"'{broker}'",
    )
    assert ended.returncode == 75
    assert f"WRONG broker {broker}" in ended.stdout
    assert "ok    store" in ended.stdout


@pytest.mark.parametrize(
    ("key", "value", "parts"),
    [
        ("HUB__BROKER", "'amqp://hub.example.org:5672'", ("amqp://hub.example.org is not encrypted", "amqps://")),
        ("HUB__STORE", "'http://store.example.org'", ("http://store.example.org is not encrypted", "https://")),
        ("HTTP__HOST", "'0.0.0.0'", ("http.host", "http.certificate", "--insecure-lab")),
        ("HTTP__PORT", "70000", ("http.port",)),
        ("HTTP__PROT", "1", ("unknown key 'prot'", "valid keys are")),
        ("HUB__BROKER", "'amqps://user:word@localhost'", ("hub.broker", "secrets are files")),
        ("HUB__PASSWORD", "'hunter2hunter2'", ("hub.password", "secrets are files")),
        ("HUB__PASSWORD__FILE", "'nowhere'", ("hub.password.file", "cannot be read")),
    ],
)
def test_what_cannot_be_is_told_in_one_line(
    secure: Site, tmp_path: Path, key: str, value: str, parts: tuple[str, ...]
) -> None:
    ended = run("metrics", str(secure.settings("metrics")), cwd=tmp_path, **{f"WARDROUND_METRICS__{key}": value})
    refused(ended, *parts)
    assert "hunter2" not in ended.stderr


def test_a_secret_that_others_can_read_is_refused(secure: Site, tmp_path: Path) -> None:
    loose = tmp_path / "loose"
    loose.write_text("secret")
    loose.chmod(0o644)
    ended = run(
        "metrics",
        str(secure.settings("metrics")),
        cwd=tmp_path,
        WARDROUND_METRICS__HUB__PASSWORD__FILE=f"'{loose}'",
    )
    refused(ended, "can be read by others", f"chmod 600 {loose}")


def test_a_port_that_is_taken_is_named(secure: Site, tmp_path: Path) -> None:
    with at_work(secure, "metrics") as at:
        port = at.rpartition(":")[2]
        until(lambda: answers(f"{at}/health"))
        ended = run("metrics", str(secure.settings("metrics")), cwd=tmp_path, WARDROUND_METRICS__HTTP__PORT=port)
    assert ended.returncode == 78
    assert f"port {port} of 127.0.0.1 is taken" in ended.stderr.splitlines()[-1]


@pytest.mark.parametrize("service", MODULES)
def test_missing_settings_are_told_in_one_line(tmp_path: Path, service: str) -> None:
    refused(run(service, str(tmp_path / "nowhere.toml"), cwd=tmp_path), "nowhere.toml", "cannot be read")


def test_an_agent_says_which_schedulers_it_has(secure: Site, tmp_path: Path) -> None:
    settings = changed(secure, tmp_path, "site-agent", 'kind  = "local"', 'kind = "inline"')
    ended = run("site-agent", str(settings), cwd=tmp_path, WARDROUND_SITE_AGENT__HTTP__PORT="0")
    assert ended.returncode == 78
    assert "scheduler.kind" in ended.stderr.splitlines()[-1]
    assert "'airflow' or 'local'" in ended.stderr.splitlines()[-1]


# --- helpers ---------------------------------------------------------------------------------------------------------


class at_work:  # noqa: N801 - reads as a phrase
    """A service as a process; at the end it is told to stop, and must do so with exit code 0."""

    def __init__(self, site: Site, service: str, *, port: int | None = None) -> None:
        self._site = site
        self._service = service
        self._port = port or free_ports(1)[0]

    def __enter__(self) -> str:
        prefix = f"WARDROUND_{self._service.upper().replace('-', '_')}__"
        self._process = subprocess.Popen(
            command(self._service, str(self._site.settings(self._service))),
            env=os.environ | {f"{prefix}HTTP__PORT": str(self._port)},
            cwd=self._site.hub.path,
            stderr=subprocess.DEVNULL,
        )
        return f"http://{LOOPBACK}:{self._port}"

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            assert self._process.wait(30) == 0
        finally:
            self._process.kill()
            self._process.wait()


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


def until(condition, within: float = 30) -> None:  # type: ignore[no-untyped-def]
    end = time.monotonic() + within
    while time.monotonic() < end:
        try:
            if condition():
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise AssertionError("it did not come to be in time")
