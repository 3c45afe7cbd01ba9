"""What a trainer is given: its parameters, the site's cases, time to train, and a place to say how it goes."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from threading import Event
from typing import Any, Generic, Self, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from wardround.training.cases import VALIDATION, CaseFolders, split_by_salt
from wardround.training.errors import CancelledTaskError, TaskError
from wardround.training.metrics_file import MetricsFile
from wardround.training.tensors import Weights
from wardround_messages.base import canonical_bytes
from wardround_messages.codec import what_is_wrong
from wardround_messages.names import Task
from wardround_messages.task_folder import Job

Case = TypeVar("Case", str, Path)
Batch = TypeVar("Batch")


class Parameters(BaseModel):
    """Base of a trainer's parameters: closed, finite, checked before any clinic trains.

    Its JSON Schema is what `describe` shows and what sites check an offer against.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Self:
        """From what a manifest holds. Raises `TaskError("parameters_invalid")`, naming the first that does not fit."""
        try:
            return cls.model_validate_json(canonical_bytes(_whole(dict(given))))
        except ValidationError as error:
            raise TaskError("parameters_invalid", what_is_wrong(error)) from error
        except (TypeError, ValueError) as error:
            raise TaskError("parameters_invalid", "a value is no finite number, text, truth value or list") from error


def _whole(value: Any) -> Any:
    """16.0 is an integer in JSON Schema, against which a site checked it; so it is here."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {key: _whole(each) for key, each in value.items()}
        case list() | tuple():
            return [_whole(each) for each in value]
        case _:
            return value


P = TypeVar("P", bound=Parameters)


class TrainingJob(Generic[P]):
    """One task at one site."""

    def __init__(
        self,
        job: Job,
        parameters: P,
        metrics: MetricsFile,
        *,
        carry: Path | None = None,
        optimizer_state: Weights | None = None,
        cancelled: Event | None = None,
    ) -> None:
        self.parameters = parameters
        self.data = CaseFolders(job.data)
        self.deterministic = job.deterministic
        self.rng = np.random.default_rng(job.seed)
        """The only source of randomness that a NumPy trainer should use: seeded by the job."""
        self.seed = job.seed
        self.begins = job.task is Task.TRAIN and job.round == 1
        """Whether the model given is the experiment's first, which may come from elsewhere."""
        self.carry = carry
        """A folder that this site keeps for the experiment, between rounds."""
        self.optimizer_treatment = job.optimizer_state
        self.steps_done = 0
        self.cases_used: list[str] = []
        self.phase = "train"
        self.keeps_optimizer_state = False
        self._task = job.task
        self._salt = job.data.split_salt
        self._epochs = 1 if job.task is Task.CHECK else job.epochs
        self._epoch = 0
        self._metrics = metrics
        self._optimizer_state = {} if optimizer_state is None else optimizer_state
        self._cancelled = cancelled

    def split(self, cases: Sequence[Case], validation: float = VALIDATION) -> tuple[list[Case], list[Case]]:
        """Training cases and validation cases, split by the site's salt whatever their order.

        `cases` are files from `data.glob`, or names where one file holds many cases. In the task `test` every case
        is a validation case. Either list keeps the order of `cases`.

        Raises:
            TaskError: `data_empty`, without a case; `too_few_cases`, with one that would have to be split.
        """
        names = self._use(cases)
        if len(names) < 2 and self._task is not Task.TEST:
            raise TaskError("too_few_cases", "a split takes at least two cases")
        if self._task is Task.TEST:
            return [], list(cases)
        if self._task is Task.CHECK:
            return list(cases[:2]), list(cases[:2])
        held_out = split_by_salt(names, self._salt, validation)
        sides: tuple[list[Case], list[Case]] = ([], [])
        for case, name in zip(cases, names, strict=True):
            sides[name in held_out].append(case)
        return sides

    def unsplit(self, cases: Sequence[Case]) -> tuple[list[Case], list[Case]]:
        """All cases for training and for validation alike, for what learns nothing by heart.

        Raises:
            TaskError: `data_empty`, where there is none.
        """
        self._use(cases)
        chosen = list(cases[:2] if self._task is Task.CHECK else cases)
        return chosen, list(chosen)

    def _use(self, cases: Sequence[Case]) -> list[str]:
        names = [self.data.name(case) if isinstance(case, Path) else case for case in cases]
        if not names:
            raise TaskError("data_empty", "the folders of the data set hold no case that this trainer reads")
        if any("\n" in name or "\r" in name for name in names):
            raise TaskError("case_unreadable", "the name of a case holds a line break; rename it")
        self.cases_used += names[:2] if self._task is Task.CHECK else names
        return names

    def epochs(self) -> Iterator[int]:
        """0, 1, ... up to the number of epochs that the experiment asks for."""
        for epoch in range(self._epochs):
            self.stop_if_cancelled()
            self._epoch = epoch
            yield epoch

    def steps(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches, one step each, with progress said and a cancelled task ended in between."""
        each = len(batches) if isinstance(batches, Sized) else 0
        training = self.phase == "train"
        for done, batch in enumerate(batches, self._epoch * each + 1):
            self.stop_if_cancelled()
            yield batch
            self.steps_done += training
            self._metrics.progress(self.phase, done, self._epochs * each if training else each)
            if self._task is Task.CHECK:
                return

    def log(self, **metrics: Any) -> None:
        """Say how the training goes: values that `float` takes. A name with a slash goes in as `**{"dice/mean": x}`."""
        if self._task is Task.CHECK:  # which says nothing but codes
            return
        for name, value in metrics.items():
            self._metrics.metric(name, value, step=self.steps_done, epoch=self._epoch)

    def logged(self) -> dict[str, float]:
        """The newest value of everything logged."""
        return self._metrics.last()

    @property
    def optimizer_state(self) -> Weights:
        """The optimizer's arrays: filled from the last round where the treatment is `keep` or `average`, else empty.

        What stands in it when `train` returns is kept or averaged; with `reset` it is dropped.
        """
        self.keeps_optimizer_state = True
        return self._optimizer_state

    def state_to_keep(self) -> Weights:
        """The optimizer's arrays after training."""
        return self._optimizer_state

    def stop_if_cancelled(self) -> None:
        """Raises `CancelledTaskError`; `epochs` and `steps` call it."""
        if self._cancelled is not None and self._cancelled.is_set():
            raise CancelledTaskError
