"""What every scheduler does alike: the same suite over each adapter, and below it what only one of them can show."""

import asyncio
import json
import os
import shutil
import signal
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path
from threading import Event

import pytest
import pytest_asyncio
from structlog.testing import capture_logs
from tenacity import stop_after_attempt

from servers.airflow import AirflowServer
from wardround.runtime.patience import patiently
from wardround.site_agent.scheduler import local as local_scheduling
from wardround.site_agent.scheduler.airflow.scheduler import AirflowScheduler
from wardround.site_agent.scheduler.inline import InlineScheduler
from wardround.site_agent.scheduler.local import LocalScheduler
from wardround.site_agent.scheduler.port import (
    Scheduler,
    SchedulerError,
    SchedulerUnavailableError,
    UnknownRunError,
)
from wardround.training import run_folder
from wardround.training.datasets import counting
from wardround_messages.names import Task, TaskId
from wardround_messages.task_folder import JOB, LOCK, METRICS, OUTPUT, RESULT, TaskResult

# One server process for all tests of an adapter, as starting one costs more than the tests.
pytestmark = pytest.mark.asyncio(loop_scope="module")

BUSY = 30.0  # seconds that a busy machine may take; the trainings that are to be ended would take twice as long

# A trainer as a clinic might have the misfortune to install it.
ODD_TRAINER = """
import os, signal, subprocess, time
import numpy as np
from wardround.training import NumpyTrainer, Outcome, Parameters

class OddParameters(Parameters):
    does: str = "nothing"

class OddTrainer(NumpyTrainer[OddParameters]):
    def initial_weights(self, job):
        match job.parameters.does:
            case "leave":
                os._exit(3)
            case "leave quietly":
                os._exit(0)
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "resist":
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                subprocess.Popen(["sh", "-c", "sleep 60; true", str(job.carry)])
                (job.carry / "resisting").touch()
                time.sleep(60)
            case "note":
                with (job.carry / "notes").open("a") as notes:
                    for word in ("begin", "end"):
                        notes.write(word + " ")
                        notes.flush()
                        time.sleep(0.1)
            case "talk":
                print("said by the trainer")
        return {"w": np.zeros(1, np.float32)}

    def data(self, job):
        return [], []

    def train(self, model, cases, job):
        return Outcome(cases=1)

    def evaluate(self, model, cases, job):
        return Outcome(cases=1)
"""


@dataclass(frozen=True)
class Clinic:
    """A spool and a data set; `scheduler` makes a scheduler that works on them.

    What is asked of it is answered within `answers_within` seconds, and a training stopped within `stops_within`.
    """

    root: Path
    scheduler: Callable[[], Scheduler]
    answers_within: float = 0.1
    stops_within: float = 1.0
    rounds: Iterator[int] = field(default_factory=count)

    @property
    def spool(self) -> Path:
        return self.root / "spool"

    def task(self, trainer: str = "adding", **parameters: object) -> str:
        """A new task with its folder: a check of the trainer, which takes a step of `seconds` with `adding`."""
        task = TaskId("counting", next(self.rounds), Task.CHECK, "clinic-1", 1)
        self.folder(str(task)).mkdir(parents=True)
        job = {
            **asdict(task),
            "trainer": trainer,
            "parameters": parameters,
            "seed": 1,
            "epochs": 1,
            "optimizer_state": "reset",
            "deterministic": True,
            "data": {"name": "counting", "folders": [str(self.root / "data/clinic-1/counting")]},
            "model_sha256": None,
            "carry": str(task),
        }
        (self.folder(str(task)) / JOB).write_text(json.dumps(job))
        return str(task)

    def odd(self, does: str) -> str:
        return self.task("odd", does=does)

    def folder(self, task: str) -> Path:
        return self.spool / task

    def result(self, task: str) -> TaskResult:
        return TaskResult.model_validate_json((self.folder(task) / RESULT).read_bytes())

    def trained(self, task: str) -> int:
        """How many trainings have begun in the task's folder."""
        return len((self.folder(task) / LOCK).read_text().splitlines())

    def made_at(self, task: str) -> int:
        return (self.folder(task) / RESULT).stat().st_mtime_ns

    async def begun(self, task: str, sign: str = METRICS) -> None:
        """Return when the training has left its first trace."""
        await until((self.folder(task) / sign).exists, within=60)


def inline(root: Path) -> Scheduler:
    return InlineScheduler(root / "spool", run_folder)


def local(root: Path) -> Scheduler:
    path = os.pathsep.join(filter(None, [str(root / "installed"), os.environ.get("PYTHONPATH")]))
    return LocalScheduler(root / "spool", environment={**os.environ, "PYTHONPATH": path})


def clinic_at(root: Path, adapter: Callable[[Path], Scheduler]) -> Clinic:
    counting.write(root / "data", ["clinic-1"], seed=0)
    installed = root / "installed"
    (installed / "odd-1.0.dist-info").mkdir(parents=True)
    (installed / "odd_trainer.py").write_text(textwrap.dedent(ODD_TRAINER))
    (installed / "odd-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1.0\n")
    (installed / "odd-1.0.dist-info" / "entry_points.txt").write_text(
        "[wardround.trainers]\nodd = odd_trainer:OddTrainer\n"
    )
    return Clinic(root, lambda: adapter(root))


@pytest.fixture(scope="module")
def airflow_clinic(airflow_server: AirflowServer) -> Clinic:
    """Airflow ends a training at its next sign of life, which it gives every second."""
    clinic = clinic_at(
        airflow_server.spool.parent, lambda root: AirflowScheduler(airflow_server.settings(), root / "spool")
    )
    return replace(clinic, answers_within=10.0, stops_within=15.0)


@pytest.fixture(scope="module", params=[inline, local, pytest.param("airflow", marks=pytest.mark.slow)])
def clinic(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Clinic:
    if request.param == "airflow":
        return request.getfixturevalue("airflow_clinic")
    return clinic_at(tmp_path_factory.mktemp("clinic"), request.param)


@pytest.fixture(params=[inline, local])
def own_clinic(request: pytest.FixtureRequest, tmp_path: Path) -> Clinic:
    """One whose trainings belong to the agent."""
    return clinic_at(tmp_path, request.param)


@pytest.fixture(scope="module")
def local_clinic(tmp_path_factory: pytest.TempPathFactory) -> Clinic:
    return clinic_at(tmp_path_factory.mktemp("clinic"), local)


@pytest.fixture
def inline_clinic(tmp_path: Path) -> Clinic:
    return clinic_at(tmp_path, inline)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scheduler(clinic: Clinic) -> AsyncIterator[Scheduler]:
    async with closing(clinic) as scheduler:
        yield scheduler


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def local_scheduler(local_clinic: Clinic) -> AsyncIterator[Scheduler]:
    async with closing(local_clinic) as scheduler:
        yield scheduler


@asynccontextmanager
async def closing(clinic: Clinic) -> AsyncIterator[Scheduler]:
    """A scheduler of the clinic that leaves no process when it is closed."""
    scheduler = clinic.scheduler()
    yield scheduler
    await scheduler.close()
    try:
        await until(lambda: processes_of(clinic.root) == {}, within=clinic.stops_within)
    except TimeoutError:
        pytest.fail(f"still there after {clinic.stops_within} s: {processes_of(clinic.root)}")


def processes_of(root: Path) -> dict[int, str]:
    """The processes, other than this, that were started for something below `root`, with their command lines."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_text(errors="replace")
            except OSError:
                continue
            if str(root) in line:
                found[int(entry.name)] = line.replace("\0", " ")
    return found


async def until(condition: Callable[[], bool], *, within: float = 20) -> None:
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 - another process makes it true
            await asyncio.sleep(0.01)


# --- every scheduler ---------------------------------------------------------------------------------------------


async def test_a_run_that_succeeded_has_left_its_result(clinic: Clinic, scheduler: Scheduler) -> None:
    task = clinic.task()
    await scheduler.trigger(task)
    assert (await scheduler.wait(task)).succeeded
    assert clinic.result(task).failure is None


async def test_a_run_that_says_in_its_result_why_its_task_failed_succeeded_as_a_run(
    clinic: Clinic, scheduler: Scheduler
) -> None:
    task = clinic.task("absent")
    await scheduler.trigger(task)
    assert (await scheduler.wait(task)).succeeded
    failure = clinic.result(task).failure
    assert failure is not None
    assert failure.code == "trainer_unknown"


async def triggered(scheduler: Scheduler, task: str, *, again: bool = False) -> None:
    """As an agent does it: an Airflow that is asked for one run twice in one moment may answer one of them with 500."""
    await patiently(
        lambda: scheduler.trigger(task, again=again),
        away=lambda error: "away" if isinstance(error, SchedulerUnavailableError) else None,
        longest=1,
        stop=stop_after_attempt(5),
    )


async def test_triggering_twice_runs_once(clinic: Clinic, scheduler: Scheduler) -> None:
    task = clinic.task(seconds=0.1)
    await asyncio.gather(triggered(scheduler, task), triggered(scheduler, task))
    await triggered(scheduler, task, again=True)
    await scheduler.wait(task)
    made_at = clinic.made_at(task)
    await scheduler.trigger(task)
    await scheduler.wait(task)
    assert clinic.made_at(task) == made_at


async def test_waiting_after_the_end_returns_at_once(clinic: Clinic, scheduler: Scheduler) -> None:
    task = clinic.task()
    await scheduler.trigger(task)
    end = await scheduler.wait(task)
    async with asyncio.timeout(clinic.answers_within):
        assert await scheduler.wait(task) == end


async def test_giving_up_waiting_leaves_the_run_going(clinic: Clinic, scheduler: Scheduler) -> None:
    task = clinic.task(seconds=0.2)
    await scheduler.trigger(task)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(scheduler.wait(task), 0.02)
    assert (await scheduler.wait(task)).succeeded


async def test_whoever_waits_hears_once_that_the_run_has_begun(clinic: Clinic, scheduler: Scheduler) -> None:
    task, heard = clinic.task(seconds=0.3), []
    await scheduler.trigger(task)
    await asyncio.gather(
        scheduler.wait(task, began=lambda: heard.append("first")),
        scheduler.wait(task, began=lambda: heard.append("second")),
    )
    await scheduler.wait(task, began=lambda: heard.append("at the end"))
    assert sorted(heard) == ["at the end", "first", "second"]


async def test_a_run_has_begun_while_its_training_is_at_work(clinic: Clinic, scheduler: Scheduler) -> None:
    task, begun = clinic.task(seconds=60), asyncio.Event()
    await scheduler.trigger(task)
    waiting = asyncio.create_task(scheduler.wait(task, began=begun.set))
    async with asyncio.timeout(20):
        await begun.wait()
    assert not waiting.done()
    await scheduler.cancel(task)
    await waiting


async def test_a_run_nobody_triggered_is_unknown(clinic: Clinic, scheduler: Scheduler) -> None:
    with pytest.raises(UnknownRunError):
        await scheduler.wait(clinic.task())


async def test_a_result_from_before_a_restart_counts_and_is_not_made_again(
    clinic: Clinic, scheduler: Scheduler
) -> None:
    task = clinic.task()
    await scheduler.trigger(task)
    await scheduler.wait(task)
    made_at = clinic.made_at(task)
    after_the_restart = clinic.scheduler()
    await after_the_restart.trigger(task)
    assert (await after_the_restart.wait(task)).succeeded
    await after_the_restart.close()
    assert clinic.made_at(task) == made_at


async def test_again_runs_again_after_an_end(clinic: Clinic, scheduler: Scheduler) -> None:
    task = clinic.task()
    await scheduler.trigger(task)
    await scheduler.wait(task)
    made_at = clinic.made_at(task)
    await scheduler.trigger(task, again=True)
    assert (await scheduler.wait(task)).succeeded
    assert clinic.made_at(task) > made_at


async def test_cancelling_ends_a_run_soon_and_leaves_no_result(clinic: Clinic, scheduler: Scheduler) -> None:
    task = clinic.task(seconds=60)
    await scheduler.trigger(task)
    await clinic.begun(task)
    start = time.monotonic()
    await scheduler.cancel(task)
    end = await scheduler.wait(task)
    assert time.monotonic() - start < clinic.stops_within
    assert (end.succeeded, end.code) == (False, "cancelled")
    assert not (clinic.folder(task) / RESULT).exists()


async def test_a_cancelled_run_may_run_again(clinic: Clinic, scheduler: Scheduler) -> None:
    task = clinic.task(seconds=0.3)
    await scheduler.trigger(task)
    await clinic.begun(task)
    await scheduler.cancel(task)
    await scheduler.trigger(task, again=True)
    assert (await scheduler.wait(task)).succeeded


async def test_cancelling_right_after_the_trigger_ends_the_run(clinic: Clinic, scheduler: Scheduler) -> None:
    task = clinic.task(seconds=60)
    await scheduler.trigger(task)
    await scheduler.cancel(task)
    assert (await scheduler.wait(task)).code == "cancelled"


async def test_cancelling_what_is_over_or_unknown_changes_nothing(clinic: Clinic, scheduler: Scheduler) -> None:
    task = clinic.task()
    await scheduler.cancel(task)
    await scheduler.trigger(task)
    await scheduler.wait(task)
    await scheduler.cancel(task)
    assert (await scheduler.wait(task)).succeeded


@pytest.mark.parametrize(
    "name", ["", "..", "../../etc", "a.r000001.check.b.a01\n", "./a.r000001.check.b.a01", "a.r000001.check.b.a01/.."]
)
async def test_what_is_not_a_task_id_never_becomes_a_folder(clinic: Clinic, scheduler: Scheduler, name: str) -> None:
    before = sorted(clinic.root.rglob("*"))
    with pytest.raises(SchedulerError) as raised:
        await scheduler.trigger(name)
    assert raised.value.code == "bad_task_id"
    with pytest.raises(UnknownRunError):
        await scheduler.wait(name)
    await scheduler.cancel(name)
    assert sorted(clinic.root.rglob("*")) == before


async def test_a_run_is_forgotten_when_its_folder_is_cleared(clinic: Clinic, scheduler: Scheduler) -> None:
    cleared, kept = clinic.task(), clinic.task()
    for task in (cleared, kept):
        await scheduler.trigger(task)
        await scheduler.wait(task)
    shutil.rmtree(clinic.folder(cleared))
    later = clinic.task()
    await scheduler.trigger(later)
    assert (await scheduler.wait(later)).succeeded
    with pytest.raises(UnknownRunError):
        await scheduler.wait(cleared)
    assert (await scheduler.wait(kept)).succeeded


async def test_a_task_without_a_job_is_refused(clinic: Clinic, scheduler: Scheduler) -> None:
    task = clinic.task()
    (clinic.folder(task) / JOB).unlink()
    with pytest.raises(SchedulerError) as raised:
        await scheduler.trigger(task)
    assert raised.value.code == "no_folder"


# --- trainings that belong to the agent --------------------------------------------------------------------------


async def test_closing_ends_what_runs(own_clinic: Clinic) -> None:
    task = own_clinic.task(seconds=60)
    before = processes_of(own_clinic.root)
    scheduler = own_clinic.scheduler()
    await scheduler.trigger(task)
    await own_clinic.begun(task)
    async with asyncio.timeout(BUSY):
        await scheduler.close()
        assert not (await scheduler.wait(task)).succeeded
    assert processes_of(own_clinic.root) == before


# --- child processes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("does", "code", "hint"),
    [
        ("leave", "crashed", "exit code 3"),
        ("die", "killed", "SIGKILL"),
        ("leave quietly", "no_result", "without a result.json"),
    ],
)
async def test_a_training_that_crashes_is_a_failed_run_and_harms_no_other(
    local_clinic: Clinic, local_scheduler: Scheduler, does: str, code: str, hint: str
) -> None:
    task, neighbour = local_clinic.odd(does), local_clinic.task(seconds=0.2)
    await local_scheduler.trigger(neighbour)
    await local_scheduler.trigger(task)
    end = await local_scheduler.wait(task)
    assert (end.succeeded, end.code) == (False, code)
    assert hint in end.hint
    assert (await local_scheduler.wait(neighbour)).succeeded


async def test_a_training_that_resists_is_killed_with_all_that_it_started(
    local_clinic: Clinic, local_scheduler: Scheduler
) -> None:
    task = local_clinic.odd("resist")
    await local_scheduler.trigger(task)
    await local_clinic.begun(task, "resisting")
    await until(lambda: len(processes_of(local_clinic.root)) == 3)  # the server, the training, what that started
    async with asyncio.timeout(BUSY):
        await local_scheduler.cancel(task)
        assert (await local_scheduler.wait(task)).code == "cancelled"
    await until(lambda: len(processes_of(local_clinic.root)) == 1)


async def test_several_trainings_go_on_at_the_same_time(local_clinic: Clinic, local_scheduler: Scheduler) -> None:
    tasks = [local_clinic.task(seconds=60) for _ in range(2)]
    for task in tasks:
        await local_scheduler.trigger(task)
    for task in tasks:
        await local_clinic.begun(task)
    for task in tasks:
        await local_scheduler.cancel(task)


async def test_a_lost_server_fails_its_runs_and_is_started_again(
    local_clinic: Clinic, local_scheduler: Scheduler
) -> None:
    task, later = local_clinic.task(seconds=60), local_clinic.task()
    await local_scheduler.trigger(task)
    await local_clinic.begun(task)
    server = min(processes_of(local_clinic.root))
    os.kill(server, signal.SIGKILL)
    end = await local_scheduler.wait(task)
    assert (end.succeeded, end.code) == (False, "scheduler_lost")
    await local_scheduler.trigger(later)
    assert (await local_scheduler.wait(later)).succeeded
    assert server not in processes_of(local_clinic.root)


async def test_no_training_outlives_an_agent_that_was_killed(tmp_path: Path) -> None:
    clinic = clinic_at(tmp_path, local)
    task = clinic.task(seconds=60)
    agent = """
import asyncio, sys
from pathlib import Path
from wardround.site_agent.scheduler.local import LocalScheduler

async def main():
    scheduler = LocalScheduler(Path(sys.argv[1]))
    await scheduler.trigger(sys.argv[2])
    await scheduler.wait(sys.argv[2])

asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", agent, str(clinic.spool), task)
    await clinic.begun(task)
    process.kill()
    await process.wait()
    await until(lambda: not processes_of(clinic.root), within=BUSY)


async def test_two_agents_on_one_spool_train_once(local_clinic: Clinic, local_scheduler: Scheduler) -> None:
    other = local_clinic.scheduler()
    warming, task = local_clinic.task(), local_clinic.odd("note")
    await asyncio.gather(local_scheduler.trigger(warming), other.trigger(warming))
    await asyncio.gather(local_scheduler.trigger(task), other.trigger(task))
    ends = await asyncio.gather(local_scheduler.wait(task), other.wait(task))
    await other.close()
    assert all(end.succeeded for end in ends)
    assert (local_clinic.folder(task) / "notes").read_text().split() == ["begin", "end"]


async def test_a_trainer_installed_anew_is_the_one_that_runs(local_clinic: Clinic, local_scheduler: Scheduler) -> None:
    digests = []
    for _ in range(2):
        task = local_clinic.odd("nothing")
        await local_scheduler.trigger(task)
        assert (await local_scheduler.wait(task)).succeeded
        trainer = local_clinic.result(task).trainer
        assert trainer is not None
        digests.append(trainer.code_sha256)
        with (local_clinic.root / "installed" / "odd_trainer.py").open("a") as code:
            code.write("# a new release\n")
    assert digests[0] != digests[1]


async def test_what_a_training_prints_stays_in_its_folder(local_clinic: Clinic, local_scheduler: Scheduler) -> None:
    task = local_clinic.odd("talk")
    await local_scheduler.trigger(task)
    assert (await local_scheduler.wait(task)).succeeded
    assert "said by the trainer" in (local_clinic.folder(task) / OUTPUT).read_text()


SPEAKING = """#!{python}
import json, sys, time
print('{{"ready": true}}', flush=True)
task = json.loads(sys.stdin.readline())["run"]
print({says}, flush=True)
{then}
"""


@asynccontextmanager
async def speaking(
    tmp_path: Path, says: str, then: str = "sys.stdin.read()"
) -> AsyncIterator[tuple[Clinic, Scheduler]]:
    """A clinic whose server process says something else than it should."""
    server = tmp_path / "server"
    server.write_text(SPEAKING.format(python=sys.executable, says=says, then=then))
    server.chmod(0o700)
    clinic = Clinic(tmp_path, lambda: LocalScheduler(tmp_path / "spool", python=server))
    async with closing(clinic) as scheduler:
        yield clinic, scheduler


@pytest.mark.parametrize(
    "says",
    [
        "'no report'",
        "'[]'",
        "'{}'",
        """'{"ended": [], "status": 0}'""",
        """json.dumps({"ended": task, "status": "0"})""",
        "'x' * 1000000",
    ],
)
async def test_a_server_that_cannot_be_understood_is_ended_and_its_runs_are_lost(tmp_path: Path, says: str) -> None:
    async with speaking(tmp_path, says) as (clinic, scheduler):
        task = clinic.task()
        await scheduler.trigger(task)
        async with asyncio.timeout(5):
            assert (await scheduler.wait(task)).code == "scheduler_lost"
        assert processes_of(tmp_path) == {}


async def test_a_server_that_cannot_be_understood_and_does_not_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_scheduling, "STOPS_WITHIN", 0.1)
    async with speaking(tmp_path, "'no report'", "time.sleep(60)") as (clinic, scheduler):
        task = clinic.task()
        await scheduler.trigger(task)
        async with asyncio.timeout(5):
            assert (await scheduler.wait(task)).code == "scheduler_lost"
        assert processes_of(tmp_path) == {}


@pytest.mark.parametrize(("status", "code"), [(3, "crashed"), (-35, "killed")])
async def test_the_end_of_a_run_that_nobody_asked_for_is_ignored(tmp_path: Path, status: int, code: str) -> None:
    unknown = '{"ended": "a.r000001.check.b.a01", "status": 0}'
    says = f"""'{unknown}\\n' + json.dumps({{"ended": task, "status": {status}}})"""
    async with speaking(tmp_path, says) as (clinic, scheduler):
        task = clinic.task()
        await scheduler.trigger(task)
        with capture_logs() as logs:
            async with asyncio.timeout(5):
                assert (await scheduler.wait(task)).code == code
        assert [line["task"] for line in logs if line["event"] == "unknown_run_ended"] == ["a.r000001.check.b.a01"]


@pytest.mark.parametrize("script", [None, "#!/bin/sh\necho no such module >&2\nexit 1\n"])
async def test_an_interpreter_that_does_not_work_is_an_error_without_a_path(
    local_clinic: Clinic, tmp_path: Path, script: str | None
) -> None:
    python = tmp_path / "python"
    if script is not None:
        python.write_text(script)
        python.chmod(0o700)
    scheduler = LocalScheduler(local_clinic.spool, python=python)
    with pytest.raises(SchedulerError) as raised:
        await scheduler.trigger(local_clinic.task())
    assert raised.value.code == "scheduler_broken"
    assert "/" not in str(raised.value)
    await scheduler.close()


# --- the agent's own process -------------------------------------------------------------------------------------


async def test_one_training_at_a_time_whoever_schedules_it(inline_clinic: Clinic) -> None:
    said = []

    def run(folder: Path, *, cancelled: Event) -> None:
        said.append("begin")
        time.sleep(0.05)
        said.append("end")

    turn = asyncio.Lock()
    runs = [(inline_clinic.task(), InlineScheduler(inline_clinic.spool, run, turn=turn)) for _ in range(2)]
    for task, scheduler in runs:
        await scheduler.trigger(task)
    assert [(await scheduler.wait(task)).code for task, scheduler in runs] == ["no_result"] * 2
    assert said == ["begin", "end"] * 2


async def test_a_run_that_waits_for_its_turn_is_cancelled_at_once(inline_clinic: Clinic) -> None:
    scheduler = inline_clinic.scheduler()
    first, second = inline_clinic.task(seconds=60), inline_clinic.task()
    await scheduler.trigger(first)
    await inline_clinic.begun(first)
    await scheduler.trigger(second)
    begun: list[str] = []
    waiting = asyncio.create_task(scheduler.wait(second, began=lambda: begun.append("begun")))
    await asyncio.sleep(0.05)
    assert begun == []
    async with asyncio.timeout(BUSY):
        await scheduler.cancel(second)
        assert (await waiting).code == "cancelled"
    assert not (inline_clinic.folder(first) / RESULT).exists()
    await scheduler.cancel(first)
    assert (await scheduler.wait(first)).code == "cancelled"
    assert not (inline_clinic.folder(second) / RESULT).exists()


@pytest.mark.parametrize("threads", [True, False])
@pytest.mark.parametrize("error", [RuntimeError("broken"), SystemExit(2), MemoryError()])
async def test_whatever_a_training_raises_is_a_failed_run(
    inline_clinic: Clinic, error: BaseException, threads: bool
) -> None:
    def run(folder: Path, *, cancelled: Event) -> None:
        raise error

    task = inline_clinic.task()
    scheduler = InlineScheduler(inline_clinic.spool, run, threads=threads)
    await scheduler.trigger(task)
    assert (await scheduler.wait(task)).code == "crashed"


async def test_without_threads_a_training_runs_in_place(inline_clinic: Clinic) -> None:
    task = inline_clinic.task()
    scheduler = InlineScheduler(inline_clinic.spool, run_folder, threads=False)
    await scheduler.trigger(task)
    await asyncio.sleep(0)
    assert inline_clinic.result(task).failure is None
    assert (await scheduler.wait(task)).succeeded


# --- trainings that belong to the clinic's Airflow ---------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(400)  # where it is the first to want an Airflow, that takes a minute or two on a busy machine
async def test_a_training_outlives_the_agent_and_is_found_again(airflow_clinic: Clinic) -> None:
    task = airflow_clinic.task(seconds=2)
    first = airflow_clinic.scheduler()
    await first.trigger(task)
    await airflow_clinic.begun(task)
    await first.close()
    async with closing(airflow_clinic) as second:
        await second.trigger(task)
        assert (await second.wait(task)).succeeded
    assert airflow_clinic.trained(task) == 1
