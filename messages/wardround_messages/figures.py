"""What the metrics service writes down of a round: a function of journal, answers and results, so never lost."""

from typing import Annotated, Literal

from pydantic import Field

from wardround_messages.base import V1, Code, Count, MetricName, MetricValues, Model, Seconds, Sha256, Timestamp
from wardround_messages.names import ExperimentId, Round, SiteId, Task
from wardround_messages.parts import LeftOut, Measured, ObjectRef, Sites

FIGURES_AT_MOST = 64 * 2**20

SiteOutcome = Literal[
    "open",
    "answered",
    "refused",
    "failed",
    "cancelled",
    "late",
    "withdrawn",
    "declined",
    "set_aside",
    "not_asked",
]


class SiteFigures(Model):
    """One site in one step.

    `open` was asked and has until the step closes; `late` had not answered by then; `set_aside`, `declined`,
    `withdrawn` and `not_asked` were not asked, but for a site that withdrew while it was. An `answered` site that is
    not `counted` was left out, and `why` says for what. `received` describes the model the site was given, in round r
    that of round r-1; `norm` is the L2 norm of its change to it.
    """

    site: SiteId
    outcome: SiteOutcome
    counted: bool = False
    why: Code | None = None
    attempts: Annotated[int, Field(ge=0, le=99)] = 0
    cases: Count | None = None
    received: Measured | None = None
    trained: MetricValues = {}
    metrics_kept_back: Count = 0
    seconds: Annotated[dict[Code, Seconds], Field(max_length=20)] = {}
    steps: Count = 0
    update: ObjectRef | None = None
    norm: Annotated[float, Field(ge=0)] | None = None


class StepFigures(Model):
    """One step of a round. `received` is the mean of what its members measured of the model `built_on`."""

    task: Task
    built_on: Sha256 | None
    quorum: Annotated[int, Field(ge=1, le=1000)]
    opened_at: Timestamp
    quorum_at: Timestamp | None
    closed_at: Timestamp | None
    closed_by: Literal["complete", "grace", "deadline", "out_of_reach"] | None
    quorum_met: bool
    reopened: Count
    received: MetricValues
    sites: Annotated[tuple[SiteFigures, ...], Field(max_length=1000)]


class ModelFigures(Model):
    """The global model that the round led to."""

    size: Count
    sha256: Sha256
    adopted_at: Timestamp
    used: Sites
    left_out: Annotated[tuple[LeftOut, ...], Field(max_length=1000)] = ()
    warnings: Annotated[tuple[LeftOut, ...], Field(max_length=1000)] = ()
    drift: Annotated[float, Field(ge=0)] | None = None


class BestModel(Model):
    """The global model that did best so far by the manifest's metric."""

    round: Round
    metric: MetricName
    value: float


class Figures(Model):
    """`figures/r000012.json`: the steps of a round in the order they were opened, and what came of them."""

    v: V1 = 1
    experiment: ExperimentId
    round: Round
    steps: Annotated[tuple[StepFigures, ...], Field(max_length=5)]
    model: ModelFigures | None
    best: BestModel | None
