"""The stack as a person handles it: up, status, logs, down, up again, two side by side, nothing left behind."""

import asyncio
import json
import os
import re
import signal
import socket
from pathlib import Path

import httpx
import psutil
import pytest

from servers.stack import Stack, require_servers
from simulation.whole import counting
from wardround.runtime.roster import load_roster
from wardround.site_agent.settings import load_site
from wardround.stack.folder import read_plan, read_state
from wardround.stack.ports import LOOPBACK
from wardround.stack.services import STACK_VARIABLE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def own(tmp_path: Path) -> Stack:
    """A stack of the test's own, not yet up; taken down at the end."""
    require_servers()
    return Stack(tmp_path, "own")


def marked(folder: Path) -> list[psutil.Process]:
    """The processes that bear the mark of the stack."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(STACK_VARIABLE) == str(folder):
                found.append(process)
        except psutil.Error:
            continue
    return found


async def finished(stack: Stack, experiment: str, *, rounds: int = 2) -> str:
    async with stack.hub() as hub:
        await hub.start(counting(id=experiment, sites=1, count=rounds))
        async with asyncio.timeout(60):
            async for view in hub.watch(experiment):
                last = view
    assert last.phase == "finished"
    assert last.model is not None
    return last.model.sha256


async def test_down_leaves_nothing_behind_and_up_again_has_everything(own: Stack) -> None:
    try:
        shown = own.up("--sites", "1", "--guest", "lake")
        assert "stack 'own' is running" in shown
        assert "lake" not in own.plan.services
        assert load_site(own.folder / "hub" / "sites" / "lake" / "site.toml").site == "lake"
        sha256 = await finished(own, "first")
        own.down()
        assert marked(own.folder) == []
        assert "stopped" in own.cli("stack", "status", "--name", "own", "--folder", str(own.folder), code=1)

        own.up("--sites", "1")
        async with own.hub() as hub:
            view = await hub.view("first")
        assert view is not None
        assert view.model is not None
        assert view.model.sha256 == sha256
        assert "lake" in load_roster(own.folder / "hub" / "hub.toml").sites
        assert await finished(own, "second") == sha256
    finally:
        own.down()
    assert marked(own.folder) == []


async def test_two_stacks_run_side_by_side(own: Stack, stack: Stack) -> None:
    try:
        own.up("--sites", "1")
        assert set(own.plan.ports.values()).isdisjoint(stack.plan.ports.values())
        await finished(own, "beside")
        async with own.hub() as here, stack.hub() as there:
            assert await here.view("beside") is not None
            assert await there.view("beside") is None
    finally:
        own.down()


def test_what_a_killed_supervisor_left_behind_is_ended_by_down(own: Stack) -> None:
    own.up("--sites", "1")
    state = read_state(own.folder)
    assert state is not None
    os.kill(state.supervisor, signal.SIGKILL)
    assert len(marked(own.folder)) > 5

    assert "stopped" in own.down()

    assert marked(own.folder) == []


def test_a_port_that_was_taken_meanwhile_is_exchanged_for_another(own: Stack) -> None:
    try:
        own.up("--sites", "1")
        own.down()
        plan = read_plan(own.folder)
        assert plan is not None
        taken = plan.ports["broker"]
        with socket.create_server((LOOPBACK, taken)):
            own.up("--sites", "1")
            assert own.plan.ports["broker"] != taken
            assert own.plan.ports["metrics"] == plan.ports["metrics"]
    finally:
        own.down()


def test_a_stack_that_runs_is_not_started_again(stack: Stack) -> None:
    said = stack.cli("stack", "up", "--name", "stack", "--folder", str(stack.folder), code=1)
    assert "runs" in said
    assert "already" in said


def test_a_folder_with_other_things_is_left_alone(own: Stack) -> None:
    own.folder.mkdir()
    (own.folder / "thesis.txt").write_text("my thesis")
    said = own.cli("stack", "up", "--folder", str(own.folder), "--fresh", code=1)
    assert "holds something else" in said
    assert (own.folder / "thesis.txt").read_text() == "my thesis"


def test_a_plan_that_is_none_is_told_in_one_line(own: Stack) -> None:
    own.folder.mkdir()
    (own.folder / "stack.json").write_text("{}")
    said = own.cli("stack", "status", "--folder", str(own.folder), code=1)
    assert "is not what a stack of this version writes" in said
    assert said.count("\n") == 1


def test_a_program_that_does_not_start_ends_the_start_with_its_last_words(own: Stack, tmp_path: Path) -> None:
    broken = tmp_path / "minio"
    broken.write_text("#!/bin/sh\necho 'cannot find my disks' >&2\nexit 3\n")
    broken.chmod(0o755)
    os.environ["WARDROUND_MINIO"] = str(broken)
    try:
        said = own.cli("stack", "up", "--sites", "1", "--folder", str(own.folder), code=1)
    finally:
        del os.environ["WARDROUND_MINIO"]
    assert "minio ended at once: cannot find my disks" in said
    assert marked(own.folder) == []


def test_status_shows_every_program_with_its_memory_and_the_addresses(stack: Stack) -> None:
    shown = stack.cli("stack", "status", "--name", "stack", "--folder", str(stack.folder))
    for program in ("rabbitmq", "minio", "coordinator", "coordinator-2", "aggregator-2", "metrics", "clinic-3"):
        assert re.search(rf"^{program} +running +\d+", shown, re.MULTILINE), shown
    known = json.loads(stack.cli("stack", "status", "--folder", str(stack.folder), "--json"))
    assert known["phase"] == "running"
    assert known["addresses"]["broker"] == f"amqp://{LOOPBACK}:{stack.plan.ports['broker']}"
    assert all(program["memory"] > 1e5 for program in known["programs"])


def test_logs_are_shown_by_program(stack: Stack) -> None:
    names = stack.cli("stack", "logs", "--folder", str(stack.folder)).split()
    assert {"coordinator", "rabbitmq", "minio", "clinic-1", "supervisor"} <= set(names)
    lines = stack.cli("stack", "logs", "coordinator", "-n", "3", "--folder", str(stack.folder)).splitlines()
    assert len(lines) <= 3
    assert all(json.loads(line)["service"] == "coordinator" for line in lines)
    assert "there is no log of 'nobody'" in stack.cli("stack", "logs", "nobody", "--folder", str(stack.folder), code=2)


@pytest.mark.parametrize(
    ("wish", "said"),
    [("0", "must be 1 to"), ("-1", "no folder"), ("/nowhere", "no folder"), ("51", "must be 1 to")],
)
def test_sites_that_cannot_be_are_bad_input(own: Stack, wish: str, said: str) -> None:
    assert said in own.cli("stack", "up", f"--sites={wish}", "--folder", str(own.folder), code=2)


@pytest.mark.parametrize(("guest", "said"), [("Lake", "cannot be a clinic"), ("clinic-1", "a clinic of that name")])
def test_guests_that_cannot_be_are_bad_input(own: Stack, guest: str, said: str) -> None:
    assert said in own.cli("stack", "up", "--guest", guest, "--folder", str(own.folder), code=2)


def test_every_service_answers_health_ready_and_metrics(stack: Stack) -> None:
    for name in stack.plan.services:
        at = f"http://{LOOPBACK}:{stack.plan.ports[name]}"
        assert httpx.get(f"{at}/health").json()["status"] == "ok"
        assert httpx.get(f"{at}/ready").json() == {
            "status": "ready",
            "service": "site-agent" if name in stack.plan.sites else name.partition("-")[0],
            "missing": {},
        }
        assert "wardround_up 1.0" in httpx.get(f"{at}/metrics").text


async def test_no_secret_stands_in_a_log_a_command_line_or_the_states(stack: Stack) -> None:
    async with stack.hub() as hub:
        await hub.start(counting(id="canary", count=2))
        async with asyncio.timeout(60):
            async for _ in hub.watch("canary"):
                pass
    secrets = {file.name: file.read_text() for file in (stack.folder / "hub" / "secrets").iterdir()}
    assert len(secrets) > 10
    places = {str(log): log.read_text(errors="replace") for log in (stack.folder / "logs").glob("*.log")}
    places |= {str(file): file.read_text() for file in (stack.folder / "stack.json", stack.folder / "state.json")}
    for process in marked(stack.folder):
        places[f"{process.name()} {process.pid}: command"] = "\0".join(process.cmdline())
        places[f"{process.name()} {process.pid}: environment"] = "\0".join(process.environ().values())
    for place, text in places.items():
        for name, secret in secrets.items():
            assert secret not in text, f"the secret {name} stands in {place}"


def test_a_service_told_to_stop_stops_in_good_order_and_is_started_again(stack: Stack) -> None:
    before, log = stack.restarts("metrics"), stack.folder / "logs" / "metrics.log"
    written = len(log.read_text().splitlines())
    os.kill(stack.pid("metrics"), signal.SIGTERM)
    asyncio.run(stack.until_running("metrics", restarts=before + 1))
    events = [json.loads(line)["event"] for line in log.read_text().splitlines()[written:]]
    assert [event for event in events if event in ("stopping", "stopped", "started")] == [
        "stopping",
        "stopped",
        "started",
    ]
