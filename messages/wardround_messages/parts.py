"""Small models that messages and objects share."""

import math
from collections.abc import Iterable
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from wardround_messages.base import UNIQUE, Code, Count, MetricName, MetricValues, Model, NothingTwice, Sha256, Text
from wardround_messages.names import (
    Attempt,
    Bucket,
    GlobalKey,
    ObjectKey,
    Round,
    SiteId,
    Slug,
    Task,
    UpdateKey,
    parse_key,
)

# Why an answer is not counted, where the coordinator itself says so.
UNANSWERED = "unanswered"
WITHDRAWN = "withdrawn"

Encoding = Literal["full-v1"]
Sites = Annotated[tuple[SiteId, ...], Field(max_length=1000, json_schema_extra=UNIQUE), NothingTwice]


class ObjectRef(Model):
    """Weights in the experiment's own bucket, an update or a global model, pinned by their digest."""

    key: ObjectKey
    size: Count
    sha256: Sha256

    @model_validator(mode="after")
    def _key_names_the_digest(self) -> Self:
        key = parse_key(self.key)
        if not isinstance(key, UpdateKey | GlobalKey) or key.short != self.sha256[:16]:
            raise ValueError("key is not that of an update or a global model with this digest")
        return self


class ClaimCheck(Model):
    """An object in any bucket: what a message carries in place of the bytes."""

    bucket: Bucket
    key: ObjectKey
    size: Count
    sha256: Sha256


class Failure(Model):
    """Why a task did not end as `done`: where, what, and what a person can do. Never a path, never a traceback."""

    phase: Code
    code: Code
    hint: Text = ""


class Measured(Model):
    """Metrics of one model on one set of cases. A value that is not a finite number is null.

    `cases` is null where the strategy weighs sites equally: then no count needs to leave a clinic.
    """

    cases: Count | None
    values: MetricValues


def mean_of(name: str, measured: Iterable[Measured]) -> float | None:
    """The mean of a metric over those that have a finite value for it, weighted by cases where all of them give
    these; None where nobody has one, or where the mean is beyond the range of a float."""
    having = [(one.cases, value) for one in measured if (value := one.values.get(name)) is not None]
    weighted = all(cases for cases, _ in having)
    weights = [cases if weighted and cases else 1 for cases, _ in having]
    whole = sum(weights)
    try:
        return (
            math.fsum(weight / whole * value for weight, (_, value) in zip(weights, having, strict=True))
            if whole
            else None
        )
    except OverflowError:
        return None


class Trainer(Model):
    """An installed trainer, named by the digest of its code."""

    name: Slug
    version: Annotated[str, Field(max_length=40, pattern=r"^[0-9A-Za-z.+!-]+$")]
    code_sha256: Sha256


class TrainerDescription(Trainer):
    """What `python -m wardround.training describe` says of a trainer."""

    parameters_schema: dict[str, object]
    metrics: dict[MetricName, Literal["min", "max"]]


class LeftOut(Model):
    """A contribution that was not merged, and why."""

    site: SiteId
    code: Code
    detail: Text = ""


class Member(Model):
    """A site whose answer was counted: the digest pins the answer, the answer pins the update."""

    site: SiteId
    attempt: Attempt
    answer_sha256: Sha256
    cases: Count | None
    update: ObjectRef | None


class NotCounted(Model):
    """An answer that was not counted and why; `unanswered` names the attempt that was asked for in vain."""

    site: SiteId
    attempt: Attempt
    why: Code


class LateAnswer(Model):
    """An answer that came after its step had closed, or that nobody had asked for."""

    round: Round
    task: Task
    site: SiteId
    attempt: Attempt
    why: Code
