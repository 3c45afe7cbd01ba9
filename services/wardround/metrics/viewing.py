"""How the view of an experiment is made of its history, its figures, and what its sites say they are doing."""

from collections.abc import Mapping
from datetime import datetime, timedelta

from wardround.metrics.figures import best_model
from wardround.metrics.history import History, Round, Standing, Step, StepName, describes
from wardround.metrics.lines import Line, origin_text
from wardround.metrics.live import TaskLive, Tasks
from wardround.metrics.view import ExperimentView, Metrics, ModelView, SiteState, SiteView, StepView
from wardround_messages.figures import Figures, SiteFigures
from wardround_messages.names import Task
from wardround_messages.parts import Measured, mean_of

CURVE_AT_MOST = 40
OF_ALL_SITES = (Task.TRAIN, Task.EVALUATE)

Rows = dict[StepName, SiteFigures]


def view_of(
    history: History,
    figures: Mapping[int, Figures],
    tasks: Tasks,
    seen: Mapping[str, datetime],
    log: tuple[Line, ...],
    broken: str | None,
) -> ExperimentView:
    manifest = history.manifest
    metric = _metric(history, figures)
    enrolling = history.phase == "enrolling" and history.paused is None
    rows = _rows(figures)
    return ExperimentView(
        experiment=manifest.id,
        study=manifest.study,
        requested_by=history.requested_by,
        phase=history.phase,
        paused=history.paused,
        reason=history.reason,
        broken=broken,
        started_at=history.started_at,
        trains_since=_trains_since(history),
        changed_at=history.changed_at,
        rounds_done=max(history.latest_model, 0),
        rounds_planned=history.rounds_planned,
        epochs=manifest.training.epochs,
        enrolment_ends=history.waits_since + timedelta(seconds=manifest.cohort.enrol) if enrolling else None,
        quorum=manifest.cohort.quorum,
        metric=metric,
        step=_step_view(history, tasks),
        sites=tuple(
            _site_view(history, site, rows.get(site, {}), _task(history, tasks, site), seen.get(site), metric, tasks)
            for site in sorted(history.sites)
        ),
        model=_model_view(history, tasks, metric),
        best=best_model(history, up_to=max(history.rounds, default=0)),
        evaluated=_received(history, Task.EVALUATE),
        tested=_received(history, Task.TEST),
        log=log,
        origin=origin_text(manifest.model.initial),
    )


# --- the step ----------------------------------------------------------------------------------------------------


def _task(history: History, tasks: Tasks, site: str) -> TaskLive | None:
    """The site's task, where it is one of the step opened last, and no attempt before the one that is asked for."""
    task, step = tasks.get(site), history.step
    if task is None or step is None or (task.round, task.task) != step.name:
        return None
    return task if task.attempt >= step.attempts.get(site, 0) else None


def _done(step: Step, tasks: Tasks) -> list[TaskLive]:
    """The tasks of the open step that were answered with `done`."""
    of_step = (tasks[site] for site in step.asked if site in tasks)
    return [
        task
        for task in of_step
        if (task.round, task.task) == step.name and task.ended is not None and task.ended.outcome == "done"
    ]


def _step_view(history: History, tasks: Tasks) -> StepView | None:
    step = history.step
    if step is None:
        return None
    rounds = history.manifest.rounds
    runs = step.closing is None and history.paused is None and not history.ended
    grace_ends = None if step.quorum_since is None else step.quorum_since + timedelta(seconds=rounds.grace)
    return StepView(
        round=step.round,
        task=step.task,
        model=describes(step.name),
        asked=len(step.asked),
        answered=len(_done(step, tasks)) if step.closing is None else len(step.closing.fact.members),
        quorum=step.quorum,
        grace=rounds.grace,
        opened_at=step.opened_at,
        closed_at=None if step.closing is None else step.closing.at,
        deadline=step.since + timedelta(seconds=rounds.deadline) if runs else None,
        grace_ends=grace_ends if runs else None,
    )


# --- a site ------------------------------------------------------------------------------------------------------


def _site_view(
    history: History,
    site: str,
    rows: Rows,
    task: TaskLive | None,
    seen: datetime | None,
    metric: str | None,
    tasks: Tasks,
) -> SiteView:
    step = history.step
    row = rows.get(step.name) if step is not None and step.closing is not None else None
    state, detail = _state(history, site, row, task)
    answer = task.answer if task is not None else None
    received = answer.received if answer is not None else row.received if row is not None else None
    last = _last_measured(rows)
    if history.ended:
        received = last
    trained: Metrics = answer.trained if answer is not None else task.trained if task is not None else {}
    measured: Metrics = received.values if received is not None else task.measured if task is not None else {}
    cases = answer.cases if answer is not None else None
    update = answer.update if answer is not None else row.update if row is not None else None
    return SiteView(
        site=site,
        state=state,
        detail=detail,
        late=_late(step, site, task, tasks),
        since=task.since if task is not None else None if step is None else step.opened_at,
        attempt=task.attempt if task is not None else 0,
        progress=_progress(task),
        moving=task.moving if task is not None and state in ("fetching", "submitting") else None,
        epoch=None if task is None else task.epoch,
        seconds=_seconds(task, row),
        cases=cases if cases is not None else _last_cases(rows),
        metric=None if metric is None else measured.get(metric),
        curve=_curve(rows, metric),
        loss=(row.trained if row is not None and not trained else trained).get("loss"),
        sent=None if update is None else update.size,
        seen=seen,
        rounds=history.sites[site].counted,
        metrics=None if last is None else last.values,
    )


def _state(history: History, site: str, row: SiteFigures | None, task: TaskLive | None) -> tuple[SiteState, str]:
    standing, step = history.sites[site], history.step
    if standing.verdict in ("withdrawn", "declined"):
        return ("withdrawn" if standing.verdict == "withdrawn" else "declined"), standing.reason
    if history.phase == "enrolling" or step is None:
        return _consent_state(standing)
    if standing.set_aside is not None:
        return "set_aside", ", ".join(standing.missed) or standing.set_aside
    if history.ended:
        return "done", ""
    if row is not None:
        return ("asked" if row.outcome == "open" else row.outcome), row.why or ""
    if site not in step.asked:
        return "not_asked", ""
    if task is None:
        return "asked", ""
    if task.ended is None:
        return task.phase, _waiting_text(task)
    outcome = task.ended.outcome
    return ("answered" if outcome == "done" else outcome), task.ended.code or ""


def _waiting_text(task: TaskLive) -> str:
    if task.phase != "queued" or task.before is None:
        return ""
    return "waits for a free slot, " + (f"{task.before} before it" if task.before else "next in line")


def _consent_state(standing: Standing) -> tuple[SiteState, str]:
    match standing.verdict:
        case "granted":
            return "granted", ""
        case "pending":
            return "pending", standing.reason
        case _:
            return "offered", ""


def _late(step: Step | None, site: str, task: TaskLive | None, tasks: Tasks) -> bool:
    """The others wait for it: the grace runs, or another clinic is done before this one has begun."""
    if step is None or step.closing is not None or site not in step.asked or site in step.withdrew:
        return False
    if task is not None and task.ended is not None:
        return False
    begun = task is not None and task.phase in ("training", "checking", "submitting", "answered")
    return step.quorum_at is not None or (not begun and bool(_done(step, tasks)))


def _progress(task: TaskLive | None) -> float | None:
    if task is None or task.phase != "training" or task.progress is None or task.progress.of == 0:
        return None
    return min(task.progress.done / task.progress.of, 1.0)


def _seconds(task: TaskLive | None, row: SiteFigures | None) -> float | None:
    if task is not None and task.seconds is not None:
        return task.seconds
    return sum(row.seconds.values()) if row is not None and row.seconds else None


def _rows(figures: Mapping[int, Figures]) -> dict[str, Rows]:
    """Of each site its figures in every step, oldest first."""
    rows: dict[str, Rows] = {}
    for number in sorted(figures):
        for step in figures[number].steps:
            for row in step.sites:
                rows.setdefault(row.site, {})[number, step.task] = row
    return rows


def _last_measured(rows: Rows) -> Measured | None:
    """What the site measured last on its own cases."""
    return next(
        (row.received for (_, task), row in reversed(rows.items()) if task in OF_ALL_SITES and row.received), None
    )


def _last_cases(rows: Rows) -> int | None:
    """With how many cases the site trained last."""
    return next((row.cases for (_, task), row in reversed(rows.items()) if task is Task.TRAIN and row.cases), None)


def _curve(rows: Rows, metric: str | None) -> tuple[float | None, ...]:
    values = {
        describes(step): row.received.values.get(metric)
        for step, row in rows.items()
        if metric is not None and row.received is not None and step[1] in OF_ALL_SITES
    }
    models = range(min(values, default=0), max(values, default=-1) + 1)
    return tuple(values.get(model) for model in models)[-CURVE_AT_MOST:]


# --- models ------------------------------------------------------------------------------------------------------


def _metric(history: History, figures: Mapping[int, Figures]) -> str | None:
    """The metric to show: that of the manifest, or the first that is no loss."""
    if history.manifest.model.best is not None:
        return history.manifest.model.best.metric
    names = {name for number in sorted(figures)[-2:] for step in figures[number].steps for name in step.received}
    return min(names, key=lambda name: (name == "loss", name), default=None)


def _model_view(history: History, tasks: Tasks, metric: str | None) -> ModelView | None:
    number = history.latest_model
    if number < 0:
        return None
    adopted = history.rounds[number].model
    assert adopted is not None  # noqa: S101 - it is the latest model adopted
    value, measured_by = _measured(history, number, tasks, metric)
    model = adopted.fact.model
    return ModelView(number, model.sha256, model.size, adopted.at, value, measured_by)


def _measured(history: History, model: int, tasks: Tasks, metric: str | None) -> tuple[float | None, int]:
    """The metric of a model and how many sites measured it: as the journal has it, else from the answers so far."""
    for number in (model, model + 1):
        for known in history.rounds.get(number, Round(number)).steps.values():
            if describes(known.name) == model and known.closing is not None and known.task in OF_ALL_SITES:
                return known.closing.fact.received.get(metric or ""), len(known.closing.fact.members)
    step = history.step
    if step is None or describes(step.name) != model or metric is None or step.task is Task.TEST:
        return None, 0
    answers = [task.answer.received for task in _done(step, tasks) if task.answer and task.answer.received]
    return mean_of(metric, answers), len(answers)


def _trains_since(history: History) -> datetime | None:
    first = history.rounds.get(1, Round(1)).steps.get(Task.TRAIN)
    return None if first is None else first.opened_at


def _received(history: History, task: Task) -> Metrics:
    """What the step measured of the last model, if there was such a step."""
    step = history.rounds[history.latest_model].steps.get(task) if history.latest_model in history.rounds else None
    return {} if step is None or step.closing is None else step.closing.fact.received
