"""A person's word at a clinic of a real stack: pending, show, approve, and stop in the middle of a training."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from servers.stack import Stack
from simulation.whole import counting
from wardround.client.clinic.door import AgentDoor, AgentState
from wardround_messages.manifest import Manifest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

RULE = """
[[allow]]
id           = "by-person"
study        = "by-person"
requested_by = ["researcher-a"]
trainers     = ["adding"]
datasets     = ["counting"]
approval     = "{approval}"
"""


@pytest.fixture
def asking(stack: Stack) -> Iterator[Path]:
    """The folder of clinic-1, where a person decides on the study `by-person`; elsewhere a rule does."""
    policies = {site: stack.folder / "sites" / site / "policy.toml" for site in ("clinic-1", "clinic-2", "clinic-3")}
    before = {site: policy.read_text() for site, policy in policies.items()}
    for site, policy in policies.items():
        rule = RULE.format(approval="manual" if site == "clinic-1" else "automatic")
        policy.write_text(before[site] + rule)
    yield policies["clinic-1"].parent
    for site, policy in policies.items():
        policy.write_text(before[site])


@pytest.fixture
def afterwards() -> Iterator[Callable[..., None]]:
    """Called with a stack, a clinic's folder and experiments: whatever happens in the test, the clinic, which others
    use too, works again after it, and the experiments are over."""
    with ExitStack() as undoing:

        def undo(stack: Stack, folder: Path, *experiments: str) -> None:
            undoing.callback(work_again, stack, folder, experiments)

        yield undo


def work_again(stack: Stack, folder: Path, experiments: tuple[str, ...]) -> None:
    for command in (*(("abort", each) for each in experiments), ("site", "resume", "--site", str(folder))):
        with suppress(AssertionError):  # it is over, or was never begun
            stack.cli(*command)


def state_of(folder: Path) -> AgentState:
    """What the agent in the clinic's folder says of itself."""
    return AgentDoor(folder / "inbox.sqlite").state(within=10)


def trains(folder: Path, experiment: str) -> bool:
    return (f"{experiment}.r000001.train.{folder.name}.a01", "training") in [
        (task.task, task.phase) for task in state_of(folder).tasks
    ]


def by_person(id_: str, **parts: Any) -> Manifest:
    return counting(id=id_, **parts).model_copy(update={"study": "by-person"})


def until(true: Callable[[], bool], within: float = 60) -> None:
    end = time.monotonic() + within
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


async def ended(stack: Stack, experiment: str) -> Any:
    async with stack.hub() as hub, asyncio.timeout(90):
        async for view in hub.watch(experiment):
            last = view
    return last


async def test_a_person_is_asked_reads_what_it_is_and_approves(stack: Stack, asking: Path) -> None:
    site = ("--site", str(asking))
    async with stack.hub() as hub:
        await hub.start(by_person("asked", count=2))
    until(lambda: "asked" in stack.cli("site", "pending", *site))
    assert json.loads(stack.cli("status", "asked", "--json"))["phase"] == "enrolling"
    (waiting,) = [json.loads(line) for line in stack.cli("site", "pending", "--json", *site).splitlines()]
    assert (waiting["requested_by"], waiting["rounds"]) == ("researcher-a", 2)

    shown = stack.cli("site", "show", "asked", *site)
    assert "waits for a person's word" in shown
    assert "rule 'by-person' leaves it to a person at the clinic" in shown
    assert "3 clinics: this one, clinic-2, clinic-3" in shown

    approved = stack.cli("site", "approve", "asked", "--by", "alice", "--reason", "the board met", *site)
    assert "granted for 2 rounds" in approved
    assert (await ended(stack, "asked")).phase == "finished"
    shown = stack.cli("site", "show", "asked", *site)
    assert "granted for 2 rounds by alice: the board met" in shown
    assert "done" in shown.partition("tasks:")[2]
    assert "nothing waits" in stack.cli("site", "pending", *site)


async def test_a_person_refuses_and_the_others_go_on(stack: Stack, asking: Path) -> None:
    site = ("--site", str(asking))
    async with stack.hub() as hub:
        await hub.start(by_person("refused", count=1, quorum=2))
    until(lambda: "refused" in stack.cli("site", "pending", *site))
    stack.cli("site", "refuse", "refused", "--reason", "not this year", *site)
    assert (await ended(stack, "refused")).phase == "finished"
    status = json.loads(stack.cli("status", "refused", "--json"))
    assert {each["site"]: each["state"] for each in status["sites"]}["clinic-1"] == "declined"


async def test_stop_ends_a_training_at_once_and_resume_lets_the_clinic_work_again(
    stack: Stack, asking: Path, afterwards: Callable[..., None]
) -> None:
    site = ("--site", str(asking))
    afterwards(stack, asking, "halted", "halted-2")
    async with stack.hub() as hub:
        await hub.start(counting(id="halted", count=1, quorum=2, parameters={"seconds": 600.0}))
    until(lambda: trains(asking, "halted"))
    began = time.monotonic()
    stopped = stack.cli("site", "stop", "--reason", "fire drill", *site)
    assert time.monotonic() - began < 60  # the start of the command line with it
    assert "halted.r000001.train.clinic-1.a01: ended" in stopped
    until(lambda: state_at_hub(stack, "halted", "clinic-1") == "cancelled")
    assert state_of(asking).tasks == ()
    assert "stopped" in stack.cli("sites")
    stack.cli("abort", "halted")

    async with stack.hub() as hub:
        await hub.start(counting(id="halted-2", count=1))
    assert json.loads(stack.cli("status", "halted-2", "--json"))["phase"] == "enrolling"
    stack.cli("site", "resume", *site)
    assert (await ended(stack, "halted-2")).phase == "finished"


async def test_stop_works_on_an_agent_that_hangs(stack: Stack, asking: Path, afterwards: Callable[..., None]) -> None:
    site = ("--site", str(asking))
    afterwards(stack, asking, "frozen")
    async with stack.hub() as hub:
        await hub.start(counting(id="frozen", count=1, quorum=2, parameters={"seconds": 600.0}))
    until(lambda: trains(asking, "frozen"))
    with frozen(stack.pid("clinic-1")) as pid:
        stopped = stack.cli("site", "stop", *site, code=1)
        assert f"kill {pid} ends them all" in stopped
    until(lambda: state_of(asking).tasks == (), within=10)
    stack.cli("abort", "frozen")
    stack.cli("site", "resume", *site)
    assert state_of(asking).stopped is None


async def test_stop_ends_runs_in_airflow_itself_where_the_agent_hangs(
    airflow_stack: Stack, afterwards: Callable[..., None]
) -> None:
    folder = airflow_stack.folder / "sites" / "clinic-1"
    afterwards(airflow_stack, folder, "frozen")
    async with airflow_stack.hub() as hub:
        await hub.start(counting(id="frozen", count=1, quorum=2, parameters={"seconds": 600.0}))
    until(lambda: trains(folder, "frozen"))
    with frozen(airflow_stack.pid("clinic-1")):
        stopped = airflow_stack.cli("site", "stop", "--site", str(folder), code=1)
        assert "frozen.r000001.train.clinic-1.a01: stopped in Airflow" in stopped
    until(lambda: state_of(folder).tasks == (), within=10)
    airflow_stack.cli("abort", "frozen")
    airflow_stack.cli("site", "resume", "--site", str(folder))


@contextmanager
def frozen(pid: int) -> Iterator[int]:
    """The process does nothing, until the block ends."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGCONT)


def state_at_hub(stack: Stack, experiment: str, clinic: str) -> str:
    status = json.loads(stack.cli("status", experiment, "--json"))
    return {each["site"]: each["state"] for each in status["sites"]}[clinic]
