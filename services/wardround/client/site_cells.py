"""The cells of a clinic's row: what it does, how far it is, how its metric went."""

from collections.abc import Sequence
from datetime import datetime

from rich.text import Text

from wardround.metrics.live import Moving
from wardround.metrics.site_row import QUIET_AFTER
from wardround.metrics.view import ExperimentView, SiteState, SiteView
from wardround.metrics.wording import done_text, duration_text, size_short, size_text, span_text

BLOCKS = "▁▂▃▄▅▆▇█"
NOTHING = "\N{EN DASH}"

STATES: dict[SiteState, tuple[str, str, str]] = {
    "offered": ("○", "dim", "asked for its consent"),
    "granted": ("✔", "green", "granted"),
    "declined": ("✖", "red", "declined"),
    "pending": ("○", "yellow", "a person decides"),
    "withdrawn": (NOTHING, "dim", "withdrew"),
    "set_aside": (NOTHING, "yellow", "set aside"),
    "not_asked": (NOTHING, "dim", "not asked"),
    "asked": ("○", "dim", "asked"),
    "received": ("○", "", "accepted"),
    "fetching": ("●", "cyan", "fetching the model"),
    "queued": ("○", "", "queued"),
    "training": ("●", "cyan", "training"),
    "checking": ("●", "cyan", "checking the update"),
    "submitting": ("●", "cyan", "sending the update"),
    "answered": ("✔", "green", "answered"),
    "refused": ("✖", "red", "refused"),
    "failed": ("✖", "red", "failed"),
    "cancelled": ("✖", "red", "cancelled"),
    "late": ("!", "yellow", "too late"),
    "done": ("✔", "green", "done"),
}


def site_cells(site: SiteView, view: ExperimentView, now: datetime, *, wide: bool) -> tuple[Text, ...]:
    """clinic, state, cases, metric with its curve, loss, sent, seen."""
    return (
        Text(site.site),
        _state(site, view, now, wide=wide),
        Text(NOTHING if site.cases is None else f"{site.cases}"),
        _metric(site, 12 if wide else 6),
        _value(site.loss),
        Text(NOTHING if site.sent is None else size_short(site.sent)),
        Text(NOTHING if site.seen is None else span_text((now - site.seen).total_seconds()), "dim"),
    )


def _state(site: SiteView, view: ExperimentView, now: datetime, *, wide: bool) -> Text:
    mark, style, word = STATES[site.state]
    text = Text.assemble(("! late: ", "yellow")) if site.late else Text(f"{mark} ", style)
    text.append(word, style)
    match site.state:
        case "training":
            text.append_text(progress_cell(site, view.epochs, wide=wide))
        case "fetching" | "submitting" if site.moving is not None:
            text.append(f"  {moving_text(site.moving, now, wide=wide)}")
        case "queued" if site.since is not None:
            text.append(f" {span_text((now - site.since).total_seconds())}")
            text.append(f": {site.detail}" if site.detail else "")
        case "answered" if site.seconds is not None:
            text.append(f" in {duration_text(site.seconds)}")
        case "done":
            text.append(f", {site.rounds} round{'' if site.rounds == 1 else 's'}")
        case _ if site.detail:
            text.append(f": {site.detail.replace('_', ' ')}")
    if site.attempt > 1:
        text.append(f" (attempt {site.attempt})", "dim")
    return text


def moving_text(moving: Moving, now: datetime, *, wide: bool) -> str:
    """How far it is; how much longer it takes only where its speed was said lately."""
    done = done_text(moving.done, moving.of)
    if not wide:
        return done
    text = f"{done} of {size_text(moving.of)}"
    if moving.per_second and moving.done < moving.of and now - moving.at < QUIET_AFTER:
        text += f", {duration_text((moving.of - moving.done) / moving.per_second)} left"
    return text


def progress_cell(site: SiteView, epochs: int, *, wide: bool) -> Text:
    text = Text()
    if site.epoch is not None:
        text.append(f"  epoch {min(site.epoch + 1, epochs)}/{epochs}")
    if site.progress is not None:
        if wide and not site.late:
            text.append(" ").append_text(bar(site.progress, 10, "cyan"))
        text.append(f" {site.progress:4.0%}".replace("%", " %"))
    return text


def bar(fraction: float, width: int, style: str) -> Text:
    """A bar that can be read without colour, too."""
    halves = round(min(max(fraction, 0.0), 1.0) * width * 2)
    full = "━" * (halves // 2) + "╸" * (halves % 2)
    return Text.assemble((full, style), ("─" * (width - len(full)), "dim"))


def curve(values: Sequence[float | None], width: int) -> str:
    """The last `width` values as blocks between their least and their greatest; a gap where one is missing."""
    shown = values[-width:]
    known = [value for value in shown if value is not None]
    if not known:
        return ""
    low, span = min(known), max(known) - min(known)
    steps = len(BLOCKS) - 1
    return "".join(
        " " if value is None else BLOCKS[round((value - low) / span * steps) if span else steps // 2] for value in shown
    )


def _metric(site: SiteView, width: int) -> Text:
    value = NOTHING if site.metric is None else f"{site.metric:.3f}"
    return Text.assemble(f"{value:>6} ", (curve(site.curve, width), "cyan"))


def _value(value: float | None) -> Text:
    return Text(NOTHING if value is None else f"{value:.2f}" if abs(value) < 1000 else f"{value:.0e}")
