"""A small network that tells malignant from benign tumours by 30 measures of cell nuclei, in NumPy."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from wardround.training.errors import CaseUnreadableError
from wardround.training.job import Parameters, TrainingJob
from wardround.training.tensors import Weights
from wardround.training.trainer import NumpyTrainer, Outcome
from wardround.training.trainers.adam import Adam

Floats = NDArray[np.float32]

PATIENT = "patient"
DIAGNOSIS = "diagnosis"

# Centre and scale of each measure: its mean over an image, that mean's standard error, and its worst value.
# Round numbers of the order found in fine needle aspirates, fixed here as part of the model like the intensity
# window of a scan. Statistics of the sites' own would have to leave them, or would hide how the sites differ.
SCALES: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "radius": ((14, 4), (0.4, 0.3), (16, 5)),
    "texture": ((19, 4), (1.2, 0.5), (26, 6)),
    "perimeter": ((90, 25), (3, 2), (110, 35)),
    "area": ((650, 350), (40, 45), (900, 600)),
    "smoothness": ((0.1, 0.015), (0.007, 0.003), (0.13, 0.025)),
    "compactness": ((0.1, 0.05), (0.025, 0.02), (0.25, 0.15)),
    "concavity": ((0.1, 0.08), (0.03, 0.03), (0.3, 0.2)),
    "concave_points": ((0.05, 0.04), (0.012, 0.006), (0.12, 0.07)),
    "symmetry": ((0.18, 0.03), (0.02, 0.008), (0.3, 0.06)),
    "fractal_dimension": ((0.06, 0.007), (0.004, 0.0025), (0.085, 0.02)),
}
FEATURES = tuple(f"{kind}_{measure}" for kind in ("mean", "se", "worst") for measure in SCALES)
CENTRE, SCALE = np.array([scales[kind] for kind in range(3) for scales in SCALES.values()], np.float32).T


class BreastCancerParameters(Parameters):
    learning_rate: float = Field(0.005, gt=0, le=1, description="step size of Adam")
    batch_size: int = Field(16, ge=1, le=1024, description="patients in a step")
    hidden: int = Field(16, ge=1, le=1024, description="units in the hidden layer")
    weight_decay: float = Field(1.0, ge=0, le=10, description="decoupled decay of the weights, as in AdamW")


@dataclass(frozen=True, slots=True)
class Patients:
    """`measures`: float32 [patients, 30], scaled; `malignant`: float32 [patients], 1 or 0."""

    measures: Floats
    malignant: Floats

    def __len__(self) -> int:
        return len(self.malignant)

    def __getitem__(self, which: Any) -> Self:
        return type(self)(self.measures[which], self.malignant[which])


class BreastCancerMlp(NumpyTrainer[BreastCancerParameters]):
    """One hidden layer of rectified units, binary cross-entropy, Adam.

    The data folder holds CSV files, one row a patient: `patient`, `diagnosis` (malignant or benign), 30 measures.
    """

    metrics = {"loss": "min", "auc": "max", "accuracy": "max"}

    def initial_weights(self, job: TrainingJob[BreastCancerParameters]) -> Weights:
        hidden = job.parameters.hidden
        return {
            "hidden.bias": np.zeros(hidden, np.float32),
            "hidden.weight": _he(job.rng, len(FEATURES), hidden),
            "output.bias": np.zeros(1, np.float32),
            "output.weight": _he(job.rng, hidden, 1),
        }

    def data(self, job: TrainingJob[BreastCancerParameters]) -> Iterator[Patients]:
        patients = read_patients(job.data.glob("*.csv"))
        return (_stacked([patients[name] for name in names]) for names in job.split(sorted(patients)))

    def train(self, model: Weights, cases: Patients, job: TrainingJob[BreastCancerParameters]) -> Outcome:
        parameters = job.parameters
        adam = Adam(model, job.optimizer_state, parameters.learning_rate, weight_decay=parameters.weight_decay)
        for _ in job.epochs():
            order = job.rng.permutation(len(cases))
            for first in job.steps(range(0, len(cases), parameters.batch_size)):
                loss, gradients = loss_and_gradients(model, cases[order[first : first + parameters.batch_size]])
                adam.step(gradients)
                job.log(loss=loss)
        return Outcome(cases=len(cases))

    def evaluate(self, model: Weights, cases: Patients, job: TrainingJob[BreastCancerParameters]) -> Outcome:
        logits = _forward(model, cases.measures)[1]
        return Outcome(
            cases=len(cases),
            loss=_cross_entropy(logits, cases.malignant),
            auc=area_under_curve(logits, cases.malignant > 0),
            accuracy=np.mean((logits > 0) == (cases.malignant > 0)),
        )


def read_patients(files: Sequence[Path]) -> dict[str, tuple[Floats, bool]]:
    """Scaled measures, and whether malignant, by patient.

    Raises:
        CaseUnreadableError: a column is missing, a value is no finite number or no diagnosis, a patient stands twice.
    """
    patients: dict[str, tuple[Floats, bool]] = {}
    for file in files:
        for row in _rows(file):
            try:
                measures = np.array([float(row[feature]) for feature in FEATURES], np.float32)
                patient, malignant = row[PATIENT], {"malignant": True, "benign": False}[row[DIAGNOSIS]]
            except (KeyError, TypeError, ValueError) as error:
                raise CaseUnreadableError("a row lacks a measure, a patient or a diagnosis") from error
            if patient in patients:
                raise CaseUnreadableError("a patient stands twice in the data set")
            if not np.isfinite(measures).all():
                raise CaseUnreadableError("a measure is no finite number")
            patients[patient] = _scaled(measures), malignant
    return patients


def _rows(file: Path) -> Iterator[dict[str, str]]:
    try:
        with file.open(newline="") as opened:
            yield from csv.DictReader(opened)
    except (OSError, UnicodeError, csv.Error) as error:
        raise CaseUnreadableError("a file of patients is no readable CSV") from error


def _scaled(measures: Floats) -> Floats:
    """Of order one. The inverse hyperbolic sine shortens the long tails, as a logarithm would, and takes zero."""
    scaled: Floats = np.arcsinh((measures - CENTRE) / SCALE)
    return scaled


def _stacked(patients: list[tuple[Floats, bool]]) -> Patients:
    measures = np.array([measures for measures, _ in patients], np.float32).reshape(-1, len(FEATURES))
    return Patients(measures, np.array([malignant for _, malignant in patients], np.float32))


def _he(rng: np.random.Generator, inputs: int, outputs: int) -> Floats:
    """He, Zhang, Ren, Sun 2015: https://arxiv.org/abs/1502.01852"""
    return rng.standard_normal((inputs, outputs), np.float32) * np.float32(np.sqrt(2 / inputs))


def _forward(weights: Weights, measures: Floats) -> tuple[Floats, Floats]:
    """Activations of the hidden layer [patients, hidden] and the logits of malignancy [patients].

    `einsum` rather than `@`: BLAS rounds by the number of its threads, and sizes differ between machines.
    """
    hidden = np.maximum(np.einsum("pm,mh->ph", measures, weights["hidden.weight"]) + weights["hidden.bias"], 0)
    return hidden, np.einsum("ph,ho->p", hidden, weights["output.weight"]) + weights["output.bias"]


def loss_and_gradients(weights: Weights, cases: Patients) -> tuple[float, Weights]:
    """Mean binary cross-entropy, and its gradient with respect to every weight."""
    hidden, logits = _forward(weights, cases.measures)
    by_logit = (1 / (1 + np.exp(-logits)) - cases.malignant) / np.float32(len(cases))
    by_hidden = np.einsum("p,ho->ph", by_logit, weights["output.weight"]) * (hidden > 0)
    return _cross_entropy(logits, cases.malignant), {
        "hidden.bias": by_hidden.sum(axis=0),
        "hidden.weight": np.einsum("pm,ph->mh", cases.measures, by_hidden),
        "output.bias": by_logit.sum(keepdims=True),
        "output.weight": np.einsum("ph,p->h", hidden, by_logit)[:, None],
    }


def _cross_entropy(logits: Floats, malignant: Floats) -> float:
    return float(np.mean(np.logaddexp(0, logits) - malignant * logits))


def area_under_curve(scores: NDArray[Any], positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve: how often a positive case scores above a negative one, ties counted half.

    The Mann-Whitney statistic over ranks, exact; NaN where one of the classes is missing.
    """
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return float("nan")
    _, value, count = np.unique(scores, return_inverse=True, return_counts=True)
    middle_rank = np.cumsum(count) - (count - 1) / 2
    return float((middle_rank[value][positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))
