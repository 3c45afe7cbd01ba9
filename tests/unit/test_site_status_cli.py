"""`wardround site status`: what a running agent does, told to the people at its clinic."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner, Result

from simulation.clinic import Clinic
from wardround.client.cli.errors import CommandError, Exit
from wardround.client.cli.site import app
from wardround.client.clinic.door import AgentDoor, AgentState, TaskSaid, TransferSaid
from wardround.runtime.clock import wall_clock
from wardround.site_agent.agent_socket import reachable, socket_of
from wardround.site_agent.control import Control
from wardround.site_agent.standstill import Stopped

Cli = Callable[..., Awaitable[Result]]
WORKING = AgentState(
    site="clinic-1",
    version="0.1.0",
    pid=7,
    stopped=None,
    trouble=None,
    waits_for=None,
    at_most=2_000_000,
    tasks=(
        TaskSaid(
            task="glioma-1.r000001.train.clinic-1.a01",
            phase="fetching",
            transfer=TransferSaid(done=504_000_000, of=1_200_000_000, per_second=2_000_000.0),
        ),
        TaskSaid(task="glioma-2.r000004.train.clinic-1.a01", phase="training"),
        TaskSaid(task="glioma-3.r000001.train.clinic-1.a01", phase="pondering"),
    ),
)


@pytest.fixture
def clinic(tmp_path: Path) -> Clinic:
    return Clinic(tmp_path / "clinic")


@pytest.fixture
def cli(clinic: Clinic) -> Cli:
    async def invoke(*arguments: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, app, ["status", *arguments, "--site", str(clinic.folder)])

    return invoke


def says(monkeypatch: pytest.MonkeyPatch, state: AgentState) -> None:
    monkeypatch.setattr(AgentDoor, "state", lambda self: state)


async def test_a_running_agent_is_asked(clinic: Clinic, cli: Cli) -> None:
    await clinic.open_experiment()
    path = socket_of(clinic.settings.paths.inbox)
    async with clinic.running(door=Control(path)), asyncio.timeout(30):
        while not path.exists():  # noqa: ASYNC110 - what is waited for lies in the file system
            await asyncio.sleep(0.01)
        result = await cli()
        as_json = json.loads((await cli("--json")).output)
    assert result.output.startswith("clinic-1: the agent works (version ")
    assert "no task is in hand" in result.output
    assert (as_json["site"], as_json["tasks"], as_json["at_most"]) == ("clinic-1", [], None)


async def test_each_task_is_told_with_its_transfer_and_the_limit(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, WORKING)
    lines = (await cli()).output.splitlines()
    assert lines[1] == "models and updates move at 2.0 MB/s at most"
    assert lines[3:] == [
        "glioma-1.r000001.train.clinic-1.a01  fetching the model: 42 % of 1.2 GB, 2.0 MB/s, about 5 m 48 s left",
        "glioma-2.r000004.train.clinic-1.a01  training",
        "glioma-3.r000001.train.clinic-1.a01  pondering",
    ]


async def test_a_clinic_that_a_hub_floods_with_tasks_can_still_be_looked_at(clinic: Clinic, cli: Cli) -> None:
    flooded = WORKING.model_copy(update={"tasks": WORKING.tasks[:1] * 10_000})

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.read(2**16):  # whoever says nothing only looks who listens
            body = flooded.model_dump_json().encode()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        writer.close()

    with reachable(socket_of(clinic.settings.paths.inbox)) as name:
        async with await asyncio.start_unix_server(answer, name):
            result = await cli("--json")
    assert len(json.loads(result.output)["tasks"]) == 10_000


async def test_what_holds_the_clinic_up_is_told(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = Stopped(at=wall_clock(), by="alice", reason="a drill")
    says(monkeypatch, WORKING.model_copy(update={"stopped": stopped, "waits_for": "the object store is away"}))
    output = (await cli()).output
    assert "by alice (a drill): wardround site resume" in output
    assert "it waits: the object store is away; it goes on by itself" in output


async def test_without_an_agent_it_says_how_to_start_one(cli: Cli) -> None:
    result = await cli()
    assert isinstance(result.exception, CommandError)
    assert result.exception.code == Exit.TRY_AGAIN
    assert "start it: wardround-site-agent" in str(result.exception)


@pytest.mark.parametrize(
    "transfer",
    [{"done": -5}, {"of": -1}, {"of": 2**70}, {"per_second": -1.0}, {"per_second": float("nan")}],
)
def test_numbers_that_no_agent_says_are_not_believed(transfer: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        TransferSaid.model_validate({"done": 1, "of": 10, "per_second": 1.0} | transfer)
