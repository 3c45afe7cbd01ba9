"""A trainer to test with: it adds the site's constant, so that every model can be computed by hand."""

import time
from pathlib import Path

import numpy as np
from pydantic import Field

from wardround.training.errors import CaseUnreadableError
from wardround.training.job import Parameters, TrainingJob
from wardround.training.tensors import Weights
from wardround.training.trainer import NumpyTrainer, Outcome

AMOUNT = "amount.txt"
CASES = "case-*.txt"


class AddingParameters(Parameters):
    size_mb: float = Field(0.001, gt=0, le=4096, description="size of the model, in units of 1,000,000 bytes")
    tensors: int = Field(2, ge=1, le=1000, description="how many tensors the model is divided into")
    seconds: float = Field(0.0, ge=0, le=3600, description="how long an epoch pretends to take")


class AddingTrainer(NumpyTrainer[AddingParameters]):
    """The first model is all zeros; an epoch adds the number in the data folder's `amount.txt` to every weight.

    After one round of one epoch, federated averaging by cases yields sum(cases_i * amount_i) / sum(cases_i).
    The metric `value` is the model's first weight.
    """

    metrics = {"value": "max"}

    def initial_weights(self, job: TrainingJob[AddingParameters]) -> Weights:
        parameters = job.parameters
        length = max(1, round(parameters.size_mb * 1e6 / 4 / parameters.tensors))
        return {f"weights.{number:03d}": np.zeros(length, np.float32) for number in range(parameters.tensors)}

    def data(self, job: TrainingJob[AddingParameters]) -> tuple[list[Path], list[Path]]:
        return job.unsplit(job.data.glob(CASES))

    def train(self, model: Weights, cases: list[Path], job: TrainingJob[AddingParameters]) -> Outcome:
        amount = np.float32(_amount(job.data.glob(AMOUNT)))
        for _ in job.epochs():
            for _ in job.steps(range(1)):
                _pretend(job)
                for value in model.values():
                    value += amount
        return Outcome(cases=len(cases))

    def evaluate(self, model: Weights, cases: list[Path], job: TrainingJob[AddingParameters]) -> Outcome:
        return Outcome(cases=len(cases), value=model["weights.000"][0])


def _amount(files: list[Path]) -> float:
    try:
        return float(files[0].read_text())
    except (IndexError, OSError, ValueError) as error:
        raise CaseUnreadableError(f"the data folder needs an {AMOUNT} that holds a number") from error


def _pretend(job: TrainingJob[AddingParameters]) -> None:
    until = time.monotonic() + job.parameters.seconds
    while (left := until - time.monotonic()) > 0:
        job.stop_if_cancelled()
        time.sleep(min(left, 0.05))
