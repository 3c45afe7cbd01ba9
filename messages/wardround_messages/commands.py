"""Commands: each has one owner, who carries it out or refuses it."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from wardround_messages.base import Sha256, Text
from wardround_messages.manifest import Manifest
from wardround_messages.messages import Command
from wardround_messages.names import Attempt, EntryNumber, ExperimentId, Round, SiteId, Slug, Task, TaskId
from wardround_messages.parts import Encoding, ObjectRef

Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]

# --- to the coordinator, from a researcher -----------------------------------------------------------------------


class StartExperiment(Command):
    """Start the experiment that the manifest describes."""

    service = "coordinator"
    noun, verb = "experiment", "start"
    manifest: Manifest

    @property
    def experiment(self) -> str:
        return self.manifest.id


class PauseExperiment(Command):
    """Open, ask and close nothing until resumed; tasks in hand run on."""

    service = "coordinator"
    noun, verb = "experiment", "pause"
    experiment: ExperimentId
    reason: Text = ""


class ResumeExperiment(Command):
    """Go on: the open step's time starts anew, sites that did not finish it get new attempts."""

    service = "coordinator"
    noun, verb = "experiment", "resume"
    experiment: ExperimentId


class AbortExperiment(Command):
    """End the experiment now; models adopted so far stay."""

    service = "coordinator"
    noun, verb = "experiment", "abort"
    experiment: ExperimentId
    reason: Text = ""


class ExtendExperiment(Command):
    """Train until there are `rounds` rounds in all, also after the experiment finished."""

    service = "coordinator"
    noun, verb = "experiment", "extend"
    experiment: ExperimentId
    rounds: Annotated[int, Field(ge=1, le=10_000)]


class ReadmitSite(Command):
    """Ask a site that was set aside again, from the next step on."""

    service = "coordinator"
    noun, verb = "site", "readmit"
    experiment: ExperimentId
    site: SiteId


# --- to one site, from the coordinator ---------------------------------------------------------------------------


class ToSite(Command):
    service = "site-agent"
    sender_login: ClassVar[str | None] = "coordinator"
    experiment: ExperimentId
    site: SiteId

    @property
    def target(self) -> str:
        return self.site


class OfferExperiment(ToSite):
    """Ask a site for its consent to `rounds` rounds of the manifest.

    `offer` is the number of the journal entry that caused the offer; the consent that answers it repeats it.
    """

    noun, verb = "experiment", "offer"
    requested_by: Slug
    manifest: Manifest
    manifest_sha256: Sha256
    rounds: Annotated[int, Field(ge=1, le=10_000)]
    offer: EntryNumber

    @model_validator(mode="after")
    def _fits_its_manifest(self) -> Self:
        if (self.manifest_sha256, self.experiment) != (self.manifest.sha256, self.manifest.id):
            raise ValueError("the manifest is not the one that experiment and manifest_sha256 name")
        if self.site not in self.manifest.cohort.sites:
            raise ValueError("the site is not of the cohort")
        return self

    @property
    def id(self) -> str:
        return f"offer.{self.experiment}.{self.site}.{self.offer:08d}"


class ToTask(ToSite):
    round: Round
    task: Task
    attempt: Attempt

    @property
    def task_id(self) -> TaskId:
        return TaskId(self.experiment, self.round, self.task, self.site, self.attempt)

    @property
    def id(self) -> str:
        return f"{self.verb}.{self.task_id}"


class StartTask(ToTask):
    """Do one task of an open step. `model` is the one to build on; null only for `initialise` and `check`."""

    noun, verb = "task", "start"
    requested_by: Slug
    manifest_sha256: Sha256
    model: ObjectRef | None
    encoding: Encoding = "full-v1"
    seed: Seed

    @model_validator(mode="after")
    def _has_a_model(self) -> Self:
        if self.model is None and self.task not in (Task.INITIALISE, Task.CHECK):
            raise ValueError("only `initialise` and `check` start without a model")
        return self


class CancelTask(ToTask):
    """Stop a task, or learn that its answer came too late."""

    noun, verb = "task", "cancel"
    reason: Literal["stale_round", "step_closed", "experiment_ended"]

    @property
    def id(self) -> str:
        return f"{super().id}.{self.reason}"


# --- to the aggregator -------------------------------------------------------------------------------------------


class AggregateStep(Command):
    """Merge the members of the closing entry; they are read from the journal, so the message stays small."""

    service = "aggregator"
    sender_login: ClassVar[str | None] = "coordinator"
    noun, verb = "step", "aggregate"
    experiment: ExperimentId
    round: Round
    task: Task
    closing: EntryNumber
    closing_sha256: Sha256

    @property
    def id(self) -> str:
        return f"aggregate.{self.experiment}.{self.closing:08d}"


COMMAND_TYPES: tuple[type[Command], ...] = (
    StartExperiment,
    PauseExperiment,
    ResumeExperiment,
    AbortExperiment,
    ExtendExperiment,
    ReadmitSite,
    OfferExperiment,
    StartTask,
    CancelTask,
    AggregateStep,
)
