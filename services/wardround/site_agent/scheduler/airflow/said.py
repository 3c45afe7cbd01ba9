"""What of Airflow's answers matters to an agent: REST API v2 of Airflow 3.3, and what is newer is not looked at."""

from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, Json, ValidationError

from wardround.site_agent.scheduler.port import SchedulerUnavailableError

# What an HTTP header may hold. A token that breaks a line would be a header of its own.
BearerToken = Annotated[str, Field(pattern=r"^[A-Za-z0-9._~+/=-]{1,16384}$")]
QUEUED, SUCCESS, FAILED = "queued", "success", "failed"
OVER = frozenset({SUCCESS, FAILED})


class Said(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    @classmethod
    def read(cls, body: bytes) -> Self:
        """Raises `SchedulerUnavailableError` for what Airflow would not say, such as the page of a proxy."""
        try:
            return cls.model_validate_json(body)
        except ValidationError:
            raise SchedulerUnavailableError("something else than Airflow's interface answers") from None


class Token(Said):
    access_token: BearerToken


class Dag(Said):
    """`relative_fileloc` is its file, seen from the folder of DAGs."""

    is_paused: bool
    is_stale: bool = False
    has_import_errors: bool = False
    relative_fileloc: str | None = None


class UnreadFile(Said):
    filename: str


class ImportErrors(Said):
    import_errors: tuple[UnreadFile, ...]


class State(Said):
    """A line of what streams while a run is waited for."""

    state: str


class Run(State):
    """`queued_at` is new each time the run is cleared."""

    queued_at: AwareDatetime | None = None
    conf: dict[str, object] | None = None
    note: str | None = None

    @property
    def over(self) -> bool:
        return self.state in OVER


class TaskInstance(Said):
    """`map_index` is -1 but for the many instances of a mapped task; `scheduled_when` is new each time that Airflow
    finds that the task may begin."""

    task_id: str
    map_index: int = -1
    state: str | None
    scheduled_when: AwareDatetime | None = None
    end_date: AwareDatetime | None = None


class TaskInstances(Said):
    task_instances: tuple[TaskInstance, ...]


class Change(BaseModel):
    """What somebody set the state of a run, or of a task in it, to."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    state: str | None = None
    new_state: str | None = None


class Event(Said):
    event: str
    extra: Json[Change] | str | None = Field(default=None, union_mode="left_to_right")

    @property
    def stops(self) -> bool:
        """Whether with this somebody ended a run, or a task in it, before its time."""
        return isinstance(self.extra, Change) and FAILED in (self.extra.state, self.extra.new_state)


class Events(Said):
    event_logs: tuple[Event, ...]


class Reason(Said):
    """Why the task failed, as the DAG left it."""

    value: object


Method = Literal["GET", "POST", "PATCH"]
