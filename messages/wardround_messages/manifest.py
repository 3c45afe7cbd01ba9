"""The manifest: an experiment as canonical JSON. Its SHA-256 names it, sites consent to that digest."""

from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from wardround_messages.base import V1, Count, MetricName, Model, Sha256, Text, canonical_json, digest
from wardround_messages.names import ExperimentId, Round, SiteId, Slug


def _kind(value: object) -> str | None:
    # Told apart by their type before they are looked at, so that an error speaks of one kind only, and a whole number
    # beyond the bounds is not taken for a float.
    match value:
        case bool():
            return "bool"
        case int():
            return "int"
        case float():
            return "float"
        case str():
            return "text"
        case list() | tuple():
            return "list"
        case _:
            return None


SHARE_WORDS = "a share of the sites is 'all', a percentage such as '66%', or a number from 1 to 1000"
Share = Annotated[
    Annotated[str, Field(pattern=r"^(?:all|(?:[1-9][0-9]?|100)%)$"), Tag("text")]
    | Annotated[int, Field(ge=1, le=1000), Tag("int")],
    Discriminator(_kind, custom_error_type="share", custom_error_message=SHARE_WORDS),
]
DAY = 86_400
DurationSeconds = Annotated[int, Field(ge=1, le=366 * DAY)]

ParameterName = Annotated[str, Field(max_length=64, pattern=r"^[a-z][a-z0-9_]*$")]
_Bool = Annotated[bool, Tag("bool")]
_Int = Annotated[int, Field(ge=-(2**53), le=2**53), Tag("int")]
_Float = Annotated[float, Tag("float")]
_Text = Annotated[Text, Tag("text")]
PARAMETER_WORDS = "a parameter is true or false, a number, a text, or a list of these"
_ByKind = Discriminator(_kind, custom_error_type="parameter", custom_error_message=PARAMETER_WORDS)
Scalar = Annotated[_Bool | _Int | _Float | _Text, _ByKind]
_List = Annotated[tuple[Scalar, ...], Field(max_length=100), Tag("list")]
Parameters = Annotated[
    dict[ParameterName, Annotated[_Bool | _Int | _Float | _Text | _List, _ByKind]], Field(max_length=100)
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

    v: V1 = 1
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
