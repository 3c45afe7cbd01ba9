"""The manifest: an experiment as canonical JSON. Its SHA-256 names it, sites consent to that digest."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from wardround_messages.base import Count, MetricName, Model, Sha256, Text, canonical_json, digest
from wardround_messages.names import ExperimentId, Round, SiteId, Slug

Percent = Annotated[str, Field(pattern=r"^(?:[1-9][0-9]?|100)%$")]
Share = Literal["all"] | Percent | Annotated[int, Field(ge=1, le=1000)]
DAY = 86_400
DurationSeconds = Annotated[int, Field(ge=1, le=366 * DAY)]

ParameterName = Annotated[str, Field(max_length=64, pattern=r"^[a-z][a-z0-9_]*$")]
Scalar = bool | Annotated[int, Field(ge=-(2**53), le=2**53)] | float | Text
Parameters = Annotated[
    dict[ParameterName, Scalar | Annotated[tuple[Scalar, ...], Field(max_length=100)]], Field(max_length=100)
]


def share_of(share: str | int, base: int) -> int:
    """How many of `base` sites a share stands for; a percentage is rounded up in integers."""
    if isinstance(share, int):
        return share
    percent = 100 if share == "all" else int(share.removesuffix("%"))
    return -(-base * percent // 100)


class Cohort(Model):
    sites: Annotated[tuple[SiteId, ...], Field(min_length=1, max_length=1000)]
    quorum: Share = "all"
    enrol: DurationSeconds = 14 * DAY
    sample: Share = "all"

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if len(set(self.sites)) != len(self.sites):
            raise ValueError("cohort.sites names a site twice")
        asked = share_of(self.sample, len(self.sites))
        if asked > len(self.sites):
            raise ValueError(f"cohort.sample asks for {asked} of {len(self.sites)} sites")
        if share_of(self.quorum, asked) > asked:
            raise ValueError(f"cohort.quorum is {self.quorum}, but a round asks {asked} sites")
        return self


class Rounds(Model):
    count: Annotated[int, Field(ge=1, le=10_000)]
    deadline: DurationSeconds = DAY
    grace: Annotated[int, Field(ge=0, le=366 * DAY)] = 600
    on_missed: Literal["pause", "fail"] = "pause"
    attempts: Annotated[int, Field(ge=1, le=10)] = 3


class FromTrainer(Model):
    """One site makes the first model."""

    kind: Literal["trainer"] = "trainer"


class Brought(Model):
    """The researcher's own first model, waiting in `wr-models/<sha256>.safetensors`."""

    kind: Literal["brought"] = "brought"
    size: Count
    sha256: Sha256


class Forked(Model):
    """A global model of another experiment."""

    kind: Literal["forked"] = "forked"
    experiment: ExperimentId
    round: Round
    size: Count
    sha256: Sha256


class Best(Model):
    metric: MetricName
    goal: Literal["min", "max"]


class ModelPlan(Model):
    initial: Annotated[FromTrainer | Brought | Forked, Field(discriminator="kind")] = FromTrainer()
    best: Best | None = None
    keep: Literal["all"] | Annotated[int, Field(ge=1, le=10_000)] = "all"


class Strategy(Model):
    name: Literal["fedavg"] = "fedavg"
    weight: Literal["cases", "equal"] = "cases"
    norm_at_most: Annotated[float, Field(gt=0, le=1e30)] | None = None


class Training(Model):
    trainer: Slug
    dataset: Slug
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 1
    optimizer_state: Literal["reset", "keep", "average"] = "reset"
    deterministic: bool = True
    parameters: Parameters = {}


class CommonTest(Model):
    """Common test cases at one named site of the cohort."""

    site: SiteId
    dataset: Slug


class Evaluation(Model):
    received: bool = True
    final: bool = True
    test: CommonTest | None = None


class Manifest(Model):
    """All that an experiment is. Durations are whole seconds."""

    v: Literal[1] = 1
    id: ExperimentId
    mode: Literal["train", "check"] = "train"
    study: Slug
    purpose: Text
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    cohort: Cohort
    rounds: Rounds
    model: ModelPlan = ModelPlan()
    strategy: Strategy = Strategy()
    training: Training
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        test = self.evaluation.test
        if test is not None and test.site not in self.cohort.sites:
            raise ValueError(f"evaluation.test.site is '{test.site}', which is not in cohort.sites")
        return self

    @property
    def sha256(self) -> str:
        return digest(canonical_json(self))
