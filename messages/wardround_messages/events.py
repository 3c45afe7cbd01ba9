"""Events: what happened, said by the service that knows it."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from wardround_messages.base import (
    TEXT,
    UNIQUE,
    Code,
    Count,
    MetricValues,
    Model,
    NothingTwice,
    Sha256,
    Text,
    Timestamp,
)
from wardround_messages.journal import FACT_NAMES, AnyFact, JournalEntry
from wardround_messages.messages import Event, TypeName, type_name
from wardround_messages.names import (
    Attempt,
    Bucket,
    EntryNumber,
    ExperimentId,
    JournalKey,
    ObjectKey,
    Round,
    SiteId,
    Slug,
    Task,
    bucket_of,
)
from wardround_messages.parts import ClaimCheck, Trainer

Phase = Literal["received", "fetching", "queued", "training", "checking", "submitting", "answered"]
BODY_AT_MOST = 32 * 1024

# --- from the coordinator ----------------------------------------------------------------------------------------


class EntryRecorded(Event):
    """A journal entry, published by whoever appended it; its type is that of the fact it holds.

    Above 32 KiB the body stays in the journal and `claim` says where.
    """

    service = "coordinator"
    experiment: ExperimentId
    number: EntryNumber
    at: Timestamp
    fact: Annotated[str, Field(json_schema_extra={"enum": sorted(FACT_NAMES)})]
    body: AnyFact | None
    claim: ClaimCheck | None

    @model_validator(mode="after")
    def _body_or_claim(self) -> Self:
        if (self.body is None) == (self.claim is None):
            raise ValueError("exactly one of body and claim")
        if self.fact not in FACT_NAMES:
            raise ValueError("no such fact")
        if self.claim is not None and (self.claim.bucket, self.claim.key) != self._place():
            raise ValueError("the claim is not on this entry")
        if self.body is not None and f"{self.body.noun}.{self.body.verb}" != self.fact:
            raise ValueError("fact does not name the body")
        return self

    @classmethod
    def of(cls, entry: JournalEntry, size: int, sha256: str) -> Self:
        """The event of an entry whose stored object has `size` bytes and the digest `sha256`."""
        large = size > BODY_AT_MOST
        key = str(JournalKey(entry.number))
        claim = ClaimCheck(bucket=bucket_of(entry.experiment), key=key, size=size, sha256=sha256)
        return cls(
            experiment=entry.experiment,
            number=entry.number,
            at=entry.at,
            fact=f"{entry.body.noun}.{entry.body.verb}",
            body=None if large else entry.body,
            claim=claim if large else None,
        )

    def _place(self) -> tuple[str, str]:
        return bucket_of(self.experiment), str(JournalKey(self.number))

    @property
    def type(self) -> str:
        noun, verb = self.fact.split(".")
        return type_name(noun, verb, self.version)

    @property
    def routing_key(self) -> str:
        return f"evt.{self.service}.{self.origin}.{self.experiment}.{self.fact}"

    @property
    def subject(self) -> str:
        round_ = getattr(self.body, "round", None)
        return self.experiment if round_ is None else f"{self.experiment}/r{round_:06d}"

    @property
    def id(self) -> str:
        return f"{self.experiment}/{self.number}"


class Refused(Event):
    service = "coordinator"
    experiment: ExperimentId
    command: Text
    command_sha256: Sha256
    code: Code
    reason: Text


class ExperimentRefused(Refused):
    """`StartExperiment` was not accepted; nothing was written."""

    noun, verb = "experiment", "refused"


class CommandRefused(Refused):
    """Any other command was not carried out; the state is as before."""

    noun, verb = "command", "refused"


# --- from a site-agent -------------------------------------------------------------------------------------------


class FromSite(Event):
    service = "site-agent"
    site: SiteId

    @property
    def origin(self) -> str:
        return self.site


class TaskInHand(Model):
    experiment: ExperimentId
    round: Round
    task: Task
    attempt: Attempt
    phase: Phase


class SiteSeen(FromSite):
    """Said on connecting and every 60 s: what the site has, can and does."""

    noun, verb = "site", "seen"
    agent_version: Annotated[str, Field(max_length=40, pattern=r"^[0-9A-Za-z.+!-]+$")]
    reads: Annotated[tuple[TypeName, ...], Field(max_length=100, json_schema_extra=UNIQUE), NothingTwice]
    trainers: Annotated[tuple[Trainer, ...], Field(max_length=100)]
    datasets: Annotated[tuple[Slug, ...], Field(max_length=100, json_schema_extra=UNIQUE), NothingTwice]
    slots: Annotated[int, Field(ge=0, le=1000)]
    free: Annotated[int, Field(ge=0, le=1000)]
    tasks: Annotated[tuple[TaskInHand, ...], Field(max_length=200)]
    status: Literal["ok", "degraded"] = "ok"
    detail: Text = ""


class OfTask(FromSite):
    experiment: ExperimentId
    round: Round
    task: Task
    attempt: Attempt


class TaskAccepted(OfTask):
    """The task is in the site's inbox and within its policy."""

    noun, verb = "task", "accepted"


class TaskStarted(OfTask):
    """The training was triggered."""

    noun, verb = "task", "started"


class TaskAnswered(OfTask):
    """The answer is stored. A courtesy to those who watch: the coordinator goes by the object."""

    noun, verb = "task", "answered"
    outcome: Literal["done", "refused", "failed", "cancelled"]
    code: Code | None = None
    update_size: Count | None = None


class Progress(Model):
    phase: Code
    done: Count
    of: Count


class MetricsReported(OfTask):
    """What a running task wrote to `metrics.jsonl`, thinned to one message a second; the last values count."""

    noun, verb = "metrics", "reported"
    progress: Progress | None = None
    metrics: MetricValues = {}
    epoch: Count | None = None
    step: Count | None = None


class TransferReported(OfTask):
    """How far the model is on its way to the site, or the update on its way from it. Said while that takes longer than
    some seconds, ever more seldom; bytes, and bytes per second lately."""

    noun, verb = "transfer", "reported"
    phase: Literal["fetching", "submitting"]
    done: Count
    of: Count
    per_second: Count | None = None


# --- from the object store ---------------------------------------------------------------------------------------


class ObjectAnnounced(Model):
    """The store's notification, translated. A hint and no more: it says where to look, not what is there."""

    bucket: Bucket
    key: ObjectKey
    size: Count | None = None
    etag: Annotated[str, Field(max_length=100, pattern=TEXT)] | None = None
    at: Timestamp | None = None


EVENT_TYPES: tuple[type[Event], ...] = (
    ExperimentRefused,
    CommandRefused,
    SiteSeen,
    TaskAccepted,
    TaskStarted,
    TaskAnswered,
    MetricsReported,
    TransferReported,
)
