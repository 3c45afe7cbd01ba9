"""Every name in the system, built and parsed in one place: ids, object keys, task ids, routing keys, queues."""

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, cast

from pydantic import AfterValidator, Field

ID = r"[a-z0-9](?:-?[a-z0-9])*"
# Words with a place of their own in keys, routing keys and logins.
RESERVED = frozenset({"hub", "none", "models", "coordinator", "aggregator", "metrics", "store", "operator"})

EXPERIMENT_MAX = 40
SITE_MAX = 24
ROUND_MAX = 999_999
ATTEMPT_MAX = 99


class Task(StrEnum):
    """What one site does in a step."""

    INITIALISE = "initialise"
    TRAIN = "train"
    EVALUATE = "evaluate"
    TEST = "test"
    CHECK = "check"


def _not_reserved(value: str) -> str:
    if value in RESERVED:
        raise ValueError(f"'{value}' is a reserved word")
    return value


_UNRESERVED = Field(json_schema_extra={"not": {"enum": [*sorted(RESERVED)]}})

ExperimentId = Annotated[
    str, Field(max_length=EXPERIMENT_MAX, pattern=f"^{ID}$"), AfterValidator(_not_reserved), _UNRESERVED
]
SiteId = Annotated[str, Field(max_length=SITE_MAX, pattern=f"^{ID}$"), AfterValidator(_not_reserved), _UNRESERVED]
Slug = Annotated[str, Field(max_length=40, pattern=f"^{ID}$")]
Round = Annotated[int, Field(ge=0, le=ROUND_MAX)]
Attempt = Annotated[int, Field(ge=1, le=ATTEMPT_MAX)]
EntryNumber = Annotated[int, Field(ge=0, le=99_999_999)]
ObjectKey = Annotated[str, Field(max_length=200, pattern=r"^[a-z0-9._/-]+$")]
Bucket = Annotated[str, Field(max_length=63, pattern=f"^{ID}$")]


_ID = re.compile(ID)


def is_id(text: str, longest: int) -> bool:
    return len(text) <= longest and text not in RESERVED and _ID.fullmatch(text) is not None


# --- task ids: the name of the spool folder and of the DAG run ---------------------------------------------------


@dataclass(frozen=True, order=True, slots=True)
class TaskId:
    """`<experiment>.r000012.<task>.<site>.a01`"""

    experiment: str
    round: int
    task: Task
    site: str
    attempt: int

    def __str__(self) -> str:
        return f"{self.experiment}.r{self.round:06d}.{self.task}.{self.site}.a{self.attempt:02d}"


_FROM_01 = r"(?!00)\d{2}"
_TASK_ID = re.compile(rf"({ID})\.r(\d{{6}})\.([a-z]+)\.({ID})\.a({_FROM_01})", re.ASCII)


def parse_task_id(text: str) -> TaskId:
    """Raises `ValueError` for anything that `str(TaskId)` would not have written."""
    match = _TASK_ID.fullmatch(text)
    if match is None or match[3] not in set(Task):
        raise ValueError("not a task id; one looks like brain-tumour.r000012.train.clinic-1.a01")
    experiment, round_, task, site, attempt = match.groups()
    if not is_id(experiment, EXPERIMENT_MAX) or not is_id(site, SITE_MAX):
        raise ValueError("not a task id: the experiment or the site in it is too long, or a reserved word")
    return TaskId(experiment, int(round_), Task(task), site, int(attempt))


# --- buckets and object keys -------------------------------------------------------------------------------------

MODELS_BUCKET = "wr-models"


def brought_model_key(sha256: str) -> str:
    """Where a model that a researcher brings waits, in `MODELS_BUCKET`."""
    return f"{sha256}.safetensors"


def bucket_of(experiment: str) -> str:
    return f"wr-{experiment}"


def experiment_of(bucket: str) -> str | None:
    """The experiment whose bucket this is, or None."""
    name = bucket.removeprefix("wr-")
    return name if name != bucket and is_id(name, EXPERIMENT_MAX) else None


@dataclass(frozen=True, order=True, slots=True)
class JournalKey:
    number: int

    def __str__(self) -> str:
        return f"journal/{self.number:08d}.json"


@dataclass(frozen=True, order=True, slots=True)
class ConsentKey:
    site: str
    manifest: str  # the first 16 digits of the manifest's sha256
    number: int

    def __str__(self) -> str:
        return f"consent/{self.site}/{self.manifest}-{self.number:02d}.json"


@dataclass(frozen=True, order=True, slots=True)
class UpdateKey:
    round: int
    site: str
    short: str  # the first 16 digits of the object's sha256

    def __str__(self) -> str:
        return f"updates/r{self.round:06d}/{self.site}/{self.short}.safetensors"


@dataclass(frozen=True, order=True, slots=True)
class AnswerKey:
    round: int
    task: Task
    site: str
    attempt: int

    def __str__(self) -> str:
        return f"answers/r{self.round:06d}/{self.task}/{self.site}/a{self.attempt:02d}.json"


@dataclass(frozen=True, order=True, slots=True)
class GlobalKey:
    round: int
    short: str

    def __str__(self) -> str:
        return f"global/r{self.round:06d}/{self.short}.safetensors"


@dataclass(frozen=True, order=True, slots=True)
class ResultKey:
    closing: int

    def __str__(self) -> str:
        return f"results/c{self.closing:08d}.json"


@dataclass(frozen=True, order=True, slots=True)
class FiguresKey:
    round: int

    def __str__(self) -> str:
        return f"figures/r{self.round:06d}.json"


Key = JournalKey | ConsentKey | UpdateKey | AnswerKey | GlobalKey | ResultKey | FiguresKey

_SHORT = "[0-9a-f]{16}"
_KEYS = {
    JournalKey: r"journal/(?P<number>\d{8})\.json",
    ConsentKey: rf"consent/(?P<site>{ID})/(?P<manifest>{_SHORT})-(?P<number>{_FROM_01})\.json",
    UpdateKey: rf"updates/r(?P<round>\d{{6}})/(?P<site>{ID})/(?P<short>{_SHORT})\.safetensors",
    AnswerKey: rf"answers/r(?P<round>\d{{6}})/(?P<task>{'|'.join(Task)})/(?P<site>{ID})/a(?P<attempt>{_FROM_01})\.json",
    GlobalKey: rf"global/r(?P<round>\d{{6}})/(?P<short>{_SHORT})\.safetensors",
    ResultKey: r"results/c(?P<closing>\d{8})\.json",
    FiguresKey: r"figures/r(?P<round>\d{6})\.json",
}
_PATTERNS = [(kind, re.compile(pattern, re.ASCII)) for kind, pattern in _KEYS.items()]
_PARTS = {"number": int, "round": int, "attempt": int, "closing": int, "task": Task}
# A listing gives the same keys again and again: those of a thousand sites in a few rounds.
KEYS_REMEMBERED = 8192


@lru_cache(KEYS_REMEMBERED)
def parse_key(text: str) -> Key | None:
    """The key, or None: what does not parse does not exist."""
    for kind, pattern in _PATTERNS:
        if match := pattern.fullmatch(text):
            parts = {name: _PARTS.get(name, str)(value) for name, value in match.groupdict().items()}
            if "site" in parts and not is_id(parts["site"], SITE_MAX):
                return None
            return cast("Key", kind(**parts))
    return None


def answers_prefix(round_: int) -> str:
    return f"answers/r{round_:06d}/"


def updates_prefix(round_: int) -> str:
    return f"updates/r{round_:06d}/"


JOURNAL_PREFIX = "journal/"
CONSENT_PREFIX = "consent/"
ANSWERS_PREFIX = "answers/"
RESULTS_PREFIX = "results/"
GLOBAL_PREFIX = "global/"
UPDATES_PREFIX = "updates/"
ANNOUNCED = (CONSENT_PREFIX, ANSWERS_PREFIX, RESULTS_PREFIX)

# --- the bus -----------------------------------------------------------------------------------------------------

COMMANDS = "wr.commands"
EVENTS = "wr.events"
OBJECTSTORE = "wr.objectstore"
DEAD = "wr.dead"

COORDINATOR_QUEUE = "wr.coordinator"
AGGREGATOR_QUEUE = "wr.aggregator"
METRICS_STREAM = "wr.metrics"
DEAD_QUEUE = "wr.dead"

HUB = "hub"
NO_EXPERIMENT = "none"


def site_queue(site: str) -> str:
    return f"wr.site.{site}"


def command_routing_key(service: str, target: str, experiment: str, verb: str) -> str:
    return f"cmd.{service}.{target}.{experiment}.{verb}"


def event_routing_key(service: str, origin: str, experiment: str, noun: str, verb: str) -> str:
    return f"evt.{service}.{origin}.{experiment}.{noun}.{verb}"


def dead_routing_key(service: str, origin: str) -> str:
    return f"dead.{service}.{origin}"


def source_urn(service: str, origin: str) -> str:
    return f"urn:wardround:{service}:{origin}"
