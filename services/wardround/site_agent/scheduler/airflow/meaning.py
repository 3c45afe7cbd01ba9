"""What is seen in a clinic's Airflow, and what it means for a task. Decisions alone: no calls."""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import PurePath

from wardround.site_agent.scheduler.airflow.api import LOSING_EVENTS, STOPPING_EVENTS
from wardround.site_agent.scheduler.airflow.said import Dag, Event, TaskInstance
from wardround.site_agent.scheduler.port import RunEnd, SchedulerError

# States in which a task of a run comes to an end also where its DAG is paused.
AT_WORK = frozenset({"running", "restarting", "queued", "deferred"})
RUNNING = frozenset({"running", "restarting", "deferred"})
BETWEEN_TRIES = frozenset({"up_for_retry", "up_for_reschedule"})  # for as long as the DAG says
WAITING = frozenset({None, "scheduled", "queued"})  # for a place among the runs, a slot of a pool, or a worker
NOTE = "Stopped by the Wardround agent of this site."
CANCELLED = RunEnd(False, "cancelled", "stopped on request")
STOPPED_BY_SOMEBODY = RunEnd(False, "cancelled", "stopped by somebody in Airflow")
LOST_BY_AIRFLOW = RunEnd(False, "scheduler_lost", "Airflow lost the process of the training, or ended it by itself")
CRASHED = RunEnd(False, "crashed", "the run failed; its log in Airflow says why")

_REASON = re.compile(r"(?=[a-z0-9_]{1,40}:)([a-z][a-z0-9]*(?:_[a-z0-9]+)*): (.{1,400})", re.ASCII)
HINT_AT_MOST = 400


def why_it_would_not_run(name: str, dag: Dag | None, broken: Sequence[str]) -> SchedulerError | None:
    """Why a run of the DAG would fail, or wait for ever.

    Args:
        dag: as Airflow describes it; None where it knows none of this name.
        broken: the files of DAGs that Airflow could not read, seen from the folder of DAGs.
    """
    if dag is None or dag.is_stale:
        own = name if dag is None or dag.relative_fileloc is None else PurePath(dag.relative_fileloc).stem
        if any(PurePath(file).stem == own for file in broken):
            return _unreadable(name)
        return SchedulerError(
            "dag_missing",
            f"Airflow has no DAG {name}: put its file where Airflow looks for DAGs, or name another in scheduler.dags"
            + (f"; {len(broken)} files of DAGs there cannot be read" if broken else ""),
        )
    if dag.has_import_errors:
        return _unreadable(name)
    return paused(name) if dag.is_paused else None


def _unreadable(name: str) -> SchedulerError:
    return SchedulerError(
        "dag_import_error", f"Airflow cannot read the file of its DAG {name}; its front page says why"
    )


def paused(name: str) -> SchedulerError:
    return SchedulerError("dag_paused", f"the DAG {name} is paused in Airflow: unpause it there")


def waited_too_long(seconds: float) -> SchedulerError:
    return SchedulerError(
        "airflow_queued",
        f"the run waited in Airflow's queue for {seconds:.0f} s (scheduler.queued_at_most): see whether Airflow's "
        "scheduler runs, whether the DAG may have another run, and whether its pool has a free slot and its queue a "
        "worker",
    )


def note(why: SchedulerError | None) -> str:
    """What a run that the agent ends bears, so that also an agent that was restarted meanwhile knows why."""
    return NOTE if why is None else f"{NOTE} {why.code}: {why.hint[:HINT_AT_MOST]}"


def reason_of(note: str | None) -> RunEnd | SchedulerError | None:
    """Why the agent ended a run with this note: on request, or for an error. None where it did not end it."""
    if note is None or not note.startswith(NOTE):
        return None
    said = _REASON.fullmatch(note.removeprefix(NOTE).strip())
    return CANCELLED if said is None else SchedulerError(said[1], said[2])


def end_of_failed_run(events: Iterable[Event], reason: str | None) -> RunEnd:
    """Why a run failed.

    Args:
        events: of Airflow's log, since the run was queued last.
        reason: `code: words` where the DAG left them.
    """
    for event in events:
        if event.event in STOPPING_EVENTS and event.stops:
            return STOPPED_BY_SOMEBODY
        if event.event in LOSING_EVENTS:
            return LOST_BY_AIRFLOW
    said = _REASON.fullmatch(reason or "")
    if said is None:
        return CRASHED
    # Nobody asked for it: Airflow, or the machine, was shut down under the training.
    return LOST_BY_AIRFLOW if said[1] == "cancelled" else RunEnd(False, said[1], said[2])


def first_failed(tasks: Iterable[TaskInstance]) -> TaskInstance | None:
    return next((task for task in tasks if task.state == "failed"), None)


def any_at_work(tasks: Iterable[TaskInstance]) -> bool:
    return any(task.state in AT_WORK for task in tasks)


def any_running(tasks: Iterable[TaskInstance]) -> bool:
    return any(task.state in RUNNING for task in tasks)


def waits(tasks: Sequence[TaskInstance]) -> bool:
    """Whether the run waits for one of its tasks to begin, and nothing of it is at work."""
    states = {task.state for task in tasks}
    return not states or (states.isdisjoint(RUNNING | BETWEEN_TRIES) and not states.isdisjoint(WAITING))


def waits_since(queued_at: datetime | None, tasks: Iterable[TaskInstance]) -> datetime | None:
    """Since when a run waits, by Airflow's clock: it was queued, or a task of it ended, or is to begin once more."""
    times = [queued_at, *(time for task in tasks for time in (task.scheduled_when, task.end_date))]
    return max((time for time in times if time is not None), default=None)
