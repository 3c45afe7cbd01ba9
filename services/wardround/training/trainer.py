"""What a trainer is: the base that the NumPy and the torch variant stand on, and what it gives back."""

import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar, get_args

import numpy as np

from wardround.training.job import Parameters, TrainingJob
from wardround.training.tensors import Weights, check_suitable

if TYPE_CHECKING:
    from wardround.training.pictures import Picture

P = TypeVar("P", bound=Parameters)
M = TypeVar("M")


class Outcome:
    """What came of training or evaluating: the number of cases, and metrics by name.

    A metric is anything that `float` takes; one that diverged may be NaN or infinite and is told as such.
    """

    def __init__(self, *, cases: int, **metrics: Any) -> None:
        self.cases = int(cases)
        self.metrics = {name: float(value) for name, value in metrics.items()}


class Trainer(ABC, Generic[P, M]):
    """A model of type `M` made from arrays, trained and measured on a site's cases, and turned into arrays again.

    An entry point of the group `wardround.trainers` names a subclass of `NumpyTrainer` or `TorchTrainer`. Its type
    argument is the model of its parameters; `metrics` says which way each metric gets better.

    `needs` are modules that the trainer imports only when it works, so that whoever wants no more than its description
    neither waits for them nor has to have them installed.
    """

    metrics: ClassVar[Mapping[str, Literal["min", "max"]]] = {}
    needs: ClassVar[tuple[str, ...]] = ()
    job_type: ClassVar[type[TrainingJob[Any]]] = TrainingJob

    @classmethod
    def parameters_type(cls) -> type[Parameters]:
        """The `P` that the trainer was declared with. Raises `TypeError` where none was."""
        for base in cls.__mro__:
            for declared in getattr(base, "__orig_bases__", ()):
                for argument in get_args(declared):
                    if isinstance(argument, type) and issubclass(argument, Parameters):
                        return argument
        raise TypeError(f"{cls.__name__} must name its parameters: class {cls.__name__}(NumpyTrainer[MyParameters])")

    @abstractmethod
    def load(self, weights: Weights | None, job: TrainingJob[P]) -> M:
        """The model with these weights; with None, a first model drawn from the job's seed."""

    @abstractmethod
    def save(self, model: M) -> Weights:
        """The model's weights."""

    @abstractmethod
    def data(self, job: Any) -> Iterable[Any]:
        """Training cases and validation cases: two of whatever `train` and `evaluate` take, either maybe empty."""

    @abstractmethod
    def train(self, model: M, cases: Any, job: Any) -> Outcome:
        """Train the model in place. `cases` of the outcome is the weight of the update."""

    @abstractmethod
    def evaluate(self, model: M, cases: Any, job: Any) -> Outcome:
        """Measure the model, which stays as it is."""

    def pictures(self, model: M, cases: Any, job: Any) -> "Iterable[Picture]":
        """Cases beside what the model makes of them, best one by one: whoever asks takes the first few.

        For reports of simulations only. A picture shows a patient, so this is never called at a clinic.
        """
        return ()

    @contextmanager
    def measuring(self, model: M) -> Iterator[None]:
        """`evaluate` runs inside."""
        yield

    @contextmanager
    def session(self, job: TrainingJob[P]) -> Iterator[None]:
        """Everything of the task runs inside: Python's and NumPy's global randomness seeded, and put back after."""
        python, numpy = random.getstate(), np.random.get_state()
        random.seed(job.seed)
        np.random.seed(job.seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


class NumpyTrainer(Trainer[P, Weights]):
    """A trainer over a dictionary of arrays, which `train` changes in place.

    For the same bytes everywhere, draw from `job.rng` only, and multiply large matrices with `np.einsum`: BLAS may
    use several threads, and then the last bits depend on how many.
    """

    @abstractmethod
    def initial_weights(self, job: Any) -> Weights:
        """The first model."""

    def load(self, weights: Weights | None, job: TrainingJob[P]) -> Weights:
        if weights is None:
            return self.initial_weights(job)
        if job.begins:  # later models have the tensors of this one
            own = copy(job)
            own.rng = np.random.default_rng(job.seed)  # what is drawn here must not change what the training draws
            check_suitable(weights, self.initial_weights(own))
        return weights

    def save(self, model: Weights) -> Weights:
        return model
