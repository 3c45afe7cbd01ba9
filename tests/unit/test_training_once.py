"""One training at a time in a folder, done once, and gone with whoever asked for it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from training_folder import counting_data, fill, result_of

from wardround.training.folder_lock import folder_lock
from wardround_messages.names import Task
from wardround_messages.task_folder import CASES, LOCK, RESULT, STOPPED, UPDATE

Start = Callable[..., subprocess.Popen[str]]

# It leaves a process in a group of its own behind, and its number in the folder; then it ends as its seed says.
LEAVING_TRAINER = """
import os, signal, subprocess, sys, time
import numpy as np
from wardround.training import NumpyTrainer, Parameters

class Leaving(NumpyTrainer[Parameters]):
    def initial_weights(self, job):
        left = subprocess.Popen(["sleep", "60"], start_new_session=True)
        open("left", "w").write(str(left.pid))
        match job.seed:
            case 1: os.kill(os.getpid(), signal.SIGKILL)
            case 2: os._exit(7)
        return {"w": np.zeros(1, np.float32)}

    def data(self, job): raise NotImplementedError
    def train(self, model, cases, job): raise NotImplementedError
    def evaluate(self, model, cases, job): raise NotImplementedError
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return counting_data(tmp_path / "data")["clinic-2"]["counting"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts `python -m wardround.training run`; what still runs at the end of the test is killed."""
    started = []

    def start(folder: Path, *options: str) -> subprocess.Popen[str]:
        line = [sys.executable, "-m", "wardround.training", "run", *options, str(folder)]
        environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
        process = subprocess.Popen(
            line, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stderr):
            assert stream is not None
            stream.close()


def checking(folder: Path, data: Path, seconds: float) -> Path:
    """A task that takes so long."""
    return fill(folder, Task.CHECK, data, parameters={"seconds": seconds})


def trainings(folder: Path) -> int:
    return len((folder / LOCK).read_text().splitlines())


def until(happens: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def says(process: subprocess.Popen[str]) -> str:
    return process.communicate(timeout=30)[1]


# --- one at a time ---------------------------------------------------------------------------------------------------


def test_a_task_that_is_started_twice_is_done_once(tmp_path: Path, data: Path, start: Start) -> None:
    folder = checking(tmp_path / "task", data, seconds=1.0)
    both = [start(folder), start(folder)]
    said = list(map(says, both))
    assert [process.returncode for process in both] == [0, 0]
    assert sorted("done already" in text for text in said) == [False, True]
    assert trainings(folder) == 1


def test_a_task_that_is_done_is_not_done_again(tmp_path: Path, data: Path, start: Start) -> None:
    folder = checking(tmp_path / "task", data, seconds=0.0)
    assert "done already" not in says(start(folder))
    made = (folder / RESULT).stat().st_mtime_ns
    assert "done already" in says(start(folder))
    assert (folder / RESULT).stat().st_mtime_ns == made
    assert trainings(folder) == 1


def test_where_its_run_was_stopped_nothing_begins(tmp_path: Path, data: Path, start: Start) -> None:
    folder = checking(tmp_path / "task", data, seconds=60.0)
    (folder / STOPPED).touch()
    process = start(folder)
    assert "stopped before it began" in says(process)
    assert process.returncode == 128 + signal.SIGTERM
    assert trainings(folder) == 0


def test_a_training_whose_run_is_stopped_ends_soon_whoever_else_hears_of_it(
    tmp_path: Path, data: Path, start: Start
) -> None:
    folder = checking(tmp_path / "task", data, seconds=60.0)
    process = start(folder, "--ends-with-stdin")
    until((folder / CASES).exists)
    (folder / STOPPED).symlink_to("/nowhere")
    assert process.wait(20) == 128 + signal.SIGTERM
    assert not (folder / RESULT).exists()


def test_who_waits_takes_over_from_a_training_that_is_killed(tmp_path: Path, data: Path, start: Start) -> None:
    folder = checking(tmp_path / "task", data, seconds=60.0)
    first = start(folder)
    until((folder / CASES).exists)
    second = start(folder)
    assert second.stderr is not None
    assert "waiting for the training that is at work in this folder" in second.stderr.readline()
    first.kill()
    until(lambda: trainings(folder) == 2)


@pytest.mark.parametrize("how", ["SIGTERM", "end of input"])
def test_who_waits_for_another_training_can_be_cancelled(tmp_path: Path, data: Path, start: Start, how: str) -> None:
    folder = checking(tmp_path / "task", data, seconds=60.0)
    first = start(folder)
    until((folder / CASES).exists)
    second = start(folder, "--ends-with-stdin")
    assert second.stderr is not None
    assert "waiting" in second.stderr.readline()
    if how == "SIGTERM":
        second.terminate()
    else:
        assert second.stdin is not None
        second.stdin.close()
    assert second.wait(10) == 128 + signal.SIGTERM
    assert first.poll() is None
    assert trainings(folder) == 1


FORKING = """
import os, sys, time
from pathlib import Path
from wardround.training.folder_lock import folder_lock
with folder_lock(Path(sys.argv[1])) as lock:
    lock.acquire()
    if os.fork() == 0:
        sys.stdin.read()
"""


def test_children_that_a_training_forked_hold_its_folder_with_it(tmp_path: Path) -> None:
    line = [sys.executable, "-c", FORKING, str(tmp_path)]
    with subprocess.Popen(line, stdin=subprocess.PIPE) as parent, folder_lock(tmp_path) as lock:
        assert parent.stdin is not None
        parent.wait(30)
        before = signal.signal(signal.SIGALRM, _interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(InterruptedError):
                lock.acquire()
        finally:
            signal.signal(signal.SIGALRM, before)
        parent.stdin.close()
        lock.acquire()


def _interrupt(number: int, frame: object) -> None:
    raise InterruptedError


def test_nothing_is_written_through_a_link_in_place_of_the_lock(tmp_path: Path, data: Path, start: Start) -> None:
    folder = checking(tmp_path / "task", data, seconds=0.0)
    (folder / LOCK).symlink_to(tmp_path / "elsewhere")
    process = start(folder)
    assert "no result could be written" in says(process)
    assert process.returncode == 1
    assert not (tmp_path / "elsewhere").exists()


def test_a_training_does_not_touch_a_folder_that_was_made_anew_under_its_name(
    tmp_path: Path, data: Path, start: Start
) -> None:
    folder = checking(tmp_path / "task", data, seconds=5.0)
    process = start(folder)
    until((folder / CASES).exists)
    shutil.rmtree(folder)
    checking(folder, data, seconds=0.0)
    before = sorted(folder.iterdir())
    assert "no result could be written" in says(process)
    assert process.returncode == 1
    assert sorted(folder.iterdir()) == before


# --- gone with whoever asked for it ----------------------------------------------------------------------------------


def leaving(tmp_path: Path, data: Path, seed: int) -> Path:
    info = tmp_path / "site" / "leaving-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: leaving\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[wardround.trainers]\nleaving = leaving_trainer:Leaving\n")
    (info.parent / "leaving_trainer.py").write_text(LEAVING_TRAINER)
    return fill(tmp_path / "task", Task.INITIALISE, data, trainer="leaving", seed=seed)


@pytest.mark.parametrize(("seed", "status"), [(0, 0), (1, 128 + signal.SIGKILL), (2, 7)])
def test_however_a_training_ends_it_leaves_no_process(
    tmp_path: Path, data: Path, start: Start, seed: int, status: int
) -> None:
    folder = leaving(tmp_path, data, seed)
    process = start(folder, "--ends-with-stdin")
    assert process.wait(30) == status
    assert not psutil.pid_exists(int((folder / "left").read_text()))


def test_a_training_whose_input_ends_is_asked_to_end_first(tmp_path: Path, data: Path, start: Start) -> None:
    folder = checking(tmp_path / "task", data, seconds=60.0)
    process = start(folder, "--ends-with-stdin")
    until((folder / CASES).exists)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(10) == 128 + signal.SIGTERM
    assert not (folder / RESULT).exists()


def test_what_is_said_on_the_input_is_not_heard(tmp_path: Path, data: Path, start: Start) -> None:
    folder = checking(tmp_path / "task", data, seconds=0.3)
    process = start(folder, "--ends-with-stdin")
    assert process.stdin is not None
    process.stdin.write("end!\n" * 1000)
    process.stdin.flush()
    assert process.wait(30) == 0
    assert result_of(folder).failure is None


def test_an_input_that_cannot_end_is_told_before_anything_begins(tmp_path: Path, data: Path) -> None:
    folder = checking(tmp_path / "task", data, seconds=0.0)
    line = [sys.executable, "-m", "wardround.training", "run", "--ends-with-stdin", str(folder)]
    for nothing_to_hold in (Path(os.devnull), folder / "job.json"):
        with nothing_to_hold.open("rb") as held:
            ended = subprocess.run(line, check=False, stdin=held, stderr=subprocess.PIPE, text=True, timeout=30)
        assert ended.returncode == 2
        assert "standard input must be a pipe or a socket" in ended.stderr
        assert "--interactive" in ended.stderr
        assert "Traceback" not in ended.stderr
    assert trainings(folder) == 0
    assert not (folder / RESULT).exists()


# --- for whom --------------------------------------------------------------------------------------------------------


def test_what_is_left_is_for_whom_the_umask_says(tmp_path: Path, data: Path) -> None:
    folder = fill(tmp_path / "task", Task.INITIALISE, data)
    line = [sys.executable, "-m", "wardround.training", "run", str(folder)]
    subprocess.run(line, check=True, stderr=subprocess.DEVNULL, umask=0o007)
    assert {(folder / name).stat().st_mode & 0o777 for name in (LOCK, RESULT, UPDATE)} == {0o660}
