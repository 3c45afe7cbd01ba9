"""The folder contract: what a clinic's training task finds and leaves in `spool/<task id>/`."""

from typing import Annotated, Literal

from pydantic import Field

from wardround_messages.base import V1, Code, Count, MetricName, MetricValues, Model, Seconds, Sha256
from wardround_messages.manifest import Parameters
from wardround_messages.names import Attempt, ExperimentId, Round, SiteId, Slug, Task
from wardround_messages.parts import Encoding, Failure, Measured, Trainer

JOB = "job.json"
MODEL = "model.safetensors"
METRICS = "metrics.jsonl"
UPDATE = "update.safetensors"
RESULT = "result.json"
CASES = "cases.txt"
LOCK = "training.lock"  # locked by the training that is at work; a line for each that began
STOPPED = "training.stopped"  # there while nothing may train
OUTPUT = "output.log"  # what the task printed, where its scheduler keeps it here; it stays at the clinic

FOLDER_AT_MOST = 256 * 1024
METRIC_LINE_AT_MOST = 4096


# Below the spool: no segment begins with a dot, and the path not with a slash.
SpoolPath = Annotated[str, Field(max_length=200, pattern=r"^[a-z0-9][a-z0-9._-]*(?:/[a-z0-9][a-z0-9._-]*)*$")]


class JobData(Model):
    """One of the site's data sets: its folders on the site's disk, and the site's own salt for the split."""

    name: Slug
    folders: Annotated[tuple[str, ...], Field(min_length=1, max_length=1000)]
    layout: Slug | None = None
    split_salt: str = ""


class Job(Model):
    """`job.json`, written by the agent.

    `carry` is a folder that the site keeps for the experiment from round to round. It is given as seen from the spool,
    the parent of the task's folder, which need not have the same path for whoever trains.
    """

    v: V1 = 1
    experiment: ExperimentId
    round: Round
    task: Task
    site: SiteId
    attempt: Attempt
    trainer: Slug
    parameters: Parameters
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)]
    epochs: Annotated[int, Field(ge=1, le=10_000)]
    optimizer_state: Literal["reset", "keep", "average"]
    deterministic: bool
    evaluate_received: bool = True
    data: JobData
    model_sha256: Sha256 | None
    carry: SpoolPath | None = None
    encoding: Encoding = "full-v1"


class TaskResult(Model):
    """`result.json`, written last and by rename: its presence says that the task is over.

    `failure` is null when it succeeded. `cases` is the number of cases trained on.
    """

    v: V1 = 1
    trainer: Trainer | None = None
    cases: Count = 0
    received: Measured | None = None
    trained: MetricValues = {}
    steps: Count = 0
    seconds: Annotated[dict[Code, Seconds], Field(max_length=20)] = {}
    failure: Failure | None = None
    text: Annotated[str, Field(max_length=4000)] = ""  # the error in words; leaves only where the policy says so


class ProgressLine(Model):
    v: V1 = 1
    t: float
    kind: Literal["progress"] = "progress"
    phase: Code
    done: Count
    of: Count


class MetricLine(Model):
    """A diverged value is `value: null` with `nonfinite` saying which."""

    v: V1 = 1
    t: float
    kind: Literal["metric"] = "metric"
    name: MetricName
    value: float | None
    nonfinite: Literal["nan", "inf", "-inf"] | None = None
    step: Count | None = None
    epoch: Count | None = None


MetricsLine = Annotated[ProgressLine | MetricLine, Field(discriminator="kind")]
