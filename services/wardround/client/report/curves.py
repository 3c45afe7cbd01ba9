"""What is drawn round by round: metrics of the received model, of the training, and how far the model moved."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from wardround.client.report.chart_kinds import Line, LineChart
from wardround.client.report.material import Compared, Material, RunRead
from wardround.client.report.results import BEYOND, ordered
from wardround.client.report.words import count_text, listed, metric_text
from wardround.metrics.history import describes
from wardround_messages.figures import SiteFigures, StepFigures
from wardround_messages.names import Task
from wardround_messages.parts import mean_of

METRICS_DRAWN = 12
SITES_DRAWN = 24
FEW_SITES = 7  # that can be told apart by colour, and listed in a line
MEASURING = (Task.EVALUATE, Task.TRAIN)

Points = dict[int, float]
Value = Callable[[SiteFigures], float | None]


def received_charts(material: Material) -> tuple[LineChart, ...]:
    """A chart for every metric that the sites reported of the model that they were given, the main one first."""
    names = {name for step in _steps(material.main.run, MEASURING).values() for name in step.received}
    return tuple(_received_chart(material.main, metric.name) for metric in ordered(names, material)[:METRICS_DRAWN])


def trained_charts(material: Material) -> tuple[LineChart, ...]:
    """A chart for every metric of the training itself, which is its loss as a rule."""
    run = material.main.run
    rows = [site for step in _steps(run, (Task.TRAIN,)).values() for site in step.sites]
    names = {name for row in rows for name, value in row.trained.items() if value is not None}
    return tuple(_trained_chart(run, metric.name) for metric in ordered(names, material)[:METRICS_DRAWN])


def moved_charts(run: RunRead) -> tuple[LineChart, ...]:
    """How far the updates moved the model, and how far they agreed; none where the aggregator told nothing."""
    return tuple(chart for chart in (_norm_chart(run), _drift_chart(run)) if chart.lines)


# --- metrics -----------------------------------------------------------------------------------------------------


def _received_chart(compared: Compared, metric: str) -> LineChart:
    run = compared.run
    whole = Line(f"mean of {count_text(len(sites_of(run)), 'clinic')}", "whole", _sorted(means_by_model(run, metric)))
    return LineChart(
        name=f"model-{metric}",
        title=metric,
        subtitle="of the received model, on each clinic's validation cases",
        x_label="model after round",
        lines=tuple(
            line
            for line in (
                *_site_lines(run, MEASURING, lambda site: _measured(site, metric)),
                whole,
                *_references(compared, metric),
            )
            if line.points
        ),
        cohort=len(sites_of(run)),
        caption="",
        alt=f"{metric} of the received model: {_course(whole.points, 'model')}",
    )


def _trained_chart(run: RunRead, metric: str) -> LineChart:
    lines = _site_lines(run, (Task.TRAIN,), lambda site: site.trained.get(metric))
    epochs = count_text(run.history.manifest.training.epochs, "epoch")
    return LineChart(
        name=f"training-{metric}",
        title=f"training {metric}",
        subtitle=f"as each clinic reported it after {epochs}",
        x_label="round",
        lines=lines,
        cohort=len(sites_of(run)),
        caption="",
        alt=f"{metric} of the training: {_courses(lines)}",
    )


def _references(compared: Compared, metric: str) -> Iterator[Line]:
    """Training on pooled data, and at each site alone, on the validation cases that these have."""
    if compared.pooled is not None:
        yield Line("pooled data", "pooled", _sorted(means_by_model(compared.pooled, metric)))
    alone = [_measured_by_model(run) for run in compared.alone.values()]
    if alone:
        models = set[int].intersection(*(set(each) for each in alone))
        means = {
            model: mean_of(metric, [row.received for each in alone for row in each[model] if row.received])
            for model in models
        }
        yield Line("each clinic alone, mean", "alone", _sorted(means))


def _measured_by_model(run: RunRead) -> dict[int, tuple[SiteFigures, ...]]:
    return {model: step.sites for model, step in _steps(run, MEASURING).items()}


def means_by_model(run: RunRead, metric: str) -> dict[int, float | None]:
    return {model: step.received.get(metric) for model, step in _steps(run, MEASURING).items()}


def _measured(site: SiteFigures, metric: str) -> float | None:
    return None if site.received is None else site.received.values.get(metric)


def measured_on(compared: Compared) -> str:
    """On what the received models were measured, as far as that was told, and what the lines beside them stand on."""
    run = compared.run
    last = {
        row.site: row.received.cases
        for step in _steps(run, MEASURING).values()
        for row in step.sites
        if row.received is not None and row.received.cases
    }
    if len(last) > FEW_SITES:
        counts = f", {sum(last.values()):,} in {len(last)} clinics"
    else:
        counts = f" ({', '.join(f'{site}: {last[site]:,}' for site in sorted(last))})" if last else ""
    told = f"Every clinic measures the model that it receives on its own validation cases{counts}."
    if compared.pooled is None and not compared.alone:
        return told
    return f"{told} Dashed and dotted lines are measured on the validation cases of the runs that they name."


# --- how the model moves -----------------------------------------------------------------------------------------


def _norm_chart(run: RunRead) -> LineChart:
    lines = _site_lines(run, (Task.TRAIN,), lambda site: site.norm)
    return LineChart(
        name="update-norm",
        title="update norm",
        subtitle="L2 norm of each clinic's change to the model",
        x_label="round",
        lines=lines,
        cohort=len(sites_of(run)),
        caption="How far one clinic's training moved the model that it was given.",
        alt=f"Norm of the updates: {_courses(lines)}",
        from_zero=True,
    )


def _drift_chart(run: RunRead) -> LineChart:
    drift = {
        number: figures.model.drift
        for number, figures in run.figures.items()
        if number > 0 and figures.model is not None
    }
    points = _sorted(drift)
    return LineChart(
        name="drift",
        title="drift",
        subtitle="norm of the merged change over the mean norm of its parts",
        x_label="round",
        lines=(Line("drift", "whole", points),) if points else (),
        cohort=len(sites_of(run)),
        caption="At 1 all clinics pull the model one way; near 0 their changes cancel out.",
        alt=f"Drift: {_course(points, 'round')}",
        level=1.0,
        from_zero=True,
    )


# --- lines -------------------------------------------------------------------------------------------------------


def sites_of(run: RunRead) -> tuple[str, ...]:
    return tuple(sorted(run.history.sites))


def _steps(run: RunRead, tasks: tuple[Task, ...]) -> dict[int, StepFigures]:
    """The steps by the round of what they say something of: of training that round, else the model measured.

    A model that was measured twice, as before and after an extension, counts as it was measured first.
    """
    found: dict[int, StepFigures] = {}
    for number, figures in sorted(run.figures.items()):
        for step in figures.steps:
            if step.task in tasks:
                found.setdefault(describes((number, step.task)) if tasks == MEASURING else number, step)
    return found


def _site_lines(run: RunRead, tasks: tuple[Task, ...], value: Value) -> tuple[Line, ...]:
    points: dict[str, dict[int, float | None]] = {}
    for number, step in _steps(run, tasks).items():
        for site in step.sites:
            points.setdefault(site.site, {})[number] = value(site)
    return tuple(
        Line(site, "site", found, nth)
        for nth, site in enumerate(sites_of(run)[:SITES_DRAWN])
        if (found := _sorted(points.get(site, {})))
    )


def _sorted(points: Mapping[int, float | None]) -> tuple[tuple[int, float], ...]:
    return tuple(
        (number, value) for number, value in sorted(points.items()) if value is not None and abs(value) < BEYOND
    )


def _course(points: Iterable[tuple[int, float]], of: str) -> str:
    """`from 0.41 (model 0) to 0.96 (model 10)`"""
    having = list(points)
    if not having:
        return "no values"
    (first, begun), (last, ended) = having[0], having[-1]
    if first == last:
        return f"{metric_text(begun)} ({of} {first})"
    return f"from {metric_text(begun)} ({of} {first}) to {metric_text(ended)} ({of} {last})"


def _courses(lines: Iterable[Line]) -> str:
    return listed([f"{line.label} {_course(line.points, 'round')}" for line in lines]) or "no values"
