"""What a run took: the wall time of its rounds, the seconds of its tasks, the bytes that clinics sent."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from wardround.client.report.chart_kinds import BarChart, Part
from wardround.client.report.curves import FEW_SITES, SITES_DRAWN, sites_of
from wardround.client.report.material import RunRead
from wardround.client.report.words import count_text, span_text
from wardround.metrics.wording import size_text
from wardround_messages.figures import StepFigures
from wardround_messages.names import Task

PHASES_DRAWN = 5
TIMES = ((86_400.0, "days"), (3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"), (0.001, "milliseconds"))
SIZES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "bytes"))
TASKS = {Task.TRAIN: "training", Task.EVALUATE: "final evaluation", Task.TEST: "common test"}


@dataclass(frozen=True, slots=True)
class TaskTime:
    """Mean seconds of a phase over the tasks of one kind at a site; `steps` is the mean of steps that they trained."""

    site: str
    task: str
    tasks: int
    steps: float
    phases: Mapping[str, float]

    @property
    def whole(self) -> float:
        return sum(self.phases.values())


@dataclass(frozen=True, slots=True)
class TaskTimes:
    """Every site's tasks with the phases, the longest first; what is told in seconds is `unit` seconds long."""

    rows: tuple[TaskTime, ...]
    phases: tuple[str, ...]
    unit: float
    word: str


def round_time_chart(run: RunRead) -> BarChart | None:
    """From the opening of a round until all had answered, and from there to its model; None before the first."""
    times = {
        number: (
            _between(step),
            0.0 if figures.model is None else (figures.model.adopted_at - step.closed_at).total_seconds(),
        )
        for number, figures in sorted(run.figures.items())
        for step in figures.steps
        if step.task is Task.TRAIN and step.closed_at is not None
    }
    if not times:
        return None
    unit, word = _scale((sum(both) for both in times.values()), TIMES)
    whole = [sum(both) for both in times.values()]
    return BarChart(
        name="round-time",
        title="time of a round",
        subtitle=f"{word}, from its opening to its model",
        x_label="round",
        bars=tuple(times),
        parts=(
            Part("clinics at work", tuple(waiting / unit for waiting, _ in times.values())),
            Part("merging", tuple(merging / unit for _, merging in times.values())),
        ),
        caption=f"On average {span_text(sum(whole) / len(whole))} a round, at most {span_text(max(whole))}.",
        alt=f"Time of {count_text(len(whole), 'round')}: {span_text(min(whole))} to {span_text(max(whole))}",
    )


def task_times(run: RunRead) -> tuple[TaskTime, ...]:
    """By site and kind of task, in the order of a round."""
    found: dict[tuple[str, Task], list[tuple[Mapping[str, float], int]]] = {}
    for _, figures in sorted(run.figures.items()):
        for step in figures.steps:
            for site in step.sites:
                if step.task in TASKS and site.seconds:
                    found.setdefault((site.site, step.task), []).append((site.seconds, site.steps))
    return tuple(
        _task_time(site, TASKS[task], found[site, task])
        for site in sites_of(run)
        for task in TASKS
        if (site, task) in found
    )


def task_time_table(run: RunRead) -> TaskTimes | None:
    rows = task_times(run)
    unit, word = _scale((each.whole for each in rows), TIMES[-2:])
    return TaskTimes(rows, phases_of(rows), unit, word) if rows else None


def _task_time(site: str, task: str, told: list[tuple[Mapping[str, float], int]]) -> TaskTime:
    names = dict.fromkeys(name for seconds, _ in told for name in seconds)
    phases = {name: sum(seconds.get(name, 0.0) for seconds, _ in told) / len(told) for name in names}
    return TaskTime(site, task, len(told), sum(steps for _, steps in told) / len(told), phases)


def phases_of(times: Iterable[TaskTime]) -> tuple[str, ...]:
    """The phases, the longest first."""
    whole: dict[str, float] = {}
    for each in times:
        for name, seconds in each.phases.items():
            whole[name] = whole.get(name, 0.0) + seconds
    return tuple(sorted(whole, key=lambda name: (-whole[name], name)))


def task_time_chart(run: RunRead) -> BarChart | None:
    """Where the time of a training task goes, site by site; None before the first was answered."""
    times = [each for each in task_times(run) if each.task == TASKS[Task.TRAIN]][:SITES_DRAWN]
    if not times:
        return None
    phases = phases_of(times)
    drawn = phases if len(phases) <= PHASES_DRAWN else phases[: PHASES_DRAWN - 1]
    rest = phases[len(drawn) :]
    unit, word = _scale((each.whole for each in times), TIMES)
    parts = [Part(name, tuple(each.phases.get(name, 0.0) / unit for each in times)) for name in drawn]
    if rest:
        parts.append(Part("other", tuple(sum(each.phases.get(name, 0.0) for name in rest) / unit for each in times)))
    return BarChart(
        name="task-time",
        title="time of a training task",
        subtitle=f"{word} by phase, mean over the rounds",
        bars=tuple(each.site for each in times),
        parts=tuple(parts),
        caption="As the task itself took it down: without waiting for a slot, and without transfers.",
        alt="Mean time of a training task: " + ", ".join(f"{each.site} {span_text(each.whole)}" for each in times),
    )


def sent_chart(run: RunRead) -> BarChart | None:
    """The bytes that the clinics sent in each round; None where none was sent yet."""
    rounds = {number: _sent_in(steps) for number, steps in _training(run).items()}
    unit, word = _scale((sum(sizes.values()) for sizes in rounds.values()), SIZES)
    sites = sites_of(run)
    if len(sites) > FEW_SITES:
        parts = [Part("all clinics", tuple(sum(sizes.values()) / unit for sizes in rounds.values()))]
    else:
        parts = [
            Part(site, tuple(sizes.get(site, 0) / unit for sizes in rounds.values()), nth)
            for nth, site in enumerate(sites)
        ]
    whole = sum(sum(sizes.values()) for sizes in rounds.values())
    if not whole:
        return None
    return BarChart(
        name="sent",
        title="sent by the clinics",
        subtitle=f"{word} of updates",
        x_label="round",
        bars=tuple(rounds),
        parts=tuple(parts),
        caption=f"{size_text(whole)} in {count_text(len(rounds), 'round')}.",
        alt=f"{size_text(whole)} sent by {count_text(len(sites), 'clinic')} in {count_text(len(rounds), 'round')}",
    )


def _training(run: RunRead) -> dict[int, StepFigures]:
    """The rounds that have closed."""
    return {
        number: step
        for number, figures in sorted(run.figures.items())
        for step in figures.steps
        if step.task is Task.TRAIN and step.closed_at is not None
    }


def _sent_in(step: StepFigures) -> dict[str, int]:
    return {site.site: site.update.size for site in step.sites if site.update is not None}


def _between(step: StepFigures) -> float:
    return (step.closed_at - step.opened_at).total_seconds() if step.closed_at is not None else 0.0


def _scale(values: Iterable[float], units: tuple[tuple[float, str], ...]) -> tuple[float, str]:
    """The unit in which the largest of the values is at least two."""
    largest = max(values, default=0.0)
    return next((unit for unit in units if largest >= 2 * unit[0]), units[-1])
