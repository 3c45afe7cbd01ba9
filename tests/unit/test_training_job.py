"""What a trainer is given: parameters, cases, epochs, steps, and a place to log."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import Field

from wardround.training import Outcome, Parameters, TaskError, TrainingJob
from wardround.training.metrics_file import EVERY, NAMES_AT_MOST, MetricsFile
from wardround_messages.names import Task
from wardround_messages.task_folder import Job, JobData


class Chosen(Parameters):
    rate: float = Field(0.1, gt=0, le=1)
    size: int = 16
    sides: tuple[int, ...] = (3, 3)
    flip: bool = True
    name: str = "x"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics(tmp_path: Path, clock: Clock) -> Iterator[MetricsFile]:
    with MetricsFile(tmp_path / "metrics.jsonl", monotonic=clock) as file:
        yield file


def job_of(metrics: MetricsFile, task: Task = Task.TRAIN, **more: Any) -> TrainingJob[Chosen]:
    job = Job(
        experiment="trial",
        round=1,
        task=task,
        site="clinic-1",
        attempt=1,
        trainer="trial",
        parameters={},
        seed=5,
        epochs=2,
        optimizer_state="reset",
        deterministic=True,
        data=JobData(name="data", folders=("data",)),
        model_sha256=None,
    )
    return TrainingJob(job, Chosen(), metrics, **more)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


# --- parameters --------------------------------------------------------------------------------------------------


def test_parameters_are_what_the_manifest_holds_and_defaults() -> None:
    read = Chosen.read({"rate": 1, "size": 8.0, "sides": (1, 2), "flip": False, "name": "y"})
    assert read == Chosen(rate=1.0, size=8, sides=(1, 2), flip=False, name="y")
    assert Chosen.read({}) == Chosen()


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"rate": 0}, "rate"),
        ({"rate": 1.1}, "rate"),
        ({"rate": "0.1"}, "rate"),
        ({"rate": True}, "rate"),
        ({"size": 8.5}, "size"),
        ({"size": True}, "size"),
        ({"flip": 1}, "flip"),
        ({"name": 1}, "name"),
        ({"sides": (1, "2")}, "sides.1"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_a_parameter_that_does_not_fit_is_named(given: dict[str, Any], field: str) -> None:
    with pytest.raises(TaskError, match=f"^parameters_invalid: {field}: "):
        Chosen.read(given)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_a_parameter_that_json_lacks_is_refused(value: object) -> None:
    with pytest.raises(TaskError, match="parameters_invalid"):
        Chosen.read({"rate": value})


def test_an_outcome_takes_whatever_float_takes() -> None:
    outcome = Outcome(cases=np.int64(3), loss=np.float32(0.5), **{"dice/mean": 1})
    assert (outcome.cases, outcome.metrics) == (3, {"loss": 0.5, "dice/mean": 1.0})


def test_the_code_of_an_error_is_checked_and_its_hint_is_safe_to_show() -> None:
    with pytest.raises(ValueError, match="is no code"):
        TaskError("Not a code")
    failure = TaskError("some_code", "a\nb\u202e\udcff" + "x" * 1000).failure("train")
    assert failure.hint == "a?b??" + "x" * 395


# --- cases -------------------------------------------------------------------------------------------------------


def test_the_split_keeps_order_and_remembers_the_cases_used(metrics: MetricsFile) -> None:
    job = job_of(metrics)
    names = [f"patient-{number}" for number in range(20)]
    training, validation = job.split(names)
    assert sorted(training + validation, key=names.index) == names
    assert [training, validation] == [sorted(side, key=names.index) for side in (training, validation)]
    assert job.cases_used == names


def test_a_test_has_validation_cases_only_and_needs_but_one(metrics: MetricsFile) -> None:
    assert job_of(metrics, Task.TEST).split(["a"]) == ([], ["a"])


@pytest.mark.parametrize("task", [Task.TRAIN, Task.EVALUATE, Task.CHECK])
def test_one_case_cannot_be_split(metrics: MetricsFile, task: Task) -> None:
    with pytest.raises(TaskError, match="too_few_cases"):
        job_of(metrics, task).split(["a"])


@pytest.mark.parametrize("task", [Task.TRAIN, Task.TEST, Task.CHECK])
def test_no_case_at_all_is_told_from_too_few(metrics: MetricsFile, task: Task) -> None:
    for divide in (job_of(metrics, task).split, job_of(metrics, task).unsplit):
        with pytest.raises(TaskError, match="data_empty"):
            divide([])


def test_a_name_with_a_line_break_is_refused(metrics: MetricsFile) -> None:
    with pytest.raises(TaskError, match="case_unreadable"):
        job_of(metrics).split(["a\nb", "c"])


# --- steps and metrics -------------------------------------------------------------------------------------------


def test_progress_counts_the_steps_of_all_epochs(metrics: MetricsFile, clock: Clock, tmp_path: Path) -> None:
    job = job_of(metrics)
    for _ in job.epochs():
        for _ in job.steps([1, 2, 3]):
            clock.now += EVERY
    assert [(line["done"], line["of"]) for line in lines(tmp_path)] == [(n, 6) for n in range(1, 7)]
    assert job.steps_done == 6


def test_a_fast_loop_leaves_its_first_and_its_last_line(metrics: MetricsFile, tmp_path: Path) -> None:
    job = job_of(metrics)
    for _ in job.epochs():
        for step in job.steps(range(10_000)):
            job.log(loss=step)
    metrics.flush()
    logged = [(line["value"], line["step"], line["epoch"]) for line in lines(tmp_path) if line["kind"] == "metric"]
    assert logged == [(0, 0, 0), (9999, 19_999, 1)]
    assert [line["done"] for line in lines(tmp_path) if line["kind"] == "progress"] == [1, 20_000]
    assert job.logged() == {"loss": 9999}


def test_too_many_names_are_refused(metrics: MetricsFile) -> None:
    job = job_of(metrics)
    job.log(**{f"m{number}": number for number in range(NAMES_AT_MOST)})
    with pytest.raises(ValueError, match="one more"):
        job.log(another=1)


def test_a_logged_tensor_does_not_hold_its_graph(metrics: MetricsFile) -> None:
    class Tensor:
        def __init__(self, graph: object) -> None:
            self.graph = graph

        def detach(self) -> float:
            return 0.25

    job = job_of(metrics)
    job.log(loss=Tensor(object()))
    assert job.logged() == {"loss": 0.25}


def test_the_jobs_randomness_comes_from_its_seed(metrics: MetricsFile) -> None:
    assert job_of(metrics).rng.random() == np.random.default_rng(5).random()
