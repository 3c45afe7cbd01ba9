"""A federation beside its references, over one seed or several: how far each is, and what it came to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import mean, stdev

from rich import box
from rich.table import Column, Table
from rich.text import Text

from wardround.client.display import seconds_left
from wardround.client.report.words import count_text, one_case_text
from wardround.client.site_cells import NOTHING, bar
from wardround.metrics.view import ExperimentView, Metrics
from wardround.metrics.wording import duration_text

FEDERATED = "federated"
POOLED = "pooled"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Metrics of last models on the common test cases, or where there are none on validation cases.

    `scores` holds for each way of training, in the order they are shown in, what it came to under each of the `seeds`,
    nothing where it did not finish; `metric` is the one that the experiment is about.
    """

    experiment: str
    metric: str | None
    rounds: int
    epochs: int
    tested_on: int | None
    seeds: tuple[int, ...]
    scores: Mapping[str, Sequence[Metrics]]

    @property
    def metrics(self) -> list[str]:
        """The experiment's own metric first, losses last."""
        names = {name for way in self.scores.values() for each in way for name in each}
        return sorted(names, key=lambda name: (name != self.metric, is_loss(name), name))

    def values(self, way: str, metric: str) -> list[float]:
        """As far as they were measured, in the order of the seeds."""
        return [value for each in self.scores.get(way, ()) if (value := each.get(metric)) is not None]

    def differences(self, metric: str) -> list[float]:
        """Federated minus pooled, seed by seed."""
        pairs = zip(self.scores.get(FEDERATED, ()), self.scores.get(POOLED, ()), strict=False)
        both = ((federated.get(metric), pooled.get(metric)) for federated, pooled in pairs)
        return [a - b for a, b in both if a is not None and b is not None]


def side_by_side(views: Mapping[str, ExperimentView | None], *, now: datetime, width: int) -> Table:
    """A line for each training that goes on, with None for one that has not begun."""
    grid = Table(
        Column(no_wrap=True),
        Column(no_wrap=True),
        Column(justify="right", no_wrap=True),
        Column(no_wrap=True, ratio=1, overflow="ellipsis"),
        box=None,
        show_header=False,
        width=width - 1,
    )
    for name, view in views.items():
        done, of = (0, 0) if view is None else (view.rounds_done, view.rounds_planned)
        grid.add_row(
            name, bar(done / of if of else 0.0, 24, "cyan"), f"{done} of {of}" if of else "", _how_it_goes(view, now)
        )
    return grid


def _how_it_goes(view: ExperimentView | None, now: datetime) -> str:
    if view is None:
        return "waits"
    if view.ended:
        return f"{view.phase} in {duration_text((view.changed_at - view.started_at).total_seconds())}"
    left = seconds_left(view, now)
    value = None if view.model is None else view.model.value
    parts = [
        None if value is None else f"{view.metric} {value:.3f} at its own cases",
        None if left is None else f"about {duration_text(left)} left",
    ]
    return " · ".join(part for part in parts if part) or view.phase


def comparison_table(comparison: Comparison) -> Table:
    """A row for each way of training, a column for each metric; mean and standard deviation over several seeds."""
    table = Table(box=box.SIMPLE_HEAD, header_style="dim")
    table.add_column("", no_wrap=True)
    for name in comparison.metrics:
        table.add_column(Text(name, "bold" if name == comparison.metric else ""), justify="right")
    for way in comparison.scores:
        table.add_row(way, *(_in_words(comparison.values(way, name)) for name in comparison.metrics))
    table.add_section()
    differences = (_in_words(comparison.differences(name), sign=True) for name in comparison.metrics)
    table.add_row(f"{FEDERATED} - {POOLED}", *differences)
    return table


def setting(comparison: Comparison) -> str:
    """What the figures were measured on, and what they cannot tell."""
    seeds = comparison.seeds
    of_seeds = f"seed {seeds[0]}" if len(seeds) == 1 else f"mean ± sd over the seeds {', '.join(map(str, seeds))}"
    budget = f"{count_text(comparison.rounds, 'round')} of {count_text(comparison.epochs, 'epoch')}, {of_seeds}"
    tested = comparison.tested_on
    if not tested:
        return f"{budget}; each on validation cases of its own: without a common test they compare roughly at best."
    return (
        f"{budget}; on {count_text(tested, 'common test case')} that nobody trained on. {one_case_text(tested)} "
        "Small differences tell nothing."
    )


def comparison_json(comparison: Comparison) -> dict[str, object]:
    """The same for programs: metric -> way -> values in the order of the seeds."""
    return {
        "experiment": comparison.experiment,
        "rounds": comparison.rounds,
        "epochs": comparison.epochs,
        "seeds": list(comparison.seeds),
        "tested_on": comparison.tested_on,
        "metrics": {
            name: {way: [each.get(name) for each in scores] for way, scores in comparison.scores.items()}
            for name in comparison.metrics
        },
    }


def is_loss(name: str) -> bool:
    return any(part.startswith("loss") for part in name.split("/"))


def _in_words(values: Sequence[float], *, sign: bool = False) -> str:
    if not values:
        return NOTHING
    shown = f"{mean(values):{'+' if sign else ''}.3f}"
    return f"{shown} ± {stdev(values):.3f}" if len(values) > 1 else shown
