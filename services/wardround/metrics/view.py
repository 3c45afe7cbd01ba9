"""An experiment as a display shows it: frozen, and all that it needs besides the time of day."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from wardround.metrics.history import Phase
from wardround.metrics.lines import Line
from wardround.metrics.live import Moving
from wardround_messages.figures import BestModel
from wardround_messages.names import Task

SiteState = Literal[
    "offered",
    "granted",
    "declined",
    "pending",
    "withdrawn",
    "set_aside",
    "not_asked",
    "asked",
    "received",
    "fetching",
    "queued",
    "training",
    "checking",
    "submitting",
    "answered",
    "refused",
    "failed",
    "cancelled",
    "late",
    "done",
]
Metrics = Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class SiteView:
    """A row of the picture.

    `detail` says why a site is where it is, `since` from when on; `late` marks one that the others wait for.
    `progress` is a fraction of the training, `moving` how far the model or the update is on its way, `seconds` how long
    the training took. `metric` is the experiment's metric of the
    model that the step builds on, `curve` the same of every model before, oldest first; `metrics` are the last that
    the site measured. `sent` is the size in bytes of its update to this step. `rounds` counts its updates merged.
    """

    site: str
    state: SiteState
    detail: str = ""
    late: bool = False
    since: datetime | None = None
    attempt: int = 0
    progress: float | None = None
    moving: Moving | None = None
    epoch: int | None = None
    seconds: float | None = None
    cases: int | None = None
    metric: float | None = None
    curve: tuple[float | None, ...] = ()
    loss: float | None = None
    sent: int | None = None
    seen: datetime | None = None
    rounds: int = 0
    metrics: Metrics | None = None


@dataclass(frozen=True, slots=True)
class StepView:
    """The step opened last. `model` is the round of the model that it measures; `deadline` and `grace_ends` are None
    while no time runs, `grace` is in seconds."""

    round: int
    task: Task
    model: int
    asked: int
    answered: int
    quorum: int
    grace: int
    opened_at: datetime
    closed_at: datetime | None
    deadline: datetime | None
    grace_ends: datetime | None


@dataclass(frozen=True, slots=True)
class ModelView:
    """The latest global model. `value` is the experiment's metric, the mean over `measured_by` sites."""

    round: int
    sha256: str
    size: int
    adopted_at: datetime
    value: float | None
    measured_by: int


@dataclass(frozen=True, slots=True)
class ExperimentView:
    """All of it. `trains_since` is when round 1 opened; `evaluated` and `tested` are the metrics of the last model on
    the sites' own and on common cases. `origin` says which model it began with, where no clinic made it."""

    experiment: str
    study: str
    requested_by: str
    phase: Phase
    paused: str | None
    reason: str
    broken: str | None
    started_at: datetime
    trains_since: datetime | None
    changed_at: datetime
    rounds_done: int
    rounds_planned: int
    epochs: int
    enrolment_ends: datetime | None
    quorum: str | int
    metric: str | None
    step: StepView | None
    sites: tuple[SiteView, ...]
    model: ModelView | None
    best: BestModel | None
    evaluated: Metrics
    tested: Metrics
    log: tuple[Line, ...]
    origin: str = ""

    @property
    def ended(self) -> bool:
        return self.phase in ("finished", "failed", "aborted")
