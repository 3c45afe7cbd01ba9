"""The socket of a running agent: who may connect, where it lies, what is said there."""

import asyncio
import errno
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest

from simulation.clinic import EXPERIMENT, POLICY, SITE, Clinic
from wardround import __version__
from wardround.runtime.http import CannotListenError
from wardround.site_agent import control
from wardround.site_agent.agent_socket import reachable, socket_of
from wardround.site_agent.app import SiteAgent
from wardround.site_agent.control import Control
from wardround.site_agent.standstill import Standstill
from wardround_messages.events import TaskStarted

WORD = {"by": "alice", "reason": "a drill"}


@asynccontextmanager
async def open_door(clinic: Clinic) -> AsyncIterator[SiteAgent]:
    """The clinic's agent, once its socket is there."""
    path = socket_of(clinic.settings.paths.inbox)
    async with clinic.running(door=Control(path)) as agent:
        async with asyncio.timeout(5):
            while not await is_open(path):  # noqa: ASYNC110 - what is waited for lies in the file system
                await asyncio.sleep(0.01)
        yield agent


async def is_open(path: Path) -> bool:
    try:
        return (await ask(path, "GET", "/state")).status_code == 200
    except (OSError, httpx.TransportError):
        return False


async def ask(path: Path, method: str, page: str, **content: Any) -> httpx.Response:
    with reachable(path) as name:
        async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=name, verify=False)) as client:
            return await client.request(method, f"http://agent{page}", **content)


@pytest.fixture
async def clinic(tmp_path: Path) -> Clinic:
    clinic = Clinic(tmp_path)
    await clinic.open_experiment()
    return clinic


@pytest.fixture
def door(clinic: Clinic) -> Path:
    return socket_of(clinic.settings.paths.inbox)


async def test_only_the_owner_may_connect_and_the_socket_goes_with_the_agent(clinic: Clinic, door: Path) -> None:
    before = os.umask(0o022)
    os.umask(before)
    async with open_door(clinic):
        assert stat.S_ISSOCK(door.stat().st_mode)
        assert stat.S_IMODE(door.stat().st_mode) == 0o600
        assert os.umask(before) == before
    assert not door.exists()


async def test_a_socket_that_a_killed_agent_left_is_replaced(clinic: Clinic, door: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(door))
    assert door.exists()
    async with open_door(clinic):
        assert (await ask(door, "GET", "/state")).json()["site"] == SITE


async def test_what_is_no_socket_is_left_alone_and_told(clinic: Clinic, door: Path) -> None:
    door.write_text("notes")
    with pytest.raises(ExceptionGroup) as raised:
        async with clinic.running(door=Control(door)):
            pass
    assert raised.group_contains(CannotListenError, match="in the way")
    assert door.read_text() == "notes"


async def test_an_inbox_in_a_long_folder_has_its_socket_as_well(tmp_path: Path) -> None:
    clinic = Clinic(tmp_path / ("long" * 25) / ("longer" * 25))
    await clinic.open_experiment()
    path = socket_of(clinic.settings.paths.inbox)
    assert len(str(path)) > 107
    async with open_door(clinic):
        assert (await ask(path, "GET", "/state")).status_code == 200


async def test_the_state_tells_version_tasks_and_what_is_amiss(clinic: Clinic, door: Path) -> None:
    async with open_door(clinic):
        state = (await ask(door, "GET", "/state")).json()
    assert state == {
        "site": SITE,
        "version": __version__,
        "pid": os.getpid(),
        "stopped": None,
        "trouble": None,
        "waits_for": None,
        "at_most": None,
        "tasks": [],
    }


async def test_the_state_tells_how_far_a_transfer_is(clinic: Clinic, door: Path) -> None:
    asked_for = asyncio.Event()

    async def hang(*args: Any, **kwargs: Any) -> bytes:
        asked_for.set()
        await asyncio.Event().wait()
        return b""

    async with clinic.running(door=Control(door), limit=1_000_000):
        await clinic.enrol()
        clinic.store.read = hang  # type: ignore[method-assign]
        await clinic.hub.send(clinic.start())
        await asked_for.wait()
        state = (await ask(door, "GET", "/state")).json()
    assert state["at_most"] == 1_000_000
    assert state["tasks"] == [
        {
            "task": str(clinic.start().task_id),
            "phase": "fetching",
            "transfer": {"done": 0, "of": len(clinic.model), "per_second": None},
        }
    ]


async def test_a_word_becomes_a_consent_and_a_line_in_the_log(clinic: Clinic, door: Path) -> None:
    clinic.policy.write_text(POLICY + 'approval = "manual"\n')
    async with open_door(clinic):
        await clinic.enrol()
        answer = await ask(door, "POST", f"/experiments/{EXPERIMENT}/approve", json=WORD)
        granted = await clinic.consent(2)
    assert answer.status_code == 200
    assert [consent["verdict"] for consent in answer.json()["consents"]] == ["granted"]
    assert (granted.verdict, granted.code, granted.reason) == ("granted", "approved", "")
    (line,) = [line for line in clinic.audit if line["what"] == "person"]
    assert (line["action"], line["by"], line["experiment"], line["reason"]) == (
        "approve",
        "alice",
        EXPERIMENT,
        "a drill",
    )


@pytest.mark.parametrize(
    ("action", "code"), [("approve", "no_offer"), ("refuse", "nothing_pending"), ("withdraw", "nothing_granted")]
)
async def test_a_word_that_has_no_object_is_refused_with_the_reason(
    clinic: Clinic, door: Path, action: str, code: str
) -> None:
    async with open_door(clinic):
        answer = await ask(door, "POST", f"/experiments/never-heard-of/{action}", json=WORD)
    assert (answer.status_code, answer.json()["error"]) == (409, code)
    assert not clinic.settings.paths.log.exists()


@pytest.mark.parametrize(
    ("content", "status", "error"),
    [
        ({"content": b""}, 400, "body"),
        ({"content": b"{"}, 400, "body"),
        ({"content": b"[" * 8000}, 400, "body"),
        ({"json": {"reason": "nobody says so"}}, 400, "body"),
        ({"json": {"by": 7}}, 400, "body"),
        ({"json": {"by": "alice", "more": 1}}, 400, "body"),
        ({"json": {"by": "alice", "reason": "line\nbreak"}}, 400, "body"),
        ({"json": {"by": "alice", "reason": "x" * 401}}, 400, "body"),
        ({"content": b" " * 9000}, 413, "body"),
    ],
)
async def test_a_body_that_is_no_word_is_refused_and_changes_nothing(
    clinic: Clinic, door: Path, content: dict[str, Any], status: int, error: str
) -> None:
    async with open_door(clinic):
        await clinic.enrol()
        for page in ("/stop", f"/experiments/{EXPERIMENT}/withdraw"):
            answer = await ask(door, "POST", page, **content)
            assert (answer.status_code, answer.json()["error"]) == (status, error)
        assert (await ask(door, "GET", "/state")).json()["stopped"] is None
        assert len(await clinic.objects("consent/")) == 1


async def test_a_body_of_unknown_length_is_refused(clinic: Clinic, door: Path) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b'{"by":"alice"}'

    async with open_door(clinic):
        answer = await ask(door, "POST", "/stop", content=chunks())
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("length", "status"), [("0000000000999999999", 413), ("8193", 413), ("0" * 21, 400), ("9" * 5000, 400)]
)
async def test_a_length_however_it_is_written_is_bounded(clinic: Clinic, door: Path, length: str, status: int) -> None:
    async with open_door(clinic):
        answer = await said_to(door, f"POST /stop HTTP/1.1\r\nHost: agent\r\nContent-Length: {length}\r\n\r\n")
        assert (await ask(door, "GET", "/state")).json()["stopped"] is None
    assert f" {status} ".encode() in answer


async def said_to(door: Path, words: str) -> bytes:
    """The first line of what is answered."""
    with reachable(door) as name:
        reader, writer = await asyncio.open_unix_connection(name)
    writer.write(words.encode())
    async with asyncio.timeout(5):
        answer = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_a_body_that_never_comes_is_given_up(clinic: Clinic, door: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "ASKS_WITHIN", 0.05)
    async with open_door(clinic):
        answer = await said_to(door, "POST /stop HTTP/1.1\r\nHost: agent\r\nContent-Length: 20\r\n\r\n{")
    assert b" 400 " in answer


@pytest.mark.parametrize(
    ("method", "page", "status"),
    [
        ("GET", "/stop", 405),
        ("POST", "/state", 405),
        ("GET", "/nothing", 404),
        ("POST", "/experiments/UPPER/approve", 400),
        ("POST", f"/experiments/{'x' * 41}/approve", 400),
        ("POST", f"/experiments/{EXPERIMENT}/delete", 404),
    ],
)
async def test_what_is_not_there_is_told(clinic: Clinic, door: Path, method: str, page: str, status: int) -> None:
    async with open_door(clinic):
        assert (await ask(door, method, page, json=WORD if method == "POST" else None)).status_code == status


async def test_a_stop_that_would_not_outlast_a_restart_is_told(
    clinic: Clinic, door: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Standstill, **words: object) -> bool:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Standstill, "begin", full)
    async with open_door(clinic):
        answer = await ask(door, "POST", "/stop", json=WORD)
    assert (answer.status_code, answer.json()["error"]) == (507, "not_kept")
    assert "No space left" in answer.json()["detail"]


async def test_a_file_that_was_written_without_the_agent_ends_what_is_in_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "HEEDS_EVERY", 0.01)
    clinic = Clinic(tmp_path, threads=True)
    await clinic.open_experiment()
    clinic.training.before = until_cancelled
    async with open_door(clinic):
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        await clinic.said(TaskStarted)
        (clinic.folder / "stopped.json").write_text("stop!")
        ended = await clinic.answer(clinic.start())
        state = (await ask(socket_of(clinic.settings.paths.inbox), "GET", "/state")).json()
    assert (ended.outcome, ended.by_hub, ended.failure.code) == ("cancelled", False, "site_stopped")
    assert state["stopped"]["reason"] == "the file cannot be read"


def until_cancelled(folder: Path, cancelled: Event) -> None:
    assert cancelled.wait(30)
    raise RuntimeError("stopped as asked")
