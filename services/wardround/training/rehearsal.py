"""A trainer tried as a clinic would run it, and what would leave the clinic."""

import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from wardround.training.registry import installed_trainer
from wardround.training.tensors import read_tensors
from wardround_messages import parts
from wardround_messages.base import canonical_json
from wardround_messages.codec import MalformedError, parse
from wardround_messages.manifest import Scalar
from wardround_messages.names import Task
from wardround_messages.parts import Measured
from wardround_messages.task_folder import (
    FOLDER_AT_MOST,
    JOB,
    MODEL,
    RESULT,
    UPDATE,
    Job,
    JobData,
    TaskResult,
)

FIRST, TRAINED, AGAIN, MEASURED = "initialise", "train", "train-again", "evaluate"


class RehearsalError(Exception):
    """A task ended without what it should leave; the message says which, and why."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """`size` in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What two trainings and a measurement of the trained model came to.

    `received` describes the first model and `measured` the trained one; `update_size` is in bytes.
    """

    trainer: parts.Trainer
    same_bytes: bool
    cases: int
    steps: int
    tensors: tuple[Tensor, ...]
    update_size: int
    received: Measured | None
    trained: Mapping[str, float | None]
    measured: Measured | None


def rehearse(
    name: str,
    data: Path,
    parameters: Mapping[str, Scalar | tuple[Scalar, ...]] | None = None,
    *,
    epochs: int = 1,
    keep: Path | None = None,
    say: Callable[[str], None] = lambda task: None,
) -> Rehearsal:
    """Make a first model, train it twice at the same time, and measure it, each in a process of its own.

    Args:
        name: of an installed trainer.
        data: a folder laid out as the trainer reads it.
        parameters: the trainer's defaults where they are not given.
        keep: an empty or absent folder to leave the tasks' folders in; else they are deleted.
        say: told the name of each task before it runs.

    Raises:
        TaskError: `trainer_unknown` or `trainer_broken`.
        RehearsalError: a task failed.
    """
    identity = installed_trainer(name).identity
    with tempfile.TemporaryDirectory() if keep is None else nullcontext(str(keep)) as parent:

        def run(called: str, task: Task, model: Path | None) -> tuple[TaskResult, Path]:
            say(called)
            folder = Path(parent) / called
            folder.mkdir(parents=True)
            _fill(folder, _job(name, task, data, parameters or {}, epochs, model), model)
            return _run(called, folder), folder / UPDATE

        _, first = run(FIRST, Task.INITIALISE, None)
        with ThreadPoolExecutor(max_workers=2) as both:  # each thread waits for a process
            trainings = [both.submit(run, called, Task.TRAIN, first) for called in (TRAINED, AGAIN)]
            (result, update), (_, again) = (training.result() for training in trainings)
        measured, _ = run(MEASURED, Task.EVALUATE, update)
        return Rehearsal(
            trainer=identity,
            same_bytes=update.read_bytes() == again.read_bytes(),
            cases=result.cases,
            steps=result.steps,
            tensors=tuple(
                Tensor(tensor, str(value.dtype), value.shape, value.nbytes)
                for tensor, value in sorted(read_tensors(update).items())
            ),
            update_size=update.stat().st_size,
            received=result.received,
            trained=result.trained,
            measured=measured.received,
        )


def _job(
    trainer: str,
    task: Task,
    data: Path,
    parameters: Mapping[str, Scalar | tuple[Scalar, ...]],
    epochs: int,
    model: Path | None,
) -> Job:
    return Job(
        experiment="rehearsal",
        round=0 if task is Task.INITIALISE else 1,
        task=task,
        site="clinic-1",
        attempt=1,
        trainer=trainer,
        parameters=dict(parameters),
        seed=1,
        epochs=epochs,
        optimizer_state="reset",
        deterministic=True,
        data=JobData(name="rehearsal", folders=(str(data.resolve()),)),
        model_sha256=None if model is None else hashlib.sha256(model.read_bytes()).hexdigest(),
    )


def _fill(folder: Path, job: Job, model: Path | None) -> None:
    if model is not None:
        (folder / MODEL).write_bytes(model.read_bytes())
    (folder / JOB).write_bytes(canonical_json(job))


def _run(called: str, folder: Path) -> TaskResult:
    # A process each, as at a clinic: what depends on the order of a set differs between two of them.
    command = [sys.executable, "-P", "-m", "wardround.training", "run", str(folder.absolute())]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)  # noqa: S603
    try:
        result = parse(TaskResult, (folder / RESULT).read_bytes(), at_most=FOLDER_AT_MOST)
    except (OSError, MalformedError):
        last = ended.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise RehearsalError(f"{called}: ended with exit code {ended.returncode} and no result: {last}") from None
    if (failure := result.failure) is not None:
        why = f" ({result.text})" if result.text else ""
        raise RehearsalError(f"{called}: {failure.code}: {failure.hint}{why}")
    return result
