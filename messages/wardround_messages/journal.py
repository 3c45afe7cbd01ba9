"""The journal entry and the facts it can hold. An experiment's state is the fold of its facts, nothing else."""

from datetime import datetime
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from wardround_messages.base import V1, Code, MetricValues, Model, Sha256, Text, Timestamp, canonical_json, digest
from wardround_messages.manifest import Manifest
from wardround_messages.names import Attempt, EntryNumber, ExperimentId, GlobalKey, Round, SiteId, Slug, Task
from wardround_messages.parts import LateAnswer, LeftOut, Member, NotCounted, ObjectRef, Sites

ConsentNumber = Annotated[int, Field(ge=1, le=99)]
RoundCount = Annotated[int, Field(ge=1, le=10_000)]
GENESIS = "0" * 64


class Fact(Model):
    """The body of a journal entry."""

    noun: ClassVar[str]
    verb: ClassVar[str]


class ExperimentAccepted(Fact):
    """Entry 0. `initial` is the brought or forked model, already copied into `global/r000000/`."""

    noun, verb = "experiment", "accepted"
    kind: Literal["ExperimentAccepted"] = "ExperimentAccepted"
    manifest: Manifest
    manifest_sha256: Sha256
    requested_by: Slug
    initial: ObjectRef | None = None

    @model_validator(mode="after")
    def _names_its_manifest(self) -> Self:
        if self.manifest_sha256 != self.manifest.sha256:
            raise ValueError("manifest_sha256 is not the digest of the manifest")
        return self


class SiteConsented(Fact):
    """A site answered an offer: granted, declined, or pending while a person decides."""

    noun, verb = "site", "consented"
    kind: Literal["SiteConsented"] = "SiteConsented"
    site: SiteId
    consent: ConsentNumber
    verdict: Literal["granted", "declined", "pending"]
    rounds: RoundCount
    offer: EntryNumber
    code: Code
    reason: Text = ""


class SiteWithdrew(Fact):
    """A site took its consent back: refused in the open step even if done, not asked in later ones."""

    noun, verb = "site", "withdrew"
    kind: Literal["SiteWithdrew"] = "SiteWithdrew"
    site: SiteId
    consent: ConsentNumber
    reason: Text = ""


class EnrolmentClosed(Fact):
    """The first round may begin."""

    noun, verb = "enrolment", "closed"
    kind: Literal["EnrolmentClosed"] = "EnrolmentClosed"
    granted: Sites
    others: Sites


class StepOpened(Fact):
    """Who is asked and how many answers are the quorum; the deadline runs from this entry.

    `passed` names the answers of sites that were asked to initialise before and could not.
    """

    noun, verb = "step", "opened"
    kind: Literal["StepOpened"] = "StepOpened"
    round: Round
    task: Task
    asked: Sites
    quorum: Annotated[int, Field(ge=1, le=1000)]
    built_on: ObjectRef | None
    passed: Annotated[tuple[NotCounted, ...], Field(max_length=10_000)] = ()


class QuorumReached(Fact):
    """Enough sites are done; the grace runs from this entry."""

    noun, verb = "quorum", "reached"
    kind: Literal["QuorumReached"] = "QuorumReached"
    round: Round
    task: Task
    done: Sites


class StepClosed(Fact):
    """The member set of a step, pinned by digest. `received` is the mean of what members measured of the model
    they were given, weighted by their number of cases where these are known."""

    noun, verb = "step", "closed"
    kind: Literal["StepClosed"] = "StepClosed"
    round: Round
    task: Task
    why: Literal["complete", "grace", "deadline", "out_of_reach"]
    quorum_met: bool
    members: Annotated[tuple[Member, ...], Field(max_length=1000)]
    others: Annotated[tuple[NotCounted, ...], Field(max_length=10_000)]
    received: MetricValues = {}

    @model_validator(mode="after")
    def _each_site_counts_once(self) -> Self:
        if len({member.site for member in self.members}) != len(self.members):
            raise ValueError("a site is a member twice")
        return self


class StepReopened(Fact):
    """The aggregation left too many members out; they may try again."""

    noun, verb = "step", "reopened"
    kind: Literal["StepReopened"] = "StepReopened"
    round: Round
    task: Task
    closing: EntryNumber
    left_out: Annotated[tuple[LeftOut, ...], Field(max_length=1000)]


class ModelAdopted(Fact):
    """Global model `round` exists. `closing` is null for a model that was brought or forked."""

    noun, verb = "model", "adopted"
    kind: Literal["ModelAdopted"] = "ModelAdopted"
    round: Round
    model: ObjectRef
    closing: EntryNumber | None
    used: Sites
    left_out: Annotated[tuple[LeftOut, ...], Field(max_length=1000)] = ()

    @model_validator(mode="after")
    def _of_this_round(self) -> Self:
        if self.model.key != str(GlobalKey(self.round, self.model.sha256[:16])):
            raise ValueError("the model is not the global model of this round")
        return self


class ExperimentPaused(Fact):
    noun, verb = "experiment", "paused"
    kind: Literal["ExperimentPaused"] = "ExperimentPaused"
    code: Code
    reason: Text = ""


class NextAttempt(Model):
    site: SiteId
    attempt: Attempt


class ExperimentResumed(Fact):
    """The open step's time starts anew; a site not done goes on with the attempt named here."""

    noun, verb = "experiment", "resumed"
    kind: Literal["ExperimentResumed"] = "ExperimentResumed"
    attempts: Annotated[tuple[NextAttempt, ...], Field(max_length=1000)] = ()


class ExperimentExtended(Fact):
    noun, verb = "experiment", "extended"
    kind: Literal["ExperimentExtended"] = "ExperimentExtended"
    rounds: RoundCount


class ExperimentAborted(Fact):
    noun, verb = "experiment", "aborted"
    kind: Literal["ExperimentAborted"] = "ExperimentAborted"
    reason: Text = ""


class ExperimentFinished(Fact):
    noun, verb = "experiment", "finished"
    kind: Literal["ExperimentFinished"] = "ExperimentFinished"
    round: Round
    model: ObjectRef | None


class ExperimentFailed(Fact):
    noun, verb = "experiment", "failed"
    kind: Literal["ExperimentFailed"] = "ExperimentFailed"
    code: Code
    reason: Text = ""


class AnswersLate(Fact):
    """Answers that no closing entry names, each with the reason why it is not used."""

    noun, verb = "answers", "late"
    kind: Literal["AnswersLate"] = "AnswersLate"
    answers: Annotated[tuple[LateAnswer, ...], Field(min_length=1, max_length=1000)]


class SiteSetAside(Fact):
    """Three steps running without an answer that counts: not asked until readmitted."""

    noun, verb = "site", "set-aside"
    kind: Literal["SiteSetAside"] = "SiteSetAside"
    site: SiteId
    code: Code


class SiteReadmitted(Fact):
    noun, verb = "site", "readmitted"
    kind: Literal["SiteReadmitted"] = "SiteReadmitted"
    site: SiteId


class Pruned(Fact):
    """Updates up to and including `updates_to` and the global models of `models` are deleted."""

    noun, verb = "objects", "pruned"
    kind: Literal["Pruned"] = "Pruned"
    updates_to: Round
    models: Annotated[tuple[Round, ...], Field(max_length=10_000)] = ()


AnyFact = Annotated[
    ExperimentAccepted
    | SiteConsented
    | SiteWithdrew
    | EnrolmentClosed
    | StepOpened
    | QuorumReached
    | StepClosed
    | StepReopened
    | ModelAdopted
    | ExperimentPaused
    | ExperimentResumed
    | ExperimentExtended
    | ExperimentAborted
    | ExperimentFinished
    | ExperimentFailed
    | AnswersLate
    | SiteSetAside
    | SiteReadmitted
    | Pruned,
    Field(discriminator="kind"),
]

FACT_TYPES: tuple[type[Fact], ...] = (
    ExperimentAccepted,
    SiteConsented,
    SiteWithdrew,
    EnrolmentClosed,
    StepOpened,
    QuorumReached,
    StepClosed,
    StepReopened,
    ModelAdopted,
    ExperimentPaused,
    ExperimentResumed,
    ExperimentExtended,
    ExperimentAborted,
    ExperimentFinished,
    ExperimentFailed,
    AnswersLate,
    SiteSetAside,
    SiteReadmitted,
    Pruned,
)
FACT_NAMES = tuple(f"{fact.noun}.{fact.verb}" for fact in FACT_TYPES)


class JournalEntry(Model):
    """One write-once object of `journal/`. `previous` is the sha256 of the entry before (zeros for entry 0);
    `sha256` is taken over the canonical JSON of all other fields. `cause` is the id of the command or the key of
    the object that led to it."""

    v: V1 = 1
    experiment: ExperimentId
    number: EntryNumber
    at: Timestamp
    writer: Text
    cause: Text = ""
    previous: Sha256
    body: AnyFact
    sha256: Sha256

    @classmethod
    def seal(
        cls, *, experiment: str, number: int, at: datetime, writer: str, cause: str, previous: str, body: Fact
    ) -> Self:
        """An entry with its own digest filled in."""
        draft = cls.model_validate(
            {
                "experiment": experiment,
                "number": number,
                "at": at,
                "writer": writer,
                "cause": cause,
                "previous": previous,
                "body": body,
                "sha256": GENESIS,
            }
        )
        return draft.model_copy(update={"sha256": draft.expected_sha256()})

    def expected_sha256(self) -> str:
        return digest(canonical_json(self, leave_out={"sha256"}))
