"""What a model makes of a few cases, as pictures for the report of a simulation."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround.training.errors import TaskError
from wardround.training.metrics_file import MetricsFile
from wardround.training.optimizer_state import split_optimizer
from wardround.training.registry import installed_trainer
from wardround.training.runner import cases_of, trainer_error
from wardround.training.tensors import read_tensors
from wardround_messages.names import Task
from wardround_messages.task_folder import METRICS, Job, JobData


@dataclass(frozen=True, slots=True)
class Picture:
    """One slice of a case, as it is to be looked at: row 0 is the top.

    `image` is float32 [height, width] from 0 (black) to 1 (white); `truth` and `predicted` are uint8 [height, width]
    with value k for `classes[k - 1]` and 0 for none of them.
    """

    title: str
    image: NDArray[np.float32]
    truth: NDArray[np.uint8]
    predicted: NDArray[np.uint8]
    classes: tuple[str, ...]


def draw(
    trainer: str,
    parameters: Mapping[str, Any],
    model_file: Path,
    folders: Sequence[Path],
    *,
    layout: str | None = None,
    count: int = 3,
    seed: int = 0,
) -> list[Picture]:
    """The first `count` pictures that the trainer gives of the cases in `folders`; none where it gives none.

    Everything goes as in the task `test`, on one CPU thread.

    Args:
        parameters: the trainer's, as in the manifest.
        model_file: a model in safetensors.

    Raises:
        TaskError: whatever a task would fail with.
    """
    job = Job(
        experiment="pictures",
        round=1,
        task=Task.TEST,
        site="report",
        attempt=1,
        trainer=trainer,
        parameters=dict(parameters),
        seed=seed,
        epochs=1,
        optimizer_state="reset",
        deterministic=True,
        data=JobData(name="pictures", folders=tuple(map(str, folders)), layout=layout),
        model_sha256=None,
    )
    try:
        return _drawn(job, model_file, count)
    except TaskError:
        raise
    except (Exception, SystemExit) as error:  # a trainer is somebody else's code
        raise trainer_error() from error


def _drawn(job: Job, model_file: Path, count: int) -> list[Picture]:
    installed = installed_trainer(job.trainer)
    trainer = installed.type()
    parameters = installed.type.parameters_type().read(job.parameters)
    weights, _ = split_optimizer(read_tensors(model_file))
    with tempfile.TemporaryDirectory() as folder, MetricsFile(Path(folder, METRICS)) as metrics:
        given = trainer.job_type(job, parameters, metrics)
        with trainer.session(given):
            model = trainer.load(weights, given)
            _, cases = cases_of(trainer, given)
            given.phase = "received"
            with trainer.measuring(model):
                return list(islice(trainer.pictures(model, cases, given), count))
