"""What the last model is worth: on common test cases, at the clinics, and beside what it is held against."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from wardround.client.comparison import FEDERATED, POOLED, is_loss
from wardround.client.report.material import Compared, Goal, Material, RunRead
from wardround.client.report.words import MINUS, count_text, listed, one_case_text
from wardround.metrics.history import describes
from wardround_messages.base import MetricName
from wardround_messages.figures import StepFigures
from wardround_messages.names import Task

SITES_LISTED = 40
BEYOND = 1e100


@dataclass(frozen=True, slots=True)
class Spread:
    """The mean over `seeds` runs, and their standard deviation (n - 1) where there are two or more."""

    mean: float
    sd: float | None = None
    seeds: int = 1


@dataclass(frozen=True, slots=True)
class Row:
    """What one way to train came to; `way` names it, or the site. `trained_on` counts cases; `differences` are
    federated minus this."""

    way: str
    label: str
    trained_on: int | None
    values: Mapping[str, Spread]
    differences: Mapping[str, Spread] = field(default_factory=dict)
    main: bool = False


@dataclass(frozen=True, slots=True)
class Metric:
    """`better` says which way; None where nobody knows."""

    name: MetricName
    better: Goal | None


@dataclass(frozen=True, slots=True)
class ResultTable:
    """`cases` is how many were measured on, None where that was not told; `seeds` are those that it covers."""

    model: int
    cases: int | None
    metrics: tuple[Metric, ...]
    rows: tuple[Row, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SeedTable:
    """The main metric by seed and way to train; `ways` are all that a seed has a value for."""

    metric: MetricName
    ways: tuple[str, ...]
    rows: Mapping[int, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Measurement:
    """The metrics of model `model`, the mean over the sites of the step, and the step."""

    model: int
    values: Mapping[str, float]
    step: StepFigures

    @property
    def cases(self) -> int | None:
        """On how many cases in all; None where a site did not tell."""
        told = [site.received.cases for site in self.step.sites if site.received is not None]
        return sum(filter(None, told)) if told and all(told) else None


def tested(run: RunRead) -> Measurement | None:
    """What the last model that was tested was worth on the common test cases."""
    return _last(run, (Task.TEST,))


def evaluated(run: RunRead) -> Measurement | None:
    """What the last model that the sites measured was worth on their own validation cases."""
    return _last(run, (Task.EVALUATE, Task.TRAIN))


def _last(run: RunRead, tasks: tuple[Task, ...]) -> Measurement | None:
    measured = [
        Measurement(
            describes((number, step.task)),
            usable(step.received),
            step,
        )
        for number, figures in sorted(run.figures.items())
        for step in figures.steps
        if step.task in tasks and step.received
    ]
    return max(measured, key=lambda each: (each.model, each.step.task is not Task.TRAIN), default=None)


# --- tables ------------------------------------------------------------------------------------------------------


def common_test(material: Material) -> ResultTable | None:
    """Every way to train on the same test cases; None where there was no common test yet."""
    return _table(material, tested)


def at_the_clinics(material: Material) -> ResultTable | None:
    """The last model on the sites' own validation cases, site by site; None where it was not measured.

    Where there is no common test, what it is held against stands here as well, measured on its own cases.
    """
    run = material.main.run
    found = evaluated(run)
    if found is None:
        return None
    rows = [
        Row(
            site.site,
            site.site,
            site.received.cases,
            {name: Spread(value) for name, value in usable(site.received.values).items()},
        )
        for site in found.step.sites
        if site.received is not None
    ]
    if len(rows) > SITES_LISTED:
        more = f"and {count_text(len(rows) - SITES_LISTED, 'more clinic')}"
        rows[SITES_LISTED:] = [Row(more, more, None, {})]
    together = _table(material, evaluated)
    assert together is not None  # noqa: S101 - it was found above
    references = () if tested(run) is not None else together.rows[1:]
    of_this_run = {name: Spread(value) for name, value in found.values.items()}
    mean = Row(
        FEDERATED, "mean of the clinics", found.cases, together.rows[0].values if references else of_this_run, main=True
    )
    return ResultTable(
        found.model, found.cases, together.metrics, (*rows, mean, *references), together.seeds if references else ()
    )


def by_seed(material: Material) -> SeedTable | None:
    """None where there is one seed alone, or nothing was measured."""
    metric = main_metric(material.main.run)
    if metric is None or len(material.by_seed) < 2:
        return None
    measure = tested if tested(material.main.run) is not None else evaluated
    rows = {}
    for seed, compared in material.by_seed.items():
        found = {name: measure(run) for name, _, run in _ways(compared)}
        rows[seed] = {
            name: one.values[metric] for name, one in found.items() if one is not None and metric in one.values
        }
    ways = {name for row in rows.values() for name in row}
    in_order = sorted(ways, key=lambda name: (name != FEDERATED, name != POOLED, name))
    return SeedTable(metric, tuple(in_order), rows)


def _table(material: Material, measure: Callable[[RunRead], Measurement | None]) -> ResultTable | None:
    found = measure(material.main.run)
    if found is None:
        return None
    measured = {
        seed: {name: one for name, _, run in _ways(compared) if (one := measure(run)) is not None}
        for seed, compared in material.by_seed.items()
    }
    seeds = tuple(seed for seed, ways in measured.items() if FEDERATED in ways)
    rows = []
    for name, label, run in _ways(material.main):
        values = {seed: ways[name].values for seed, ways in measured.items() if name in ways}
        federated = {seed: ways[FEDERATED].values for seed, ways in measured.items() if FEDERATED in ways}
        rows.append(
            Row(
                name,
                label if len(values) in (0, len(seeds)) else f"{label} ({count_text(len(values), 'seed')})",
                trained_on(run),
                _spreads(values),
                {} if name == FEDERATED else _spreads(_differences(federated, values)),
                main=name == FEDERATED,
            )
        )
    names = {name for ways in measured.values() for one in ways.values() for name in one.values}
    return ResultTable(found.model, found.cases, ordered(names, material), tuple(rows), seeds if len(seeds) > 1 else ())


def _ways(compared: Compared) -> Iterable[tuple[str, str, RunRead]]:
    """The ways to train: a name, what to call it, and its run."""
    run = compared.run
    yield FEDERATED, f"Federated, {count_text(len(run.history.manifest.cohort.sites), 'clinic')}", run
    if compared.pooled is not None:
        yield POOLED, "Pooled data", compared.pooled
    for site, alone in sorted(compared.alone.items()):
        yield f"{site} alone", f"{site} alone", alone


def trained_on(run: RunRead) -> int | None:
    """The cases that the sites counted last trained with, each in its latest round; None where one did not tell."""
    last = {
        site.site: site.cases
        for _, figures in sorted(run.figures.items())
        for step in figures.steps
        for site in step.sites
        if step.task is Task.TRAIN and site.counted
    }
    return sum(filter(None, last.values())) if last and all(last.values()) else None


def _spreads(by_seed: Mapping[int, Mapping[str, float]]) -> dict[str, Spread]:
    found: dict[str, list[float]] = {}
    for values in by_seed.values():
        for name, value in values.items():
            found.setdefault(name, []).append(value)
    return {name: spread(values) for name, values in found.items()}


def spread(values: list[float]) -> Spread:
    sd = statistics.stdev(values) if len(values) > 1 else None
    return Spread(math.fsum(values) / len(values), sd, len(values))


def _differences(
    federated: Mapping[int, Mapping[str, float]], others: Mapping[int, Mapping[str, float]]
) -> dict[int, dict[str, float]]:
    """Federated minus the other, seed by seed, for what both measured."""
    return {
        seed: {name: federated[seed][name] - value for name, value in values.items() if name in federated[seed]}
        for seed, values in others.items()
        if seed in federated
    }


def usable(values: Mapping[str, float | None]) -> dict[str, float]:
    """The values that can be reckoned with. What a diverged training calls 1e300 is none: sums and axes overflow."""
    return {name: value for name, value in values.items() if value is not None and abs(value) < BEYOND}


# --- metrics -----------------------------------------------------------------------------------------------------


def main_metric(run: RunRead) -> str | None:
    """That of the manifest, else the first that is no loss; None where nothing was measured."""
    best = run.history.manifest.model.best
    if best is not None:
        return best.metric
    names = {name for figures in run.figures.values() for step in figures.steps for name in step.received}
    return min(names, key=lambda name: (is_loss(name), name), default=None)


def ordered(names: Iterable[str], material: Material) -> tuple[Metric, ...]:
    """The main metric first, losses last, and between them as the trainer has them, else by name."""
    run, declared = material.main.run, list(material.declared)
    main, best = main_metric(run), run.history.manifest.model.best
    places = {name: place for place, name in enumerate(declared)}
    in_order = sorted(names, key=lambda name: (name != main, is_loss(name), places.get(name, len(places)), name))
    goals = {**material.declared, **({} if best is None else {best.metric: best.goal})}
    return tuple(Metric(name, goals.get(name, "min" if is_loss(name) else None)) for name in in_order)


# --- what it can tell --------------------------------------------------------------------------------------------


def resolution(cases: int | None) -> str:
    """What so many test cases can tell apart, by arithmetic alone: for means over cases of values from 0 to 1."""
    if cases is None:
        return "How many test cases there were was not told, so nothing can be said of what they tell apart."
    if cases == 1:
        return "There is one test case: nothing but that case is known."
    return (
        f"{one_case_text(cases)} The standard error of a mean over all of them is at most "
        f"{0.5 / math.sqrt(cases):.2g}, 1/(2√{cases}). Differences smaller than that may be chance, and no values of "
        "single cases leave a clinic that could tell."
    )


def over_seeds(seeds: tuple[int, ...]) -> str:
    """What ± says in a table over these seeds."""
    return (
        f"Mean ± standard deviation (n {MINUS} 1) over {len(seeds)} seeds: {listed([str(seed) for seed in seeds])}. "
        "It tells how much training varies, not how much another draw of test cases would."
    )
