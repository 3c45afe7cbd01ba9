"""One task, as the folder contract has it: what it leaves, and how it fails."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter
from safetensors.numpy import save
from training_folder import breast_cancer_data, counting_data, fill, install, result_of, update_of

from wardround.training import CancelledTaskError, describe, run_folder
from wardround_messages.names import Task
from wardround_messages.task_folder import (
    CASES,
    JOB,
    LOCK,
    METRIC_LINE_AT_MOST,
    METRICS,
    MODEL,
    RESULT,
    UPDATE,
    MetricsLine,
    TaskResult,
)

ZEROS = save({"weights.000": np.zeros(125, np.float32), "weights.001": np.zeros(125, np.float32)})
ONE = save({"weight": np.ones(1, np.float32)})


def command(*arguments: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "wardround.training", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False, **more)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return counting_data(tmp_path / "data")["clinic-2"]["counting"]


def code_of(result: TaskResult) -> str:
    assert result.failure is not None
    return result.failure.code


def failing(
    trainer: str, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, task: Task = Task.TRAIN, **job: Any
) -> TaskResult:
    install(tmp_path, monkeypatch, trial=f"training_trainers:{trainer}")
    model = None if task is Task.INITIALISE else ONE
    return run_folder(fill(tmp_path / "task", task, data, model=model, trainer="trial", **job))


# --- what a task leaves ------------------------------------------------------------------------------------------


def test_initialise_leaves_the_first_model_and_needs_no_data(tmp_path: Path) -> None:
    folder = fill(tmp_path / "task", Task.INITIALISE, tmp_path / "not there", parameters={"size_mb": 0.004})
    result = run_folder(folder)
    assert result.failure is None
    assert {name: value.shape for name, value in update_of(folder).items()} == {
        "weights.000": (500,),
        "weights.001": (500,),
    }
    assert result == result_of(folder)


def test_training_adds_the_sites_amount_in_every_epoch(tmp_path: Path, data: Path) -> None:
    folder = fill(tmp_path / "task", Task.TRAIN, data, model=ZEROS, epochs=3)
    result = run_folder(folder)
    assert all((value == 6).all() for value in update_of(folder).values())
    assert (result.cases, result.steps) == (2, 3)
    assert result.received is not None
    assert (result.received.cases, result.received.values) == (2, {"value": 0.0})
    assert (folder / CASES).read_text() == "case-0001.txt\ncase-0002.txt\n"
    assert result.trainer is not None
    assert result.trainer.name == "adding"


def test_the_received_model_is_not_measured_where_the_experiment_says_so(tmp_path: Path, data: Path) -> None:
    folder = fill(tmp_path / "task", Task.TRAIN, data, model=ZEROS, evaluate_received=False)
    assert run_folder(folder).received is None


@pytest.mark.parametrize("task", [Task.EVALUATE, Task.TEST])
def test_a_measurement_leaves_no_update(tmp_path: Path, data: Path, task: Task) -> None:
    folder = fill(tmp_path / "task", task, data, model=ZEROS)
    result = run_folder(folder)
    assert result.received is not None
    assert result.cases == 0
    assert not (folder / UPDATE).exists()


def test_a_test_measures_every_case_and_an_evaluation_those_held_out(tmp_path: Path) -> None:
    data = breast_cancer_data(tmp_path / "data")["clinic-1"]["breast-cancer-test"]
    first = fill(tmp_path / "first", Task.INITIALISE, data, trainer="breast-cancer-mlp")
    run_folder(first)
    model = (first / UPDATE).read_bytes()
    counted = {}
    for task in (Task.EVALUATE, Task.TEST):
        folder = fill(tmp_path / task, task, data, model=model, trainer="breast-cancer-mlp")
        received = run_folder(folder).received
        assert received is not None
        assert received.cases is not None
        assert all(value is not None for value in received.values.values())
        counted[task] = received.cases
        assert len((folder / CASES).read_text().splitlines()) == 142
    assert counted[Task.TEST] == 142
    assert 0 < counted[Task.EVALUATE] < 60


def test_a_check_tries_two_cases_and_one_step_and_tells_nothing(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, stepping="training_trainers:Stepping")
    for number in range(9):
        (data / f"more-{number}.txt").touch()
    folder = fill(tmp_path / "task", Task.CHECK, data, trainer="stepping", epochs=4)
    result = run_folder(folder)
    assert (data / "seen").read_text() == "2 cases, 2"
    assert result == TaskResult(trainer=result.trainer, seconds=result.seconds)
    assert not (folder / UPDATE).exists()
    assert "metric" not in (folder / METRICS).read_text()


def test_any_job_may_be_checked_and_a_failure_has_a_code_and_no_words(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, raising="training_trainers:Raising")
    folder = fill(tmp_path / "task", Task.TRAIN, data, model=ONE, trainer="raising")
    result = run_folder(folder, check=True)
    assert (code_of(result), result.text) == ("trainer_error", "")


def test_metrics_lines_follow_the_contract(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = failing("Diverging", tmp_path, data, monkeypatch, epochs=2)
    assert result.failure is None
    assert result.trained == {"loss": None}
    assert result.received is not None
    assert result.received.values == {"loss": None}
    lines = (tmp_path / "task" / METRICS).read_bytes().splitlines()
    read = [TypeAdapter(MetricsLine).validate_json(line) for line in lines]
    assert all(len(line) <= METRIC_LINE_AT_MOST for line in lines)
    progress = [line for line in read if line.kind == "progress"]
    assert (progress[-1].phase, progress[-1].done, progress[-1].of) == ("train", 6, 6)
    metrics = [line for line in read if line.kind == "metric"]
    assert metrics[-1].model_dump(include={"name", "value", "nonfinite", "epoch"}) == {
        "name": "loss",
        "value": None,
        "nonfinite": "nan",
        "epoch": 1,
    }


# --- the same bytes ----------------------------------------------------------------------------------------------


def trained(folder: Path, data: Path, model: bytes) -> Path:
    return fill(folder, Task.TRAIN, data, model=model, trainer="breast-cancer-mlp", epochs=2)


@pytest.mark.slow
def test_the_same_job_leaves_the_same_bytes_here_and_in_other_processes(tmp_path: Path) -> None:
    data = breast_cancer_data(tmp_path / "data")["clinic-2"]["breast-cancer"]
    first = fill(tmp_path / "first", Task.INITIALISE, data, trainer="breast-cancer-mlp")
    run_folder(first)
    model = (first / UPDATE).read_bytes()
    here = trained(tmp_path / "here", data, model)
    assert run_folder(here).failure is None
    for seed, threads in (("1", "1"), ("2", "8")):
        child = trained(tmp_path / f"child-{seed}", data, model)
        environment = os.environ | {"PYTHONHASHSEED": seed, "OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
        assert command("run", child, env=environment).returncode == 0
        assert (child / UPDATE).read_bytes() == (here / UPDATE).read_bytes()
        assert (child / CASES).read_bytes() == (here / CASES).read_bytes()


def test_the_processs_own_randomness_is_seeded_and_put_back(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, drawing="training_trainers:Drawing")
    left = set()
    for seed in (3, 4):
        np.random.seed(seed)
        folder = fill(tmp_path / f"task-{seed}", Task.TRAIN, data, model=ONE, trainer="drawing")
        assert run_folder(folder).failure is None
        left.add((folder / UPDATE).read_bytes())
        after = np.random.normal()
        np.random.seed(seed)
        assert after == np.random.normal()
    assert len(left) == 1


# --- failures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trainer", "task", "phase", "code"),
    [
        ("Raising", Task.TRAIN, "train", "trainer_error"),
        ("Leaving", Task.TRAIN, "train", "trainer_error"),
        ("Widening", Task.TRAIN, "save", "layout_changed"),
        ("Growing", Task.TRAIN, "save", "layout_changed"),
        ("Chatty", Task.TRAIN, "received", "metric_undeclared"),
        ("CountingNone", Task.TRAIN, "train", "too_few_cases"),
        ("OneSided", Task.TRAIN, "data", "trainer_error"),
        ("Reaching", Task.TRAIN, "data", "link_out_of_folder"),
        ("Empty", Task.INITIALISE, "load", "model_unsupported"),
        ("Reserved", Task.INITIALISE, "load", "model_unsupported"),
        ("NOT_A_TRAINER", Task.TRAIN, "job", "trainer_broken"),
        ("WithoutParameters", Task.TRAIN, "job", "trainer_broken"),
        ("Missing", Task.TRAIN, "job", "trainer_broken"),
    ],
)
def test_a_trainer_that_goes_wrong_fails_its_task_with_a_code(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, trainer: str, task: Task, phase: str, code: str
) -> None:
    result = failing(trainer, tmp_path, data, monkeypatch, task)
    assert result.failure is not None
    assert (result.failure.phase, result.failure.code) == (phase, code)
    assert str(tmp_path) not in result.failure.hint
    assert not (tmp_path / "task" / UPDATE).exists()


def test_the_words_of_an_error_stay_apart_from_the_hint(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = failing("Raising", tmp_path, data, monkeypatch)
    assert result.text.startswith(f"RuntimeError: no luck with {data}")
    assert result.failure is not None
    assert "case-" not in result.failure.hint


def test_an_unreadable_case_is_told_without_its_path(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data / "case-0002.txt").write_text("no number")
    result = failing("Reading", tmp_path, data, monkeypatch)
    assert result.failure is not None
    assert (result.failure.phase, result.failure.code) == ("data", "case_unreadable")
    assert str(data) not in result.failure.hint
    assert "case-0002" not in result.failure.hint


@pytest.mark.parametrize(
    ("job", "code"),
    [
        ({"parameters": {"size_mb": -1.0}}, "parameters_invalid"),
        ({"parameters": {"size": 1.0}}, "parameters_invalid"),
        ({"parameters": {"tensors": "2"}}, "parameters_invalid"),
        ({"trainer": "nobody"}, "trainer_unknown"),
        ({"optimizer_state": "average"}, "optimizer_state_unsupported"),
        ({"optimizer_state": "keep"}, "carry_missing"),
        ({"model_sha256": None}, "model_missing"),
        ({"model_sha256": "0" * 64}, "model_digest"),
    ],
)
def test_a_job_that_cannot_be_done_fails_with_a_code(
    tmp_path: Path, data: Path, job: Mapping[str, Any], code: str
) -> None:
    assert code_of(run_folder(fill(tmp_path / "task", Task.TRAIN, data, model=ZEROS, **job))) == code


def test_empty_and_absent_folders_fail_with_a_code(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert code_of(run_folder(fill(tmp_path / "a", Task.TRAIN, empty, model=ZEROS))) == "data_empty"
    assert code_of(run_folder(fill(tmp_path / "b", Task.TRAIN, tmp_path / "none", model=ZEROS))) == "data_missing"


@pytest.mark.parametrize("content", [None, "", "a lot"])
def test_an_amount_that_is_no_number_is_an_unreadable_case(tmp_path: Path, data: Path, content: str | None) -> None:
    amount = data / "amount.txt"
    amount.unlink() if content is None else amount.write_text(content)
    assert code_of(run_folder(fill(tmp_path / "task", Task.TRAIN, data, model=ZEROS))) == "case_unreadable"


def test_an_update_that_is_not_finite_is_not_left(tmp_path: Path, data: Path) -> None:
    (data / "amount.txt").write_text("inf")
    folder = fill(tmp_path / "task", Task.TRAIN, data, model=ZEROS)
    result = run_folder(folder)
    assert result.failure is not None
    assert (result.failure.code, "weights.000" in result.failure.hint) == ("nonfinite_update", True)
    assert not (folder / UPDATE).exists()


@pytest.mark.parametrize(
    ("model", "code"),
    [
        (b"", "model_unreadable"),
        (b"1234567", "model_unreadable"),
        (ZEROS[:-1], "model_unreadable"),
        (ZEROS + b"more", "model_unreadable"),
        ((2**63).to_bytes(8, "little") + ZEROS[8:], "model_unreadable"),
        (b"\x80\x04K\x01.", "model_unreadable"),
        (b"PK\x03\x04" + bytes(100), "model_unreadable"),
        (save({"weights.000": np.array([0, np.nan], np.float32)}), "model_nonfinite"),
        (save({"weights.000": np.array([0, -np.inf], np.float64)}), "model_nonfinite"),
    ],
)
def test_a_received_model_is_read_only_if_it_is_whole_and_finite(
    tmp_path: Path, data: Path, model: bytes, code: str
) -> None:
    assert code_of(run_folder(fill(tmp_path / "task", Task.TRAIN, data, model=model))) == code


def test_an_absent_model_is_told(tmp_path: Path, data: Path) -> None:
    folder = fill(tmp_path / "task", Task.TRAIN, data, model=ZEROS)
    (folder / MODEL).unlink()
    assert code_of(run_folder(folder)) == "model_missing"


@pytest.mark.parametrize(
    "content",
    [b"", b"[" * 100_000, b"\xff", b"{}", b'{"v":1,"v":1}', b'{"seed":NaN}', b" " * 300_000],
)
def test_an_unreadable_job_is_a_failed_result(tmp_path: Path, content: bytes) -> None:
    (tmp_path / JOB).write_bytes(content)
    assert code_of(run_folder(tmp_path)) == "job_unreadable"
    assert result_of(tmp_path).trainer is None


def test_a_folder_without_a_job_is_a_failed_result(tmp_path: Path) -> None:
    assert code_of(run_folder(tmp_path)) == "job_unreadable"


# --- optimizer state ---------------------------------------------------------------------------------------------


def rolled(folder: Path, data: Path, model: bytes, round_: int, treatment: str, carry: str | None = None) -> bytes:
    job = {"trainer": "rolling", "round": round_, "optimizer_state": treatment}
    task = fill(folder, Task.TRAIN, data, model=model, carry=carry, **job)
    assert run_folder(task).failure is None
    return (task / UPDATE).read_bytes()


def test_a_kept_state_goes_on_from_the_last_round_and_a_round_done_again_is_the_same(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, rolling="training_trainers:Rolling")
    rolled(tmp_path / "1", data, ONE, 1, "keep", "carry")
    second = rolled(tmp_path / "2", data, ONE, 2, "keep", "carry")
    assert update_of(tmp_path / "2") == {"weight": np.float32(3)}
    assert rolled(tmp_path / "2-again", data, ONE, 2, "keep", "carry") == second
    rolled(tmp_path / "5", data, ONE, 5, "keep", "carry")
    assert update_of(tmp_path / "5") == {"weight": np.float32(4)}
    assert sorted(path.name for path in (tmp_path / "carry").iterdir()) == [
        "optimizer-r000002.safetensors",
        "optimizer-r000005.safetensors",
    ]


def test_a_kept_state_is_found_by_a_spool_that_has_another_path_for_the_training(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, rolling="training_trainers:Rolling")
    agents, workers = tmp_path / "agent" / "spool", tmp_path / "worker" / "mount"
    rolled(agents / "1", data, ONE, 1, "keep", "carry/glioma-1")
    workers.parent.mkdir()
    agents.rename(workers)
    rolled(workers / "2", data, ONE, 2, "keep", "carry/glioma-1")
    assert update_of(workers / "2") == {"weight": np.float32(3)}


@pytest.mark.parametrize(
    "carry", ["/tmp/carry", "../carry", "carry/../../x", "carry/..", "./carry", "carry/", "", "a//b"]
)
def test_nothing_is_kept_outside_the_spool(tmp_path: Path, data: Path, carry: str) -> None:
    folder = fill(tmp_path / "spool" / "task", Task.TRAIN, data, model=ONE)
    job = json.loads((folder / JOB).read_bytes()) | {"optimizer_state": "keep", "carry": carry}
    (folder / JOB).write_text(json.dumps(job))
    assert code_of(run_folder(folder)) == "job_unreadable"


def test_a_broken_kept_state_is_told(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, rolling="training_trainers:Rolling")
    rolled(tmp_path / "1", data, ONE, 1, "keep", "carry")
    (tmp_path / "carry" / "optimizer-r000001.safetensors").write_bytes(b"broken")
    job = {"trainer": "rolling", "round": 2, "optimizer_state": "keep", "carry": "carry"}
    assert code_of(run_folder(fill(tmp_path / "2", Task.TRAIN, data, model=ONE, **job))) == "carry_unreadable"


def test_an_averaged_state_travels_with_the_update_and_comes_back_with_the_model(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, rolling="training_trainers:Rolling")
    first = rolled(tmp_path / "1", data, ONE, 1, "average")
    assert update_of(tmp_path / "1") == {"weight": np.float32(2), "optimizer.steps": np.float32(1)}
    rolled(tmp_path / "2", data, first, 2, "average")
    assert update_of(tmp_path / "2") == {"weight": np.float32(4), "optimizer.steps": np.float32(2)}


def test_a_reset_state_leaves_what_came_with_the_model_as_it_was(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, rolling="training_trainers:Rolling")
    model = save({"weight": np.ones(1, np.float32), "optimizer.steps": np.array(9, np.float32)})
    rolled(tmp_path / "1", data, model, 1, "reset")
    assert update_of(tmp_path / "1") == {"weight": np.float32(2), "optimizer.steps": np.float32(9)}


# --- ending it ---------------------------------------------------------------------------------------------------


def test_a_cancelled_task_leaves_no_result(tmp_path: Path, data: Path) -> None:
    cancelled = Event()
    cancelled.set()
    folder = fill(tmp_path / "task", Task.TRAIN, data, model=ZEROS)
    with pytest.raises(CancelledTaskError):
        run_folder(folder, cancelled=cancelled)
    assert not (folder / RESULT).exists()


def test_a_result_from_before_is_gone_while_the_task_runs(tmp_path: Path, data: Path) -> None:
    cancelled = Event()
    folder = fill(tmp_path / "task", Task.TRAIN, data, model=ZEROS)
    run_folder(folder)
    cancelled.set()
    with pytest.raises(CancelledTaskError):
        run_folder(folder, cancelled=cancelled)
    assert not (folder / RESULT).exists()
    assert not (folder / UPDATE).exists()


def test_sigterm_ends_a_task_in_its_midst_and_without_a_result(tmp_path: Path, data: Path) -> None:
    folder = fill(tmp_path / "task", Task.TRAIN, data, model=ZEROS, parameters={"seconds": 60.0})
    child = subprocess.Popen([sys.executable, "-m", "wardround.training", "run", str(folder)])
    while not (folder / CASES).exists():
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=30) == 128 + signal.SIGTERM  # half of what the task takes
    assert not (folder / RESULT).exists()


def test_a_full_disk_is_told_and_leaves_no_half_file(tmp_path: Path, data: Path) -> None:
    model = save({"weights.000": np.zeros(250_000, np.float32)})
    whole = {"size_mb": 1.0, "tensors": 1}
    folder = fill(tmp_path / "task", Task.TRAIN, data, model=model, parameters=whole)
    ended = command("run", folder, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)))
    assert ended.returncode == 0
    assert code_of(result_of(folder)) == "disk_full"
    assert sorted(path.name for path in folder.iterdir()) == [CASES, JOB, METRICS, MODEL, RESULT, LOCK]


@pytest.mark.slow
def test_the_exit_code_says_whether_there_is_a_result(tmp_path: Path) -> None:
    there = command("run", tmp_path)
    assert there.returncode == 0
    assert code_of(result_of(tmp_path)) == "job_unreadable"
    absent = command("run", tmp_path / "absent")
    assert absent.returncode == 1
    assert "no result could be written" in absent.stderr
    assert command("run").returncode == 2


# --- what is installed -------------------------------------------------------------------------------------------


def test_describe_prints_the_trainers_and_leaves_out_a_broken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, simple="training_trainers:Simple", broken="not_installed_here:Trainer")
    search = os.pathsep.join([str(tmp_path), str(Path(__file__).parent)])
    ended = command("describe", env=os.environ | {"PYTHONPATH": search})
    assert ended.returncode == 0
    described = {each["name"]: each for each in json.loads(ended.stdout)}
    assert described.keys() - {"brain-tumour-unet"} == {"adding", "breast-cancer-mlp", "simple"}
    assert described["simple"]["version"] == "1.2"
    assert described["adding"]["metrics"] == {"value": "max"}
    assert described["adding"]["parameters_schema"]["additionalProperties"] is False
    assert "broken" in ended.stderr
    assert sorted(described) == [each.name for each in describe()]


def test_a_name_that_two_packages_offer_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, twin="training_trainers:Simple")
    install(tmp_path, monkeypatch, twin="training_trainers:Raising")
    assert "twin" not in {each.name for each in describe()}


def test_the_digest_of_a_package_changes_with_any_of_its_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "lung_trainer"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "helper.py").write_text("FACTOR = 1\n")
    (package / "trainer.py").write_text("from training_trainers import Simple\n\n\nclass Lung(Simple):\n    pass\n")
    install(tmp_path, monkeypatch, lung="lung_trainer.trainer:Lung")

    def digest() -> str:
        return next(each.code_sha256 for each in describe() if each.name == "lung")

    before = digest()
    install(tmp_path, monkeypatch)
    assert digest() == before
    (package / "helper.py").write_text("FACTOR = 2\n")
    install(tmp_path, monkeypatch)
    assert digest() != before


def test_a_task_imports_neither_torch_nor_what_shows_things() -> None:
    code = (
        "import sys; from wardround.training import __main__, rehearsal; "
        "from wardround.training.trainers import adding, breast_cancer_mlp; print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "wardround.training.runner" in loaded
    assert not {"torch", "typer", "rich", "sklearn", "structlog", "wardround.runtime"}.intersection(loaded)


def test_a_first_model_with_other_tensors_is_unsuitable_and_changes_no_later_round(tmp_path: Path, data: Path) -> None:
    model = save({"weights.000": np.zeros(3, np.float32)})
    for round_, code in ((1, "model_unsuitable"), (2, None)):
        folder = fill(tmp_path / f"round-{round_}", Task.TRAIN, data, model=model, round=round_)
        assert command("run", folder).returncode == 0
        failure = result_of(folder).failure
        assert (None if failure is None else failure.code) == code
    hint = result_of(tmp_path / "round-1").failure
    assert hint is not None
    assert "tensor 'weights.000' of the received model is float32[3]" in hint.hint


def test_what_measures_the_model_of_round_1_is_not_given_the_first_one(tmp_path: Path, data: Path) -> None:
    model = save({"weights.000": np.zeros(3, np.float32)})
    assert run_folder(fill(tmp_path / "task", Task.EVALUATE, data, model=model, round=1)).failure is None
