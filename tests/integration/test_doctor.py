"""The doctors at a real stack: a healthy one is found well, and each fault is found where it is."""

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from servers.stack import Stack
from simulation.whole import counting
from wardround.hub.folder import HubFolder
from wardround.runtime.bus.port import Packet
from wardround.runtime.bus.rabbit import RabbitBus
from wardround.stack.ports import LOOPBACK, free_ports
from wardround_messages.names import DEAD

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

Found = dict[str, dict[str, str]]
SITE = "clinic-1"
PREFIX = "WARDROUND_SITE_AGENT__"


def found(stack: Stack, *command: str, code: int) -> Found:
    """Each finding by its name."""
    lines = stack.cli(*command, "--json", code=code).splitlines()
    return {finding["name"]: finding for finding in map(json.loads, lines)}


def states(findings: Found, state: str) -> list[str]:
    return [name for name, finding in findings.items() if finding["state"] == state]


@pytest.fixture(autouse=True, scope="module")
def no_dead_letters(stack: Stack) -> None:
    """Whatever other tests have left among them."""

    async def drop_all() -> None:
        async with stack.hub(f"{stack.name}-operator") as operator:
            for letter in {letter.id: letter for letter in await operator.dead_letters()}:
                await operator.drop(letter)

    asyncio.run(drop_all())


@pytest.fixture
def clinic(stack: Stack, tmp_path: Path) -> Path:
    """The folder of a clinic of the stack, copied, to be spoilt; it works in the stack's own spool."""
    own = stack.folder / "sites" / SITE
    copied = tmp_path / SITE
    shutil.copytree(own, copied, ignore=shutil.ignore_patterns("inbox*", "spool", "*.sock", "audit*"))
    return copied


@pytest.fixture
def looked(stack: Stack, clinic: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Found]:
    """`site doctor` at the spoilt clinic, with settings in the place of its file's."""

    def looked(*, code: int = 1, **settings: object) -> Found:
        for key, value in settings.items():
            monkeypatch.setenv(PREFIX + key.upper(), str(value))
        return found(stack, "site", "doctor", "--site", str(clinic), code=code)

    return looked


# --- well ------------------------------------------------------------------------------------------------------------


def test_healthy_hub_is_well_for_a_researcher(stack: Stack) -> None:
    findings = found(stack, "doctor", "--hub", stack.name, code=0)

    assert states(findings, "wrong") == []
    assert states(findings, "skipped") == ["create-only writes", "announcements"]
    assert "answers a command in" in findings["its answer"]["what"]
    assert findings["coordinator"]["what"] == "one coordinator is at work"
    assert findings["aggregator"]["what"] == "2 of them are connected"


def test_healthy_hub_is_well_for_its_operator_who_tries_what_only_services_may(stack: Stack) -> None:
    findings = found(stack, "doctor", "--hub-folder", str(stack.folder / "hub"), code=0)

    assert states(findings, "wrong") == []
    assert states(findings, "skipped") == []
    assert "is announced" in findings["announcements"]["what"]
    assert findings["clinics' agents"]["what"] == "all 3 are connected"
    assert "create-only writes" in states(findings, "ok")


def test_healthy_clinic_is_well(stack: Stack) -> None:
    findings = found(stack, "site", "doctor", "--site", str(stack.folder / "sites" / SITE), code=0)

    assert states(findings, "wrong") == []
    assert states(findings, "skipped") == []
    assert findings["queue"]["what"] == "the clinic's agent is connected"
    assert "a task came back with its result" in findings["probe run"]["what"]
    assert "it runs" in findings["agent"]["what"]
    assert list((stack.folder / "sites" / SITE / "spool").glob("doctor-*")) == []


def test_what_is_printed_for_people_has_no_colour_in_a_pipe_and_ends_with_a_count(stack: Stack) -> None:
    said = stack.cli("doctor", "--hub", stack.name)
    assert "\x1b" not in said
    assert said.splitlines()[0].startswith("ok       broker address      amqp://")
    assert said.splitlines()[-1].endswith(" ok, 2 skipped")


def test_secrets_are_never_printed(stack: Stack) -> None:
    hub = HubFolder.open(stack.folder / "hub")
    secrets = [file.read_text() for file in (hub.path / "secrets").iterdir()]
    said = stack.cli("doctor", "--hub-folder", str(hub.path), "--json")
    said += stack.cli("site", "doctor", "--site", str(stack.folder / "sites" / SITE))
    assert not any(secret in said for secret in secrets)


async def test_doctors_disturb_nobody_at_work(stack: Stack) -> None:
    """An experiment goes on under them as if they were not there, and no message is left or lost."""
    site = str(stack.folder / "sites" / SITE)

    async def look() -> None:
        for _ in range(2):
            await asyncio.to_thread(stack.cli, "site", "doctor", "--site", site)
            await asyncio.to_thread(stack.cli, "doctor", "--hub-folder", str(stack.folder / "hub"))

    async with stack.hub() as hub:
        looking = asyncio.create_task(look())
        manifest = counting(id="looked-at", sites=3, count=3)
        await hub.start(manifest)
        async with asyncio.timeout(120):
            async for view in hub.watch(manifest.id):
                last = view
        await looking
    assert last.phase == "finished"
    async with stack.hub(f"{stack.name}-operator") as operator:
        assert await operator.dead_letters() == ()


# --- faults at a clinic ----------------------------------------------------------------------------------------------


def test_wrong_password_is_found_at_the_login_and_what_stands_on_it_is_skipped(
    looked: Callable[..., Found], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.write_text("another-password")
    other.chmod(0o600)

    findings = looked(hub__password__file=f"'{other}'")

    assert states(findings, "wrong") == ["broker login"]
    assert "refuses the login 'clinic-1'" in findings["broker login"]["what"]
    assert "another-password" not in json.dumps(findings)
    assert findings["broker rights"]["what"] == "needs: broker login"
    assert findings["store rights"]["state"] == "ok"


def test_key_of_the_store_of_another_clinic_has_the_wrong_rights(stack: Stack, looked: Callable[..., Found]) -> None:
    secret = HubFolder.open(stack.folder / "hub").store_secret("clinic-2")

    findings = looked(hub__store_key__id="clinic-2", hub__store_key__file=f"'{secret}'")

    assert states(findings, "wrong") == ["store rights"]
    assert "'clinic-2' may not store its consent" in findings["store rights"]["what"]


def test_wrong_secret_of_the_store_is_found_at_its_login(looked: Callable[..., Found], tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("another-secret")
    other.chmod(0o600)
    findings = looked(hub__store_key__file=f"'{other}'")
    assert states(findings, "wrong") == ["store login"]
    assert "wrong secret" in findings["store login"]["what"]


def test_policy_that_is_missing_refuses_everything(looked: Callable[..., Found], clinic: Path) -> None:
    (clinic / "policy.toml").unlink()
    findings = looked()
    assert states(findings, "wrong") == ["policy.toml"]
    assert "nothing is allowed" in findings["policy.toml"]["what"]


def test_data_folder_that_is_gone_is_named(looked: Callable[..., Found], clinic: Path) -> None:
    shutil.rmtree(clinic / "counting")
    findings = looked()
    assert states(findings, "wrong") == ["data set counting"]
    assert str(clinic / "counting") in findings["data set counting"]["what"]


def test_disk_without_room_for_three_updates_is_a_warning(looked: Callable[..., Found], clinic: Path) -> None:
    policy = clinic / "policy.toml"
    policy.write_text(policy.read_text().replace('"10 GB"', '"9000 TB"'))
    findings = looked(code=0)
    assert "disk" in states(findings, "warning")


def test_interpreter_without_wardround_cannot_train(looked: Callable[..., Found], tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho \"No module named 'wardround'\" >&2\nexit 1\n")
    python.chmod(0o755)
    findings = looked(scheduler__python=f"'{python}'")
    assert states(findings, "wrong") == ["trainers"]
    assert "No module named 'wardround'" in findings["trainers"]["what"]
    assert findings["probe run"]["what"] == "needs: trainers"


def test_broker_and_store_that_are_away_are_found_at_their_addresses(looked: Callable[..., Found]) -> None:
    broker, store = free_ports(2)
    findings = looked(hub__broker=f"amqp://{LOOPBACK}:{broker}", hub__store=f"http://{LOOPBACK}:{store}")
    assert states(findings, "wrong") == ["broker address", "store address"]
    assert findings["broker address"]["what"] == f"nothing listens at {LOOPBACK}:{broker}"
    assert findings["clock"]["what"] == "needs: store address"
    assert findings["probe run"]["state"] == "ok"


@pytest.fixture
def store_of_tomorrow() -> Iterator[str]:
    """What answers as a store would whose clock is a day ahead."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response_only(403)
            self.send_header("Date", format_datetime(datetime.now(UTC) + timedelta(days=1), usegmt=True))
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://{LOOPBACK}:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_clock_that_is_a_day_off_is_found_before_the_store_refuses_everything(
    looked: Callable[..., Found], store_of_tomorrow: str
) -> None:
    findings = looked(hub__store=store_of_tomorrow)
    assert states(findings, "wrong") == ["clock"]
    assert "s behind the store's" in findings["clock"]["what"]
    assert findings["store login"]["what"] == "needs: clock"


# --- faults at a hub -------------------------------------------------------------------------------------------------


async def test_dead_letter_is_a_warning_for_whoever_looks(stack: Stack) -> None:
    hub = HubFolder.open(stack.folder / "hub")
    bus = await RabbitBus.connect(hub.roster.broker, login="metrics", password=hub.broker_secret("metrics").read_text())
    await bus.publish(Packet(exchange=DEAD, routing_key="dead.metrics.hub", body=b"{}", message_id="looked-at"))
    await bus.close()

    findings = await asyncio.to_thread(found, stack, "doctor", "--hub", stack.name, code=0)

    assert findings["dead letters"]["state"] == "warning"
    assert findings["dead letters"]["what"] == "one message could not be handled"
    async with stack.hub(f"{stack.name}-operator") as operator:
        (letter,) = await operator.dead_letters()
        await operator.drop(letter.id)


def test_logins_that_the_servers_do_not_know_yet_are_named(stack: Stack, tmp_path: Path) -> None:
    """A clinic was added, and neither broker nor store was told."""
    folder = tmp_path / "hub"
    shutil.copytree(stack.folder / "hub", folder, ignore=shutil.ignore_patterns("work"))
    HubFolder.open(folder).with_site("clinic-9")

    findings = found(stack, "doctor", "--hub-folder", str(folder), code=1)

    assert set(states(findings, "wrong")) >= {"broker logins", "store logins"}
    assert findings["broker logins"]["what"] == "the broker refuses 'clinic-9'"
    assert "import_definitions" in findings["broker logins"]["to_do"]
    assert findings["store logins"]["what"] == "the store refuses 'clinic-9'"
    assert "wardround hub apply" in findings["store logins"]["to_do"]
    assert findings["clinics' agents"]["what"] == "3 of 4 are connected; not: clinic-9"
