"""The top of a report: a few figures, each with its setting, and what the run came to in a few sentences."""

from dataclasses import dataclass

from wardround.client.comparison import FEDERATED, POOLED
from wardround.client.report import results, taking_part
from wardround.client.report.material import Material, RunRead
from wardround.client.report.results import Measurement
from wardround.client.report.taking_part import Share
from wardround.client.report.words import (
    count_text,
    difference_text,
    listed,
    metric_text,
    span_text,
    spread_text,
)
from wardround.metrics.history import History
from wardround.metrics.wording import short, size_text


@dataclass(frozen=True, slots=True)
class Tile:
    """A figure at the top: what it is, the figure, and its setting."""

    title: str
    figure: str
    setting: str


def tiles(material: Material) -> tuple[Tile, ...]:
    run = material.main.run
    history = run.history
    found = [_metric_tile(material)]
    model = history.rounds[history.latest_model].model if history.latest_model >= 0 else None
    if model is not None:
        rounds = f"after {max(history.latest_model, 0)} of {count_text(history.rounds_planned, 'round')}"
        found.append(Tile("model", short(model.fact.model.sha256), f"{rounds}, {size_text(model.fact.model.size)}"))
    shares = taking_part.shares(run)
    seconds = (history.changed_at - history.started_at).total_seconds()
    updates, sent = sum(share.updates for share in shares), sum(share.sent for share in shares)
    found += [
        _clinics_tile(run, shares),
        Tile("time", span_text(seconds), "from the start to the last entry"),
        Tile("sent by clinics", size_text(sent), count_text(updates, "update")) if updates else None,
    ]
    return tuple(tile for tile in found if tile is not None)


def _metric_tile(material: Material) -> Tile | None:
    run, metric = material.main.run, results.main_metric(material.main.run)
    found = results.tested(run) or results.evaluated(run)
    if found is None or metric is None or metric not in found.values:
        return None
    on = "common test" if results.tested(run) is not None else "validation"
    cases = "" if found.cases is None else f" on {count_text(found.cases, f'{on} case')}"
    return Tile(metric, metric_text(found.values[metric], found.cases), f"model {found.model}{cases}")


def _clinics_tile(run: RunRead, shares: tuple[Share, ...]) -> Tile:
    granted = sum(standing.verdict == "granted" for standing in run.history.sites.values())
    asked = len(run.history.sites)
    counted = sum(share.counts.get("counted", 0) for share in shares)
    due = sum(share.due for share in shares)
    took = f"; of {count_text(due, 'answer')} asked for, {counted:,} counted" if due else ""
    return Tile("clinics", f"{granted} of {asked}", f"granted{took}")


def in_short(material: Material) -> tuple[str, ...]:
    run = material.main.run
    history, metric = run.history, results.main_metric(run)
    said = [_state_sentence(history)]
    test = results.tested(run)
    found = test or results.evaluated(run)
    if found is None or metric is None or metric not in found.values:
        return (*said, "No model was measured." if history.ended else "No model has been measured yet.")
    said.append(_value_sentence(found, metric, on_test=test is not None))
    said += filter(None, (_beside_sentence(material, found, metric), _seeds_sentence(material, found, metric)))
    return tuple(said)


def _state_sentence(history: History) -> str:
    rounds = f"{max(history.latest_model, 0)} of {count_text(history.rounds_planned, 'round')}"
    because = f": {history.reason}" if history.reason else ""
    if history.paused is not None:
        return f"The experiment is paused after {rounds} ({history.paused.replace('_', ' ')}){because}."
    match history.phase:
        case "finished":
            return f"The experiment finished after {rounds}."
        case "failed" | "aborted":
            ended = "failed" if history.phase == "failed" else "was aborted"
            return f"The experiment {ended} after {rounds}{because}."
        case "enrolling":
            return "The experiment waits for the consents of its clinics."
        case _:
            return f"The experiment is running: {rounds} are done."


def _value_sentence(found: Measurement, metric: str, *, on_test: bool) -> str:
    value = metric_text(found.values[metric], found.cases)
    if found.cases is None:
        cases = "the common test cases" if on_test else "the clinics' own validation cases"
    else:
        cases = count_text(
            found.cases,
            "common test case" if on_test else "validation case of the clinics",
            "common test cases" if on_test else "validation cases of the clinics",
        )
    return f"Model {found.model} reaches {metric} {value} on {cases}."


def _beside_sentence(material: Material, found: Measurement, metric: str) -> str | None:
    """The same metric of what the run is held against."""
    measure = results.tested if results.tested(material.main.run) is not None else results.evaluated
    pooled = measure(material.main.pooled) if material.main.pooled is not None else None
    alone = [
        one.values[metric] for run in material.main.alone.values() if (one := measure(run)) and metric in one.values
    ]
    parts = []
    if pooled is not None and metric in pooled.values:
        value = pooled.values[metric]
        difference = difference_text(found.values[metric] - value, found.cases)
        parts.append(
            f"training on pooled data reaches {metric_text(value, found.cases)} (federated minus pooled: {difference})"
        )
    if alone:
        least, most = metric_text(min(alone), found.cases), metric_text(max(alone), found.cases)
        parts.append(f"training at one clinic alone {least}" + (f" to {most}" if len(alone) > 1 else ""))
    return f"With the same trainer, rounds and seed, {listed(parts)}." if parts else None


def _seeds_sentence(material: Material, found: Measurement, metric: str) -> str | None:
    """The same over all seeds, where there are some."""
    table = results.common_test(material) or results.at_the_clinics(material)
    if table is None or not table.seeds:
        return None
    said = [
        f"{row.way} {spread_text(metric_text(each.mean, found.cases), each.sd, found.cases)}"
        for row in table.rows
        if row.way in (FEDERATED, POOLED) and (each := row.values.get(metric)) is not None
    ]
    return f"Over {len(table.seeds)} seeds: {listed(said)}." if said else None
