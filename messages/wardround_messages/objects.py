"""The small create-only objects with which sites and the aggregator answer."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from wardround_messages.base import V1, Code, Count, MetricValues, Model, Seconds, Sha256, Text, Timestamp
from wardround_messages.journal import ConsentNumber, RoundCount
from wardround_messages.names import Attempt, EntryNumber, ExperimentId, GlobalKey, Round, SiteId, Slug, Task, UpdateKey
from wardround_messages.parts import Failure, LeftOut, Measured, ObjectRef, Sites, Trainer

ANSWER_AT_MOST = 64 * 1024
RESULT_AT_MOST = 16 * 2**20


class Consent(Model):
    """A site's word on an offer. `rule` is the policy rule that decided; `rounds` is how many it covers."""

    v: V1 = 1
    experiment: ExperimentId
    site: SiteId
    manifest_sha256: Sha256
    number: ConsentNumber
    offer: EntryNumber
    verdict: Literal["granted", "declined", "pending", "withdrawn"]
    rounds: RoundCount
    code: Code
    rule: Slug | None = None
    reason: Text = ""
    trainer: Trainer | None = None
    at: Timestamp


class LogHead(Model):
    """A line of the site's own log, by its number and the SHA-256 of its bytes. It vouches for all lines before it."""

    number: Annotated[int, Field(ge=1, le=2**53)]
    sha256: Sha256


class Answer(Model):
    """With this a site ends a task. Only this counts.

    `received` describes the model the task was given, `trained` the training itself. `cases` is the weight of the
    update; null where the strategy weighs equally. `log` is the newest line of the site's log before the answer was
    made: whoever holds the answer would notice a log that was rewritten later.
    """

    v: V1 = 1
    experiment: ExperimentId
    round: Round
    task: Task
    site: SiteId
    attempt: Attempt
    manifest_sha256: Sha256
    outcome: Literal["done", "refused", "failed", "cancelled"]
    by_hub: bool = False
    built_on: Sha256 | None = None
    cases: Annotated[int, Field(ge=1, le=2**53)] | None = None
    received: Measured | None = None
    trained: MetricValues = {}
    metrics_kept_back: Count = 0
    update: ObjectRef | None = None
    failure: Failure | None = None
    trainer: Trainer | None = None
    seconds: Annotated[dict[Code, Seconds], Field(max_length=20)] = {}
    steps: Count = 0
    log: LogHead | None = None
    at: Timestamp

    @model_validator(mode="after")
    def _whole(self) -> Self:
        wants_update = self.outcome == "done" and self.task in (Task.INITIALISE, Task.TRAIN)
        if wants_update != (self.update is not None):
            raise ValueError("an update goes with a done `initialise` or `train`, and with nothing else")
        if self.update is not None and self.update.key != self._update_key(self.update.sha256):
            raise ValueError("the update is not of this round and site")
        if (self.outcome == "done") == (self.failure is not None):
            raise ValueError("a failure goes with every outcome but `done`")
        if self.by_hub and self.outcome != "cancelled":
            raise ValueError("only a cancelled task ends by the hub's wish")
        return self

    def _update_key(self, sha256: str) -> str:
        return str(UpdateKey(self.round, self.site, sha256[:16]))


class Result(Model):
    """The aggregator's answer to a closing entry: a model, or null when too few members could be merged.

    `norms` holds the L2 norm of each member's change against the model built on, `drift` that of the merged change
    divided by their weighted mean (1: all pull one way; near 0: they cancel out).
    """

    v: V1 = 1
    experiment: ExperimentId
    round: Round
    task: Task
    closing: EntryNumber
    closing_sha256: Sha256
    model: ObjectRef | None
    used: Sites
    left_out: Annotated[tuple[LeftOut, ...], Field(max_length=1000)] = ()
    norms: Annotated[dict[SiteId, Annotated[float, Field(ge=0)]], Field(max_length=1000)] = {}
    drift: Annotated[float, Field(ge=0)] | None = None
    warnings: Annotated[tuple[LeftOut, ...], Field(max_length=1000)] = ()

    @model_validator(mode="after")
    def _of_this_round(self) -> Self:
        if self.model is not None and self.model.key != str(GlobalKey(self.round, self.model.sha256[:16])):
            raise ValueError("the model is not the global model of this round")
        return self
