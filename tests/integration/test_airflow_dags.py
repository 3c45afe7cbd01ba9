"""The DAGs that come with Wardround, run by the real Airflow in its own interpreter; see `tests/airflow/runs.py`."""

import ast
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import pytest

from servers.airflow import require_airflow
from wardround.site_agent.scheduler.airflow.meaning import end_of_failed_run
from wardround.stack.airflow import DAGS, find_airflow, inherited_environment, prepare_airflow
from wardround.stack.airflow_home import AirflowHome
from wardround.training.datasets import counting
from wardround_messages.names import Task, TaskId, parse_task_id
from wardround_messages.task_folder import JOB, LOCK, RESULT, UPDATE, TaskResult

pytestmark = pytest.mark.slow

EXAMPLES = DAGS.parent / "examples"
RUNS = Path(__file__).parents[1] / "airflow" / "runs.py"

# A trainer as a clinic might have the misfortune to install it: it does not hear SIGTERM, and leaves processes behind.
OBSTINATE_TRAINER = """
import os, signal, subprocess, time
import numpy as np
from wardround.training import NumpyTrainer, Parameters

class Obstinate(NumpyTrainer[Parameters]):
    def initial_weights(self, job):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen(["sleep", "60"])
        far = subprocess.Popen(["sh", "-c", "trap '' TERM; sleep 61 & echo $!; wait"], stdout=subprocess.PIPE,
                               start_new_session=True)
        far_below = int(far.stdout.readline())
        pids = (os.getpid(), os.getppid(), child.pid, far.pid, far_below)
        (job.carry / "part").write_text(" ".join(map(str, pids)))
        (job.carry / "part").rename(job.carry / "processes")
        time.sleep(60)

    def data(self, job): raise NotImplementedError
    def train(self, model, cases, job): raise NotImplementedError
    def evaluate(self, model, cases, job): raise NotImplementedError
"""


# --- Airflow's interpreter, and a clinic -----------------------------------------------------------------------------


class Runs:
    """The script `runs.py` at work on a folder of DAGs."""

    def __init__(self, dags: Path, environment: Mapping[str, str]) -> None:
        airflow = find_airflow()
        assert airflow is not None
        command = [str(airflow.with_name("python")), "-P", str(RUNS), str(dags)]
        self._process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.found = self.hear()

    def tell(self, **order: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        return self.hear()

    def hear(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the script ended"
        return json.loads(line)

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


@pytest.fixture(scope="module")
def airflow_environment(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """All the DAGs in one folder, that which the README shows too, as a clinic that copied everything would have them,
    and an Airflow for it."""
    require_airflow()
    folder = tmp_path_factory.mktemp("airflow-dags")
    home = AirflowHome(folder / "home", port=1)
    asyncio.run(prepare_airflow(home, folder))
    dags = folder / "dags"
    dags.mkdir()
    for file in (*DAGS.glob("*.py"), *EXAMPLES.glob("*.py")):
        (dags / file.name).write_bytes(file.read_bytes())
    (own,) = re.findall(r"```python\n(.*?)```", (DAGS.parent / "README.md").read_text(), re.DOTALL)
    (dags / "own.py").write_text(own)
    secrets = {
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__API_AUTH__JWT_SECRET": "a-secret-of-airflow",
        "AIRFLOW_CONN_HOSPITAL": "postgres://pacs:a-password@localhost",
        "DATABASE_PASSWORD": "a-password",
    }
    return dags, {**inherited_environment(home, os.environ), **secrets}


@pytest.fixture(scope="module")
def runs(airflow_environment: tuple[Path, dict[str, str]]) -> Iterator[Runs]:
    runs = Runs(*airflow_environment)
    yield runs
    runs.close()


@pytest.fixture(scope="module")
def runs_apart(airflow_environment: tuple[Path, dict[str, str]]) -> Iterator[Runs]:
    runs = Runs(*airflow_environment)
    yield runs
    runs.close()


@dataclass
class Clinic:
    """A spool with a data set beside it, and the interpreter that the trainings run with."""

    root: Path
    python: str = sys.executable
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def spool(self) -> Path:
        return self.root / "spool"

    def task(self, trainer: str = "adding", task: Task = Task.INITIALISE, **job: Any) -> str:
        """A new task with its folder."""
        made = TaskId("counting", next(_ROUNDS), task, "clinic-1", 1)
        name = str(made)
        folder = self.spool / name
        folder.mkdir(parents=True)
        content = {
            "experiment": made.experiment,
            "round": made.round,
            "task": task,
            "site": made.site,
            "attempt": 1,
            "trainer": trainer,
            "parameters": {},
            "seed": 1,
            "epochs": 1,
            "optimizer_state": "reset",
            "deterministic": True,
            "data": {"name": "counting", "folders": [str(self.root / "data/clinic-1/counting")]},
            "model_sha256": None,
            "carry": f"{name}/carry",
            **job,
        }
        (folder / "carry").mkdir()
        (folder / JOB).write_text(json.dumps(content))
        return name

    def order(self, task: str, *, dag: str = "wardround_task", **more: Any) -> dict[str, Any]:
        environment = {"WARDROUND_PYTHON": self.python, "WARDROUND_SPOOL": str(self.spool), **self.environment}
        order = {"dag": dag, "run": task, "conf": {"task": task}, "environment": environment, "log": str(self.log)}
        return order | more

    @property
    def log(self) -> Path:
        return self.root / "log"

    def says(self) -> str:
        return self.log.read_text(errors="replace")

    def result(self, task: str) -> TaskResult:
        return TaskResult.model_validate_json((self.spool / task / RESULT).read_bytes())

    def trained(self, task: str) -> int:
        return len((self.spool / task / LOCK).read_text().splitlines())

    def program(self, name: str, script: str) -> Path:
        """A shell script of that name in a folder of its own."""
        file = self.root / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
        return file

    def trains_by(self, script: str) -> None:
        """The clinic's interpreter is a shell script from now on."""
        self.python = str(self.program("python", script))

    def installs_obstinate(self) -> None:
        info = self.root / "site" / "obstinate-1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: obstinate\nVersion: 1\n")
        (info / "entry_points.txt").write_text("[wardround.trainers]\nobstinate = obstinate_trainer:Obstinate\n")
        (info.parent / "obstinate_trainer.py").write_text(OBSTINATE_TRAINER)
        self.trains_by(f'PYTHONPATH="{info.parent}" exec "{sys.executable}" "$@"')


_ROUNDS = count(1)
DONE = {"succeeded": True, "reason": None}


@pytest.fixture
def clinic(tmp_path: Path) -> Clinic:
    counting.write(tmp_path / "data", ("clinic-1",), 0)
    clinic = Clinic(tmp_path)
    clinic.spool.mkdir()
    return clinic


def reason_of(runs: Runs, order: dict[str, Any]) -> str:
    """Why the run failed: a word, and words for a person, as the agent reads them."""
    told = runs.tell(**order)
    assert told["succeeded"] is False
    said = end_of_failed_run([], told["reason"])
    if not told["reason"].startswith("cancelled: "):  # by nobody whom the agent knows
        assert f"{said.code}: {said.hint}" == told["reason"]
    return str(told["reason"])


# --- what the files are ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", [*DAGS.glob("*.py"), *EXAMPLES.glob("*.py")], ids=lambda file: file.name)
def test_a_dag_imports_airflow_and_the_standard_library_alone(file: Path) -> None:
    imported = {
        name.partition(".")[0]
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names])
    }
    assert imported - sys.stdlib_module_names <= {"airflow", "wardround_task"}


def test_airflow_finds_all_dags_without_an_error_and_each_in_its_own_file(runs: Runs) -> None:
    assert runs.found["errors"] == {}
    assert {dag: Path(found["file"]).name for dag, found in runs.found["dags"].items()} == {
        "wardround_task": "wardround_task.py",
        "wardround_container": "wardround_container.py",
        "wardround_gpu": "own.py",
    }
    queues = {dag: (found["pool"], found["queue"]) for dag, found in runs.found["dags"].items()}
    assert queues == {
        "wardround_task": ("default_pool", "default"),
        "wardround_container": ("gpu", "gpu"),
        "wardround_gpu": ("gpu", "gpu"),
    }


def test_airflow_starts_no_run_by_itself_and_tries_none_again(runs: Runs) -> None:
    for name, dag in runs.found["dags"].items():
        assert (dag["timetable"], dag["catchup"], dag["retries"]) == ("NullTimetable", False, 0)
        assert dag["max_active_runs"] == dag["max_active_tasks"] == (2 if name == "wardround_gpu" else 16)


def test_an_id_is_what_wardround_takes_for_one(runs: Runs) -> None:
    good = "trial-1.r000012.train.clinic-1.a01"
    texts = [
        good,
        *(str(TaskId("a" * 40, 999_999, task, "b" * 24, 99)) for task in Task),
        *(
            f"{experiment}.r000001.train.clinic-1.a01"
            for experiment in ("a" * 41, "hub", "none", "-a", "a-", "a--b", "A", "a_b", "")
        ),
        *(f"trial.r000001.train.{site}.a01" for site in ("b" * 25, "operator", "hubs", "ä", "b.c")),
        *(f"trial.r{round_}.train.clinic-1.a01" for round_ in ("00001", "0000001", "-00001", "00000x", "\u0661" * 6)),
        *(f"trial.r000001.{task}.clinic-1.a01" for task in ("Train", "trainer", "", "delete")),
        *(f"trial.r000001.train.clinic-1.{attempt}" for attempt in ("a00", "a1", "a001", "1", "a0\uff11")),
        *(
            f"{before}{good}{after}"
            for before in ("", " ", "\n", "../", "/", "-")
            for after in ("", "\n", "\0", "/..", " ")
        ),
        "..",
        "",
        good * 100,
    ]

    def is_one(text: str) -> bool:
        try:
            return str(parse_task_id(text)) == text
        except ValueError:
            return False

    assert runs.tell(grammar=texts) == {"ids": [text for text in texts if is_one(text)]}
    assert sum(map(is_one, texts)) == 8


# --- a training ------------------------------------------------------------------------------------------------------


def test_a_run_trains_in_the_folder_of_its_task(runs: Runs, clinic: Clinic) -> None:
    task = clinic.task()
    assert runs.tell(**clinic.order(task)) == DONE
    assert clinic.result(task).failure is None
    assert (clinic.spool / task / UPDATE).exists()
    assert clinic.trained(task) == 1


def test_a_run_that_is_done_a_second_time_trains_no_second_time(runs: Runs, clinic: Clinic) -> None:
    task = clinic.task()
    assert runs.tell(**clinic.order(task)) == DONE
    made = (clinic.spool / task / RESULT).stat().st_mtime_ns
    assert runs.tell(**clinic.order(task)) == DONE
    assert (clinic.spool / task / RESULT).stat().st_mtime_ns == made
    assert clinic.trained(task) == 1
    assert "done already" in clinic.says()


def test_what_a_training_leaves_may_be_read_and_removed_by_its_group(runs: Runs, clinic: Clinic) -> None:
    task = clinic.task()
    assert runs.tell(**clinic.order(task)) == DONE
    for left in (RESULT, UPDATE, LOCK):
        assert (clinic.spool / task / left).stat().st_mode & 0o777 == 0o660


def test_a_training_knows_nothing_of_airflows_environment(runs: Runs, clinic: Clinic) -> None:
    clinic.trains_by("env")
    clinic.environment = {"CUDA_VISIBLE_DEVICES": "1", "LC_TIME": "C", "WARDROUND_STACK": "here"}
    runs.tell(**clinic.order(clinic.task()))
    shown = [line.partition("] ")[2].split(" [airflow.")[0].strip() for line in clinic.says().splitlines()]
    names = {line.partition("=")[0] for line in shown if "=" in line.partition(" ")[0]}
    assert {"PATH", "CUDA_VISIBLE_DEVICES", "LC_TIME", "WARDROUND_STACK", "PYTHONUNBUFFERED"} <= names
    assert not [name for name in names if "AIRFLOW" in name or "PASSWORD" in name]
    for secret in ("a-secret-of-airflow", "a-password"):
        assert secret not in clinic.says()


def test_the_output_comes_to_the_log_in_lines_that_are_not_endless(runs: Runs, clinic: Clinic) -> None:
    clinic.trains_by("echo said; head -c 1000000 /dev/zero | tr '\\0' x; echo; printf 'no end'")
    assert runs.tell(**clinic.order(clinic.task())) == DONE
    log = clinic.says()
    assert "said" in log
    assert "no end" in log
    assert "xxx ..." in log
    assert len(log) < 30_000


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo trouble; exit 1", "crashed: the training ended with exit code 1"),
        ("exit 143", "cancelled: the training was stopped"),
        ("kill -9 $$", "killed: the training was ended by signal 9"),
        ("exec >&- 2>&-; sleep 2.5; exit 3", "crashed: the training ended with exit code 3"),
    ],
)
def test_a_run_fails_with_the_reason_in_a_word(runs: Runs, clinic: Clinic, script: str, reason: str) -> None:
    clinic.trains_by(script)
    assert reason_of(runs, clinic.order(clinic.task())).startswith(reason)
    assert reason in clinic.says()


# --- what is not carried out -----------------------------------------------------------------------------------------


def _linked(clinic: Clinic, task: str) -> None:
    (clinic.spool / task).rename(clinic.root / "elsewhere")
    (clinic.spool / task).symlink_to(clinic.root / "elsewhere")


def _emptied(clinic: Clinic, task: str) -> None:
    (clinic.spool / task / JOB).unlink()


def _linked_job(clinic: Clinic, task: str) -> None:
    (clinic.spool / task / JOB).rename(clinic.root / JOB)
    (clinic.spool / task / JOB).symlink_to(clinic.root / JOB)


def _removed(clinic: Clinic, task: str) -> None:
    (clinic.spool / task).rename(clinic.root / "elsewhere")


def _file(clinic: Clinic, task: str) -> None:
    _removed(clinic, task)
    (clinic.spool / task).touch()


@pytest.mark.parametrize("spoil", [_linked, _emptied, _linked_job, _removed, _file])
def test_nothing_is_run_where_there_is_no_folder_of_the_agents(
    runs: Runs, clinic: Clinic, spoil: Callable[[Clinic, str], None]
) -> None:
    clinic.trains_by("echo has run")
    task = clinic.task()
    spoil(clinic, task)
    reason = reason_of(runs, clinic.order(task))
    assert reason.startswith("no_folder: ")
    assert "WARDROUND_SPOOL" in reason
    assert str(clinic.root) not in reason
    assert "has run" not in clinic.says()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_administrator_is_told_that_the_agents_folders_are_closed_to_the_worker(runs: Runs, clinic: Clinic) -> None:
    task = clinic.task()
    (clinic.spool / task).chmod(0o550)
    assert reason_of(runs, clinic.order(task)).startswith(
        "not_configured: this worker may not write in a task's folder"
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda task: {"conf": {"task": task, "python": "/tmp/x"}},
        lambda task: {"conf": {"task": [task]}},
        lambda task: {"conf": {"task": f"{task}\n"}},
        lambda task: {"conf": {"task": f"../spool/{task}"}},
        lambda task: {"conf": {"task": f"{task}/carry"}},
        lambda task: {"conf": {"task": "--help"}, "run": "--help"},
        lambda task: {"conf": {}},
        lambda task: {"conf": None},
        lambda task: {"run": f"{task}-again"},
    ],
)
def test_nothing_is_run_for_a_configuration_that_the_agent_does_not_write(
    runs: Runs, clinic: Clinic, change: Callable[[str], dict[str, Any]]
) -> None:
    clinic.trains_by("echo has run")
    task = clinic.task()
    assert reason_of(runs, clinic.order(task, **change(task))).startswith("bad_conf: ")
    assert "has run" not in clinic.says()


@pytest.mark.parametrize("variable", ["WARDROUND_PYTHON", "WARDROUND_SPOOL"])
@pytest.mark.parametrize("value", ["", "relative/path"])
def test_an_administrator_who_forgot_a_variable_is_told_which_one(
    runs: Runs, clinic: Clinic, variable: str, value: str
) -> None:
    clinic.environment[variable] = value
    reason = reason_of(runs, clinic.order(clinic.task()))
    assert reason.startswith(f"not_configured: set {variable} to an absolute path")


def test_an_interpreter_that_is_not_there_is_told(runs: Runs, clinic: Clinic) -> None:
    clinic.python = "/nowhere/python"
    reason = reason_of(runs, clinic.order(clinic.task()))
    assert reason == "not_configured: python does not start: No such file or directory"
    assert "/nowhere/python -P -m wardround.training" in clinic.says()


# --- ending it -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_training_ends_with_its_task_however_that_does_and_leaves_no_process(
    runs_apart: Runs, clinic: Clinic, number: signal.Signals
) -> None:
    clinic.installs_obstinate()
    task = clinic.task("obstinate")
    running = runs_apart.tell(**clinic.order(task), apart=True)["pid"]
    processes = _appears(clinic.spool / task / "carry" / "processes")
    assert len(processes) == 5
    started = [psutil.Process(pid) for pid in processes]

    os.killpg(running, number)
    _, left = psutil.wait_procs(started, timeout=4)  # 0.4 s where nothing else is at work; Airflow waits for 5
    assert left == []
    assert runs_apart.hear()["status"] == (-9 if number == signal.SIGKILL else 1)
    assert not (clinic.spool / task / RESULT).exists()
    if number == signal.SIGTERM:
        assert "AirflowFailException: cancelled" in clinic.says()


def test_a_training_that_hears_is_asked_before_it_is_killed(runs_apart: Runs, clinic: Clinic) -> None:
    task = clinic.task(task=Task.CHECK, parameters={"seconds": 60.0})
    running = runs_apart.tell(**clinic.order(task), apart=True)["pid"]
    _exists(clinic.spool / task / "cases.txt")
    os.killpg(running, signal.SIGTERM)
    assert runs_apart.hear() == {"status": 1}
    assert "AirflowFailException: cancelled" in clinic.says()
    assert (clinic.spool / task / LOCK).exists()
    assert not (clinic.spool / task / RESULT).exists()


def _exists(path: Path) -> None:
    until = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < until, f"{path} does not appear"
        time.sleep(0.02)


def _appears(file: Path) -> list[int]:
    _exists(file)
    return [int(pid) for pid in file.read_text().split()]


# --- in a container --------------------------------------------------------------------------------------------------

# What an engine would do with the arguments, but for the container: it ends what it started once its input ends.
ENGINE = """
printf '%s\\n' "$@" > "$0.arguments"
while [ "$1" != sh ]; do shift; done
mount=$(sed -n 's/^--mount=type=bind,source=\\(.*\\),target=.spool.*/\\1/p' "$0.arguments" | head -n 1)
exec "$1" "$2" "$3" "$4" "{python}" -P -m wardround.training run --ends-with-stdin "$mount"
"""


@pytest.fixture
def with_engine(clinic: Clinic) -> Clinic:
    engine = clinic.program("docker", ENGINE.replace("{python}", sys.executable))
    clinic.environment = {
        "PATH": f"{engine.parent}:{os.environ['PATH']}",
        "WARDROUND_IMAGE": "registry.clinic.example/trainers@sha256:0123",
        "WARDROUND_PYTHON": "",
    }
    return clinic


def _arguments(clinic: Clinic) -> list[str]:
    return (clinic.root / "bin/docker.arguments").read_text().splitlines()


def test_a_container_sees_its_task_and_its_data_and_no_network(runs: Runs, with_engine: Clinic) -> None:
    clinic = with_engine
    (clinic.spool / "carry/counting").mkdir(parents=True)
    task = clinic.task(carry="carry/counting")
    assert runs.tell(**clinic.order(task, dag="wardround_container")) == DONE
    assert clinic.result(task).failure is None
    arguments = _arguments(clinic)
    data = clinic.root / "data/clinic-1/counting"
    assert [argument for argument in arguments if "mount" in argument or "volume" in argument] == [
        f"--mount=type=bind,source={clinic.spool / task},target=/spool/{task}",
        f"--mount=type=bind,source={clinic.spool}/carry/counting,target=/spool/carry/counting",
        f"--mount=type=bind,source={data},target={data},readonly",
    ]
    assert {"run", "--rm", "--interactive", "--network=none", "--read-only", "--gpus=all"} <= set(arguments)
    assert f"--user={os.geteuid()}:{(clinic.spool / task).stat().st_gid}" in arguments
    assert arguments[-2:] == ["--ends-with-stdin", f"/spool/{task}"]


@pytest.mark.parametrize(
    ("job", "image", "reason"),
    [
        ({"carry": "../home"}, "trainers:1", "bad_job: the folder to carry things in is not below the spool"),
        ({"data": {"folders": ["/data,target=/etc"]}}, "trainers:1", "bad_job: a path with a comma"),
        ({"data": {"folders": ["data"]}}, "trainers:1", "bad_job: a path with a comma"),
        ({}, "--privileged", "not_configured: WARDROUND_IMAGE does not name an image"),
        ({}, "", "not_configured: WARDROUND_IMAGE does not name an image"),
    ],
)
def test_no_container_gets_more_than_it_should(
    runs: Runs, with_engine: Clinic, job: dict[str, Any], image: str, reason: str
) -> None:
    clinic = with_engine
    clinic.environment["WARDROUND_IMAGE"] = image
    task = clinic.task(**job)
    assert reason_of(runs, clinic.order(task, dag="wardround_container")).startswith(reason)
    assert not (clinic.root / "bin/docker.arguments").exists()
