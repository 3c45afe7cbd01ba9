"""Trainings in a real Airflow whose parts are killed under them: the wait ends rightly, and two never train at once."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from servers.airflow import COMPONENTS, AirflowServer
from servers.airflow_person import DAG, Person, person_at
from wardround.runtime.secrets import Secret
from wardround.site_agent.scheduler.airflow import scheduler as airflow
from wardround.site_agent.scheduler.airflow.scheduler import AirflowScheduler
from wardround.site_agent.scheduler.port import RunEnd, SchedulerError, SchedulerUnavailableError
from wardround.training.datasets import counting
from wardround_messages.names import Task, TaskId
from wardround_messages.task_folder import JOB, LOCK, METRICS, RESULT

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

ROUNDS = count(1)
STOPS_WITHIN = 15  # seconds; Airflow ends a training at its next sign of life, and the machine may be busy


@dataclass(slots=True)
class Clinic:
    """`scheduler` is that of the agent; `person` may do everything in Airflow."""

    server: AirflowServer
    scheduler: AirflowScheduler
    person: Person
    tasks: list[str] = field(default_factory=list)

    def task(self, **parameters: object) -> str:
        """A new task with its folder: a step of `seconds` with the trainer `adding`."""
        task = TaskId("faults", next(ROUNDS), Task.CHECK, "clinic-1", 1)
        self.folder(str(task)).mkdir()
        job = {
            **asdict(task),
            "trainer": "adding",
            "parameters": parameters,
            "seed": 1,
            "epochs": 1,
            "optimizer_state": "reset",
            "deterministic": True,
            "data": {"name": "counting", "folders": [str(self.server.spool.parent / "cases/clinic-1/counting")]},
            "model_sha256": None,
        }
        (self.folder(str(task)) / JOB).write_text(json.dumps(job))
        self.tasks.append(str(task))
        return str(task)

    def folder(self, task: str) -> Path:
        return self.server.spool / task

    async def begun(self, *, seconds: float) -> str:
        """A task whose training is at work."""
        task = self.task(seconds=seconds)
        await self.scheduler.trigger(task)
        await until((self.folder(task) / METRICS).exists)
        return task

    def beginnings(self, task: str) -> list[int]:
        """The processes that began to train in the folder, one after the other."""
        if not (self.folder(task) / LOCK).exists():
            return []
        return [int(line.split()[-1]) for line in (self.folder(task) / LOCK).read_text().splitlines()]

    def trained(self, task: str) -> int:
        return len(self.beginnings(task))

    async def end_of_one_at_a_time(self, task: str) -> RunEnd:
        """The end of a run of which it was seen all the time that one process at most trains."""
        waiting = asyncio.create_task(self.end(task))
        while not waiting.done():
            assert sum(is_alive(pid) for pid in self.beginnings(task)) <= 1
            await asyncio.sleep(0.05)
        return await waiting

    async def end(self, task: str, **options: Any) -> RunEnd:
        """As the agent waits for it: what is away comes back."""
        while True:
            try:
                return await self.scheduler.wait(task, **options)
            except SchedulerUnavailableError:
                await asyncio.sleep(0.2)

    async def stopped(self, task: str) -> None:
        """As the agent stops it: what is away comes back."""
        while True:
            try:
                return await self.scheduler.cancel(task)
            except SchedulerUnavailableError:
                await asyncio.sleep(0.2)

    async def start_all(self) -> None:
        """Start what is down."""
        for component in COMPONENTS:
            await self.server.start(component)

    async def let_in(self, slots: int) -> None:
        """How many tasks of Airflow the pool of all of them lets in at once."""
        pool = {"pool": "default_pool", "slots": slots}
        await self.person.asks("PATCH", "/api/v2/pools/default_pool", params={"update_mask": "slots"}, json=pool)


async def until(condition: Callable[[], bool], *, within: float = 60) -> None:
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 - another process makes it true
            await asyncio.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Also a process that ended has its number until somebody takes note of the end."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def trainings(task: str) -> list[psutil.Process]:
    """The processes that were started to train in the folder, waiting ones too."""
    found = []
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
        except psutil.Error:
            continue
        if line and line[-1].endswith(f"/{task}") and "wardround.training" in line:
            found.append(process)
    return found


def of_airflow(task: str) -> list[psutil.Process]:
    """Airflow's processes between this one and the training in the folder, the nearest to the training first."""
    return list(takewhile(lambda process: process.pid != os.getpid(), trainings(task)[0].parents()))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def clinic(airflow_server: AirflowServer) -> AsyncIterator[Clinic]:
    counting.write(airflow_server.spool.parent / "cases", ["clinic-1"], seed=0)
    async with person_at(airflow_server.url, *airflow_server.admin) as person:
        scheduler = AirflowScheduler(airflow_server.settings(), airflow_server.spool)
        clinic = Clinic(airflow_server, scheduler, person)
        yield clinic
        for task in clinic.tasks:
            await scheduler.cancel(task)
        await scheduler.close()


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def whole_again(clinic: Clinic) -> AsyncIterator[None]:
    """What a test killed runs again after it, also where it failed."""
    yield
    await clinic.start_all()


async def test_a_task_is_trained_and_its_end_is_heard_at_once(clinic: Clinic) -> None:
    task, heard = clinic.task(), []
    await clinic.scheduler.trigger(task)
    assert await clinic.end(task, began=lambda: heard.append("begun")) == RunEnd(True)
    assert heard == ["begun"]
    assert (clinic.folder(task) / RESULT).exists()
    assert clinic.trained(task) == 1


async def test_cancelling_leaves_no_process_of_the_training(clinic: Clinic) -> None:
    task = await clinic.begun(seconds=100)
    start = time.monotonic()
    await clinic.scheduler.cancel(task)
    assert trainings(task) == []
    assert time.monotonic() - start < STOPS_WITHIN
    assert (await clinic.end(task)).code == "cancelled"
    assert not (clinic.folder(task) / RESULT).exists()


async def test_a_training_that_is_killed_is_told_from_a_run_that_a_person_ends(clinic: Clinic) -> None:
    killed, ended = await clinic.begun(seconds=100), await clinic.begun(seconds=100)
    for process in trainings(killed):
        process.kill()
    assert (await clinic.end(killed)).code == "killed"
    await clinic.person.asks("PATCH", f"{DAG}/dagRuns/{ended}", json={"state": "failed"})
    assert (await clinic.end(ended)).code == "cancelled"
    await until(lambda: trainings(ended) == [], within=STOPS_WITHIN)


async def test_a_training_that_a_person_marks_as_failed_was_ended_by_a_person(clinic: Clinic) -> None:
    task = await clinic.begun(seconds=100)
    await clinic.person.asks("PATCH", f"{DAG}/dagRuns/{task}/taskInstances/train", json={"new_state": "failed"})
    assert (await clinic.end(task)).code == "cancelled"


async def test_what_airflow_still_starts_of_a_run_that_was_ended_does_not_train(clinic: Clinic) -> None:
    """As where a task begins in the moment in which its run is ended."""
    task = await clinic.begun(seconds=100)
    await clinic.scheduler.cancel(task)
    await clinic.person.asks("POST", f"{DAG}/dagRuns/{task}/clear", json={"dry_run": False, "only_failed": False})
    assert not (await clinic.end(task)).succeeded
    assert clinic.trained(task) == 1


@pytest.mark.parametrize("component", ["scheduler", "api-server"])
async def test_a_training_is_stopped_also_where_airflow_is_killed_around_it(clinic: Clinic, component: str) -> None:
    """What ran it in Airflow may live on and hear nothing, or there is nobody to hear it from."""
    task = await clinic.begun(seconds=100)
    clinic.server.kill(component)
    with suppress(SchedulerUnavailableError):
        await clinic.scheduler.cancel(task)
    await until(lambda: trainings(task) == [], within=STOPS_WITHIN)
    await clinic.server.start(component)
    await clinic.stopped(task)
    assert not (clinic.folder(task) / RESULT).exists()


async def test_a_killed_training_trains_again_under_the_same_run(clinic: Clinic) -> None:
    task = await clinic.begun(seconds=1)
    for process in trainings(task):
        process.kill()
    assert not (await clinic.end(task)).succeeded
    await clinic.scheduler.trigger(task, again=True)
    assert await clinic.end(task) == RunEnd(True)
    assert clinic.trained(task) == 2


async def test_the_wait_outlives_the_web_server_and_hears_the_end(clinic: Clinic) -> None:
    task = await clinic.begun(seconds=6)
    waiting = asyncio.create_task(clinic.end(task))
    await asyncio.sleep(0.5)
    clinic.server.kill("api-server")
    await asyncio.sleep(1)
    assert not waiting.done()
    await clinic.server.start("api-server")
    assert await waiting == RunEnd(True)
    assert clinic.trained(task) == 1


async def test_a_task_triggered_while_the_web_server_is_away_is_trained_once(clinic: Clinic) -> None:
    task = clinic.task()
    clinic.server.kill("api-server")
    with pytest.raises(SchedulerUnavailableError):
        await clinic.scheduler.trigger(task)
    await clinic.server.start("api-server")
    await clinic.scheduler.trigger(task)
    await clinic.scheduler.trigger(task)
    assert await clinic.end(task) == RunEnd(True)
    assert clinic.trained(task) == 1


async def test_a_training_goes_on_under_a_killed_scheduler_and_the_next_one_does_not_repeat_it(clinic: Clinic) -> None:
    task = await clinic.begun(seconds=20)
    clinic.server.kill("scheduler")
    await asyncio.sleep(1)
    await clinic.server.start("scheduler")
    assert await clinic.end_of_one_at_a_time(task) == RunEnd(True)
    assert clinic.trained(task) == 1


async def test_a_training_that_was_killed_with_its_scheduler_begins_again_with_the_next_one(clinic: Clinic) -> None:
    task = await clinic.begun(seconds=4)
    family = [*trainings(task), *of_airflow(task)]
    clinic.server.kill("scheduler")
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    await clinic.server.start("scheduler")
    assert await clinic.end_of_one_at_a_time(task) == RunEnd(True)
    assert clinic.trained(task) == 2


async def test_a_training_that_airflow_ends_by_itself_is_lost_and_not_cancelled(clinic: Clinic) -> None:
    task = await clinic.begun(seconds=100)
    of_airflow(task)[0].terminate()
    assert (await clinic.end(task)).code == "scheduler_lost"
    await until(lambda: trainings(task) == [], within=STOPS_WITHIN)


async def test_a_dag_that_is_paused_lets_no_task_in_and_loses_none_that_is_at_work(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(airflow, "LOOKED_AFTER_EVERY", 0.5)
    at_work, queued = await clinic.begun(seconds=3), clinic.task()
    await clinic.person.pauses(True)
    try:
        with pytest.raises(SchedulerError) as raised:
            await clinic.scheduler.trigger(queued)
        assert raised.value.code == "dag_paused"
        assert await clinic.end(at_work) == RunEnd(True)
    finally:
        await clinic.person.pauses(False)
    await clinic.scheduler.trigger(queued)
    assert await clinic.end(queued) == RunEnd(True)


async def test_a_run_that_is_queued_when_its_dag_is_paused_is_ended(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(airflow, "LOOKED_AFTER_EVERY", 0.5)
    clinic.server.kill("scheduler")
    task = clinic.task()
    await clinic.scheduler.trigger(task)
    await clinic.person.pauses(True)
    try:
        with pytest.raises(SchedulerError) as raised:
            await clinic.end(task)
        assert raised.value.code == "dag_paused"
    finally:
        await clinic.person.pauses(False)
        await clinic.server.start("scheduler")
    later = clinic.task()
    await clinic.scheduler.trigger(later)
    assert await clinic.end(later) == RunEnd(True)  # Airflow begins what it has to by now
    run = await clinic.person.asks("GET", f"{DAG}/dagRuns/{task}")
    assert (run["state"], clinic.trained(task)) == ("failed", 0)


async def test_without_a_scheduler_a_run_is_ended_after_its_time_in_the_queue(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(airflow, "LOOKED_AFTER_EVERY", 0.5)
    settings = clinic.server.settings().model_copy(update={"queued_at_most": 1})
    hasty = AirflowScheduler(settings, clinic.server.spool)
    clinic.server.kill("scheduler")
    task = clinic.task()
    try:
        await hasty.trigger(task)
        with pytest.raises(SchedulerError) as raised:
            await hasty.wait(task)
        assert raised.value.code == "airflow_queued"
    finally:
        await hasty.close()


async def test_a_run_whose_task_gets_no_slot_is_ended_after_its_time_in_the_queue(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(airflow, "LOOKED_AFTER_EVERY", 0.5)
    hasty = AirflowScheduler(clinic.server.settings().model_copy(update={"queued_at_most": 3}), clinic.server.spool)
    task, begun = clinic.task(), []
    await clinic.let_in(0)
    try:
        await hasty.trigger(task)
        async with asyncio.timeout(60):
            while (await clinic.person.asks("GET", f"{DAG}/dagRuns/{task}"))["state"] != "running":  # noqa: ASYNC110
                await asyncio.sleep(0.2)
        with pytest.raises(SchedulerError) as raised:
            await hasty.wait(task, began=lambda: begun.append("begun"))
    finally:
        await clinic.let_in(128)
        await hasty.close()
    assert raised.value.code == "airflow_queued"
    assert begun == []
    assert not (clinic.folder(task) / LOCK).exists()


async def test_a_run_is_found_under_its_dag_when_the_table_names_another_meanwhile(clinic: Clinic) -> None:
    ended, stopped = await clinic.begun(seconds=4), await clinic.begun(seconds=100)
    dags = {"default": "another_dag", "was": "wardround_task"}
    changed = AirflowScheduler(clinic.server.settings().model_copy(update={"dags": dags}), clinic.server.spool)
    await changed.trigger(ended)
    assert await changed.wait(ended) == RunEnd(True)
    await changed.cancel(stopped)
    assert trainings(stopped) == []
    assert (await changed.wait(stopped)).code == "cancelled"
    await changed.close()
    assert clinic.trained(ended) == 1


async def test_a_dag_that_airflow_does_not_know_is_missing(clinic: Clinic) -> None:
    settings = clinic.server.settings().model_copy(update={"dags": {"default": "another_dag"}})
    lost = AirflowScheduler(settings, clinic.server.spool)
    with pytest.raises(SchedulerError) as raised:
        await lost.trigger(clinic.task())
    assert raised.value.code == "dag_missing"
    await lost.close()


async def test_a_wrong_password_is_told_as_such(clinic: Clinic, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("hush-wrong")
    password.chmod(0o600)
    secret = Secret.model_validate({"file": str(password)})
    stranger = AirflowScheduler(clinic.server.settings().model_copy(update={"password": secret}), clinic.server.spool)
    with pytest.raises(SchedulerError) as raised:
        await stranger.trigger(clinic.task())
    assert raised.value.code == "airflow_login"
    assert "hush" not in str(raised.value)
    await stranger.close()
