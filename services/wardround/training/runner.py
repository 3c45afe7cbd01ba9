"""One task, from `job.json` to `result.json`."""

import errno
import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

from wardround.training.errors import CaseUnreadableError, TaskError
from wardround.training.job import TrainingJob
from wardround.training.metrics_file import MetricsFile
from wardround.training.optimizer_state import split_optimizer, state_after, state_before
from wardround.training.registry import installed_trainer
from wardround.training.tensors import (
    Weights,
    check_finite,
    check_layout,
    check_names,
    layout_of,
    read_model,
    write_tensors,
    write_whole,
)
from wardround.training.trainer import Outcome, Trainer
from wardround_messages import parts
from wardround_messages.base import canonical_json
from wardround_messages.codec import MalformedError, parse
from wardround_messages.names import Task
from wardround_messages.parts import Measured
from wardround_messages.task_folder import (
    CASES,
    FOLDER_AT_MOST,
    JOB,
    METRICS,
    MODEL,
    RESULT,
    UPDATE,
    Job,
    TaskResult,
)

logger = logging.getLogger(__name__)

TEXT_AT_MOST = 4000
DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def run_folder(folder: Path, *, check: bool = False, cancelled: Event | None = None) -> TaskResult:
    """Do the task in the folder and leave `result.json`, also where the task failed.

    Args:
        folder: as the folder contract has it: `job.json`, and `model.safetensors` where the task builds on a model.
        check: whatever the task, only try two cases for one step and say by code what is wrong.
        cancelled: ends the task at its next step once set.

    Raises:
        CancelledTaskError: the task was cancelled; there is no result.
        OSError: the result cannot be written.
    """
    for stale in (RESULT, UPDATE, CASES):
        (folder / stale).unlink(missing_ok=True)
    result = _Run(folder, check, cancelled).result()
    write_whole(folder / RESULT, canonical_json(result))
    return result


def read_job(folder: Path) -> Job:
    """`job.json` of a task's folder. Raises `TaskError("job_unreadable")`."""
    try:
        with (folder / JOB).open("rb") as file:
            return parse(Job, file.read(FOLDER_AT_MOST + 1), at_most=FOLDER_AT_MOST)
    except FileNotFoundError as error:
        raise TaskError("job_unreadable", f"the task's folder holds no {JOB}") from error
    except MalformedError as error:
        raise TaskError("job_unreadable", error.detail) from error


class _Run:
    """What is known of a task while it runs."""

    def __init__(self, folder: Path, check: bool, cancelled: Event | None) -> None:
        self.folder = folder
        self.check = check
        self.cancelled = cancelled
        self.phase = "job"
        self.seconds: dict[str, float] = {}
        self.trainer: parts.Trainer | None = None

    def result(self) -> TaskResult:
        try:
            return self._perform()
        except TaskError as error:
            return self._failed(error, error.__cause__ or error)
        except OSError as error:
            full = error.errno in DISK_FULL
            return self._failed(TaskError("disk_full", "free some space") if full else trainer_error(), error)
        except (Exception, SystemExit) as error:  # somebody else's code: whatever it raises ends this task only
            return self._failed(trainer_error(), error)

    def _failed(self, error: TaskError, cause: BaseException) -> TaskResult:
        logger.error("%s: %s", self.phase, error, exc_info=cause)
        text = "" if self.check or cause is error else f"{type(cause).__name__}: {cause}"[:TEXT_AT_MOST]
        return TaskResult(
            trainer=self.trainer,
            seconds=self.seconds,
            failure=error.failure(self.phase),
            text=text.encode(errors="replace").decode(),
        )

    def _perform(self) -> TaskResult:
        with self._timed("job"):
            job = self._read_job()
            installed = installed_trainer(job.trainer)
            self.trainer = installed.identity
            trainer = installed.type()
            parameters = installed.type.parameters_type().read(job.parameters)
        with self._timed("model"):
            base, optimizer = split_optimizer(self._received(job))
            carry = None if job.carry is None else self.folder.absolute().parent / job.carry
            state = state_before(job, optimizer, carry)
        with MetricsFile(self.folder / METRICS) as metrics:
            given = trainer.job_type(
                job, parameters, metrics, carry=carry, optimizer_state=state, cancelled=self.cancelled
            )
            with trainer.session(given):
                result = self._carry_out(job, trainer, given, base, optimizer)
        return result

    def _read_job(self) -> Job:
        job = read_job(self.folder)
        if self.check:
            return job.model_copy(update={"task": Task.CHECK})
        self.check = job.task is Task.CHECK
        return job

    def _received(self, job: Job) -> Weights:
        if job.task is Task.INITIALISE:
            return {}
        if job.model_sha256 is not None:
            return read_model(self.folder / MODEL, job.model_sha256)
        if job.task is Task.CHECK:
            return {}
        raise TaskError("model_missing", f"the task `{job.task}` builds on a model, but the job names none")

    def _carry_out(
        self, job: Job, trainer: Trainer[Any, Any], given: TrainingJob[Any], base: Weights, optimizer: Weights
    ) -> TaskResult:
        with self._timed("load"):
            model = trainer.load(base or None, given)
            layout = layout_of(base or trainer.save(model))
        if job.task is Task.INITIALISE:
            first = trainer.save(model)
            check_names(first)
            check_finite(first)
            write_tensors(self.folder / UPDATE, first)
            return TaskResult(trainer=self.trainer, seconds=self.seconds)

        with self._timed("data"):
            training, validation = cases_of(trainer, given)
            write_whole(self.folder / CASES, "".join(f"{name}\n" for name in given.cases_used).encode(*_FILE_NAMES))
        received = trained = None
        if job.task is not Task.TRAIN or job.evaluate_received:
            with self._timed("received"), trainer.measuring(model):
                given.phase = "received"
                received = _counted(trainer.evaluate(model, validation, given))
                _check_declared(received, trainer)
        if job.task in (Task.TRAIN, Task.CHECK):
            with self._timed("train"):
                given.phase = "train"
                trained = _counted(trainer.train(model, training, given))
            with self._timed("save"):
                update = trainer.save(model)
                check_layout(update, layout)
                check_finite(update)
                if not self.check:
                    write_tensors(self.folder / UPDATE, {**update, **state_after(job, given, optimizer)})
        if self.check:
            return TaskResult(trainer=self.trainer, seconds=self.seconds)
        return TaskResult(
            trainer=self.trainer,
            cases=trained.cases if trained is not None else 0,
            received=None if received is None else Measured(cases=received.cases, values=_finite(received.metrics)),
            trained={} if trained is None else _finite({**given.logged(), **trained.metrics}),
            steps=given.steps_done,
            seconds=self.seconds,
        )

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        self.phase = phase
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = round(time.perf_counter() - start, 6)


_FILE_NAMES = ("utf-8", "surrogateescape")


def trainer_error() -> TaskError:
    """For whatever else somebody's code raises."""
    return TaskError("trainer_error", "the trainer raised an error; the log of the site's task shows it")


def cases_of(trainer: Trainer[Any, Any], given: TrainingJob[Any]) -> tuple[Any, Any]:
    """The trainer's training cases and validation cases. Raises `TaskError`, for files that cannot be read too."""
    try:
        sides = tuple(trainer.data(given))
    except (OSError, ValueError, EOFError) as error:  # what readers of files raise
        raise CaseUnreadableError from error
    if len(sides) != 2:
        raise TypeError(f"`data` gives training cases and validation cases, not {len(sides)} things")
    return sides


def _counted(outcome: Outcome) -> Outcome:
    if outcome.cases < 1:
        raise TaskError("too_few_cases", "the trainer counted no case")
    return outcome


def _check_declared(received: Outcome, trainer: Trainer[Any, Any]) -> None:
    """What clinics approve is what `describe` shows, so nothing else is measured."""
    if undeclared := received.metrics.keys() - trainer.metrics.keys():
        raise TaskError("metric_undeclared", f"the trainer's `metrics` lacks {', '.join(sorted(undeclared))}")


def _finite(metrics: dict[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}
