"""What every scheduler does alike: the same suite over each adapter, and below it what only one of them can show."""

import asyncio
import json
import os
import signal
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import pytest

from wardround.site_agent.scheduler.inline import InlineScheduler
from wardround.site_agent.scheduler.local import LocalScheduler
from wardround.site_agent.scheduler.port import Scheduler, SchedulerError, UnknownRunError
from wardround.training import run_folder
from wardround.training.datasets import counting
from wardround_messages.task_folder import JOB, METRICS, OUTPUT, RESULT

TASK = "counting.r000001.check.clinic-1.a01"
OTHER = "counting.r000002.check.clinic-1.a01"

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
                        time.sleep(0.2)
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
    """A spool and a data set; `scheduler` makes a scheduler that works on them."""

    root: Path
    scheduler: Callable[[], Scheduler]
    rounds: Iterator[int] = field(default_factory=count)

    @property
    def spool(self) -> Path:
        return self.root / "spool"

    def task(self, trainer: str = "adding", **parameters: object) -> str:
        """A new task with its folder: a first model, made by this trainer."""
        task = TaskId("counting", next(self.rounds), Task.INITIALISE, "clinic-1", 1)
        (self.spool / str(task)).mkdir(parents=True)
        job = {
            **asdict(task),
            "trainer": trainer,
            "parameters": parameters,
            "seed": 1,
            "epochs": 1,
            "optimizer_state": "reset",
            "deterministic": True,
            "data": {"name": "none", "folders": [str(self.root)]},
            "model_sha256": None,
            "carry": str(self.root),
        }
        (self.spool / str(task) / JOB).write_text(json.dumps(job))
        return str(task)

    def odd(self, does: str) -> str:
        return self.task("odd", does=does)

    def result(self, task: str) -> Path:
        return self.spool / task / RESULT

    async def begun(self, task: str) -> None:
        """Return when the odd trainer has begun."""
        await until((self.root / f"begun-{task}").exists)


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


@pytest.fixture(params=[inline, local])
def clinic(request: pytest.FixtureRequest, tmp_path: Path) -> Clinic:
    return clinic_at(tmp_path, request.param)


@pytest.fixture
def local_clinic(tmp_path: Path) -> Clinic:
    return clinic_at(tmp_path, local)


@pytest.fixture
async def scheduler(clinic: Clinic) -> AsyncIterator[Scheduler]:
    scheduler = clinic.scheduler()
    yield scheduler
    await scheduler.close()
    assert processes_of(clinic.root) == []


@pytest.fixture
async def local_scheduler(local_clinic: Clinic) -> AsyncIterator[Scheduler]:
    scheduler = local_clinic.scheduler()
    yield scheduler
    await scheduler.close()
    assert processes_of(local_clinic.root) == []


def processes_of(root: Path) -> list[int]:
    """The processes, other than this, that were started for something below `root`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(root).encode() in line:
                found.append(int(entry.name))
    return found


async def begun(folder: Path, name: str = METRICS) -> None:
    """Return when the training in the folder has left its first trace."""
    await until((folder / name).exists)


async def until(condition: Callable[[], bool], *, within: float = 20) -> None:
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 - another process makes it true
            await asyncio.sleep(0.01)


# --- every scheduler ---------------------------------------------------------------------------------------------


async def test_a_run_that_succeeded_has_left_its_result(clinic: Clinic, scheduler: Scheduler) -> None:
    folder = clinic.prepare()
    await scheduler.trigger(TASK)
    assert (await scheduler.wait(TASK)).succeeded
    assert json.loads((folder / RESULT).read_text())["trainer"]["name"] == "adding"


async def test_a_task_that_says_in_its_result_why_it_failed_is_a_run_that_succeeded(
    clinic: Clinic, scheduler: Scheduler
) -> None:
    folder = clinic.prepare(trainer="absent")
    await scheduler.trigger(TASK)
    assert (await scheduler.wait(TASK)).succeeded
    assert json.loads((folder / RESULT).read_text())["failure"]["code"] == "trainer_unknown"


async def test_triggering_twice_runs_once(clinic: Clinic, scheduler: Scheduler) -> None:
    folder = clinic.prepare(seconds=0.2)
    await asyncio.gather(scheduler.trigger(TASK), scheduler.trigger(TASK))
    await scheduler.trigger(TASK, again=True)
    await scheduler.wait(TASK)
    first = (folder / RESULT).stat().st_mtime_ns
    await scheduler.trigger(TASK)
    await scheduler.wait(TASK)
    assert (folder / RESULT).stat().st_mtime_ns == first


async def test_waiting_after_the_end_returns_at_once(clinic: Clinic, scheduler: Scheduler) -> None:
    clinic.prepare()
    await scheduler.trigger(TASK)
    end = await scheduler.wait(TASK)
    async with asyncio.timeout(0.1):
        assert await scheduler.wait(TASK) == end


async def test_giving_up_waiting_leaves_the_run_going(clinic: Clinic, scheduler: Scheduler) -> None:
    clinic.prepare(seconds=0.3)
    await scheduler.trigger(TASK)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(scheduler.wait(TASK), 0.05)
    assert (await scheduler.wait(TASK)).succeeded


async def test_a_run_nobody_triggered_is_unknown(clinic: Clinic, scheduler: Scheduler) -> None:
    clinic.prepare()
    with pytest.raises(UnknownRunError):
        await scheduler.wait(TASK)


async def test_a_result_from_before_a_restart_counts_and_is_not_made_again(
    clinic: Clinic, scheduler: Scheduler
) -> None:
    folder = clinic.prepare()
    await scheduler.trigger(TASK)
    await scheduler.wait(TASK)
    first = (folder / RESULT).stat().st_mtime_ns
    after = clinic.scheduler()
    await after.trigger(TASK)
    assert (await after.wait(TASK)).succeeded
    await after.close()
    assert (folder / RESULT).stat().st_mtime_ns == first


async def test_again_runs_again_after_an_end(clinic: Clinic, scheduler: Scheduler) -> None:
    folder = clinic.prepare()
    await scheduler.trigger(TASK)
    await scheduler.wait(TASK)
    first = (folder / RESULT).stat().st_mtime_ns
    await scheduler.trigger(TASK, again=True)
    assert (await scheduler.wait(TASK)).succeeded
    assert (folder / RESULT).stat().st_mtime_ns > first


async def test_cancelling_ends_a_run_within_a_second_and_no_result_is_left(
    clinic: Clinic, scheduler: Scheduler
) -> None:
    folder = clinic.prepare(seconds=60)
    await scheduler.trigger(TASK)
    await begun(folder)
    start = time.monotonic()
    await scheduler.cancel(TASK)
    end = await scheduler.wait(TASK)
    assert time.monotonic() - start < 1
    assert (end.succeeded, end.code) == (False, "cancelled")
    assert not (folder / RESULT).exists()


async def test_a_cancelled_run_may_run_again(clinic: Clinic, scheduler: Scheduler) -> None:
    folder = clinic.prepare(seconds=1)
    await scheduler.trigger(TASK)
    await begun(folder)
    await scheduler.cancel(TASK)
    await scheduler.trigger(TASK, again=True)
    assert (await scheduler.wait(TASK)).succeeded


async def test_cancelling_right_after_the_trigger_ends_the_run(clinic: Clinic, scheduler: Scheduler) -> None:
    clinic.prepare(seconds=60)
    await scheduler.trigger(TASK)
    await scheduler.cancel(TASK)
    assert (await scheduler.wait(TASK)).code == "cancelled"


async def test_cancelling_what_is_over_or_unknown_changes_nothing(clinic: Clinic, scheduler: Scheduler) -> None:
    clinic.prepare()
    await scheduler.cancel(TASK)
    await scheduler.trigger(TASK)
    await scheduler.wait(TASK)
    await scheduler.cancel(TASK)
    assert (await scheduler.wait(TASK)).succeeded


@pytest.mark.parametrize("task", ["", "..", "../../etc", f"{TASK}\n", f"./{TASK}", "counting", f"{TASK}/..", "\0"])
async def test_what_is_not_a_task_id_never_becomes_a_folder(clinic: Clinic, scheduler: Scheduler, task: str) -> None:
    with pytest.raises(SchedulerError) as raised:
        await scheduler.trigger(task)
    assert raised.value.code == "bad_task_id"
    with pytest.raises(UnknownRunError):
        await scheduler.wait(task)
    assert not clinic.spool.exists()


async def test_a_task_without_a_job_is_refused(clinic: Clinic, scheduler: Scheduler) -> None:
    with pytest.raises(SchedulerError) as raised:
        await scheduler.trigger(TASK)
    assert raised.value.code == "no_folder"


async def test_closing_ends_what_runs(clinic: Clinic) -> None:
    scheduler = clinic.scheduler()
    folder = clinic.prepare(seconds=60)
    await scheduler.trigger(TASK)
    await begun(folder)
    start = time.monotonic()
    await scheduler.close()
    assert not (await scheduler.wait(TASK)).succeeded
    assert time.monotonic() - start < 2
    assert processes_of(clinic.root) == []


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
    task = local_clinic.odd(does)
    local_clinic.prepare(seconds=0.2)
    await local_scheduler.trigger(TASK)
    await local_scheduler.trigger(task)
    end = await local_scheduler.wait(task)
    assert (end.succeeded, end.code) == (False, code)
    assert hint in end.hint
    assert (await local_scheduler.wait(TASK)).succeeded


async def test_a_training_that_resists_is_killed_with_all_that_it_started(
    local_clinic: Clinic, local_scheduler: Scheduler
) -> None:
    task = local_clinic.odd("resist")
    await local_scheduler.trigger(task)
    await begun(local_clinic.root, "resisting")
    assert len(processes_of(local_clinic.root)) == 3  # the server, the training, and what that started
    start = time.monotonic()
    await local_scheduler.cancel(task)
    assert (await local_scheduler.wait(task)).code == "cancelled"
    assert time.monotonic() - start < 2
    assert len(processes_of(local_clinic.root)) == 1


async def test_runs_of_several_tasks_go_on_at_the_same_time(local_clinic: Clinic, local_scheduler: Scheduler) -> None:
    folders = [local_clinic.prepare(task, seconds=60) for task in (TASK, OTHER)]
    for folder in folders:
        await local_scheduler.trigger(folder.name)
    for folder in folders:
        await begun(folder)
        await local_scheduler.cancel(folder.name)


async def test_a_lost_server_fails_its_runs_and_is_started_again(
    local_clinic: Clinic, local_scheduler: Scheduler
) -> None:
    folder = local_clinic.prepare(seconds=60)
    local_clinic.prepare(OTHER)
    await local_scheduler.trigger(TASK)
    await begun(folder)
    server = min(processes_of(local_clinic.root))
    os.kill(server, signal.SIGKILL)
    end = await local_scheduler.wait(TASK)
    assert (end.succeeded, end.code) == (False, "scheduler_lost")
    await local_scheduler.trigger(OTHER)
    assert (await local_scheduler.wait(OTHER)).succeeded
    assert server not in processes_of(local_clinic.root)


async def test_no_training_outlives_an_agent_that_was_killed(local_clinic: Clinic) -> None:
    folder = local_clinic.prepare(seconds=60)
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
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", agent, str(local_clinic.spool), TASK)
    await begun(folder)
    process.kill()
    await process.wait()
    await until(lambda: not processes_of(local_clinic.root), within=2)


async def test_two_agents_on_one_spool_train_in_a_folder_one_after_the_other(
    local_clinic: Clinic, local_scheduler: Scheduler
) -> None:
    task = local_clinic.odd("note")
    other = local_clinic.scheduler()
    await asyncio.gather(local_scheduler.trigger(task), other.trigger(task))
    await asyncio.gather(local_scheduler.wait(task), other.wait(task))
    await other.close()
    assert (local_clinic.root / "notes").read_text().split() == ["begin", "end"] * 2


async def test_a_trainer_installed_anew_is_the_one_that_runs(local_clinic: Clinic, local_scheduler: Scheduler) -> None:
    async def digest_of_what_ran(task: str) -> str:
        local_clinic.odd("nothing", task)
        await local_scheduler.trigger(task)
        assert (await local_scheduler.wait(task)).succeeded
        trainer: dict[str, str] = json.loads((local_clinic.spool / task / RESULT).read_text())["trainer"]
        return trainer["code_sha256"]

    before = await digest_of_what_ran("counting.r000000.initialise.clinic-1.a01")
    code = local_clinic.root / "installed" / "odd_trainer.py"
    code.write_text(code.read_text() + "\n# a new release\n")
    assert await digest_of_what_ran("counting.r000000.initialise.clinic-1.a02") != before


async def test_what_a_training_prints_stays_in_its_folder(local_clinic: Clinic, local_scheduler: Scheduler) -> None:
    task = local_clinic.odd("talk")
    await local_scheduler.trigger(task)
    assert (await local_scheduler.wait(task)).succeeded
    assert "said by the trainer" in (local_clinic.spool / task / OUTPUT).read_text()


@pytest.mark.parametrize("script", [None, "#!/bin/sh\necho no such module >&2\nexit 1\n"])
async def test_an_interpreter_that_does_not_work_is_an_error_without_a_path(
    local_clinic: Clinic, script: str | None
) -> None:
    python = local_clinic.root / "python"
    if script is not None:
        python.write_text(script)
        python.chmod(0o700)
    local_clinic.prepare()
    scheduler = LocalScheduler(local_clinic.spool, python=python)
    with pytest.raises(SchedulerError) as raised:
        await scheduler.trigger(TASK)
    assert raised.value.code == "scheduler_broken"
    assert "/" not in str(raised.value)
    await scheduler.close()


# --- the agent's own process -------------------------------------------------------------------------------------


async def test_one_training_at_a_time_whoever_schedules_it(tmp_path: Path) -> None:
    clinic = clinic_at(tmp_path, inline)
    said = []

    def run(folder: Path, *, cancelled: Event) -> None:
        said.append("begin")
        time.sleep(0.05)
        said.append("end")

    turn = asyncio.Lock()
    tasks = [TASK, OTHER]
    schedulers = [InlineScheduler(clinic.spool, run, turn=turn) for _ in tasks]
    for task, scheduler in zip(tasks, schedulers, strict=True):
        clinic.prepare(task)
        await scheduler.trigger(task)
    assert [(await s.wait(t)).code for t, s in zip(tasks, schedulers, strict=True)] == ["no_result"] * 2
    assert said == ["begin", "end"] * 2


async def test_a_run_that_waits_for_its_turn_is_cancelled_at_once(tmp_path: Path) -> None:
    clinic = clinic_at(tmp_path, inline)
    scheduler = clinic.scheduler()
    folder = clinic.prepare(seconds=0.5)
    clinic.prepare(OTHER)
    await scheduler.trigger(TASK)
    await begun(folder)
    await scheduler.trigger(OTHER)
    async with asyncio.timeout(0.2):
        await scheduler.cancel(OTHER)
        assert (await scheduler.wait(OTHER)).code == "cancelled"
    assert (await scheduler.wait(TASK)).succeeded
    assert not (clinic.spool / OTHER / RESULT).exists()


@pytest.mark.parametrize("threads", [True, False])
@pytest.mark.parametrize("error", [RuntimeError("broken"), SystemExit(2), MemoryError()])
async def test_whatever_a_training_raises_is_a_failed_run(tmp_path: Path, error: BaseException, threads: bool) -> None:
    clinic = clinic_at(tmp_path, inline)
    clinic.prepare()

    def run(folder: Path, *, cancelled: Event) -> None:
        raise error

    scheduler = InlineScheduler(clinic.spool, run, threads=threads)
    await scheduler.trigger(TASK)
    assert (await scheduler.wait(TASK)).code == "crashed"


async def test_without_threads_a_training_runs_in_place(tmp_path: Path) -> None:
    clinic = clinic_at(tmp_path, inline)
    clinic.prepare()
    scheduler = InlineScheduler(clinic.spool, run_folder, threads=False)
    await scheduler.trigger(TASK)
    assert not (clinic.spool / TASK / RESULT).exists()
    await asyncio.sleep(0)
    assert (clinic.spool / TASK / RESULT).exists()
    assert (await scheduler.wait(TASK)).succeeded
