"""What a terminal shows of an experiment: the live picture, and the table that ends a run."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from rich import box
from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from wardround.client.site_cells import NOTHING, bar, site_cells
from wardround.metrics.lines import readmission, step_text
from wardround.metrics.view import ExperimentView, ModelView, SiteView, StepView
from wardround.metrics.wording import duration_text, short
from wardround_messages.names import Task

WIDE = 100
ROWS_SHOWN = 20
LINES_SHOWN = 5
THERE = timedelta(minutes=3)  # since an agent, which says every minute that it is there, was last heard

COLOURS = {"enrolling": "cyan", "running": "cyan", "finished": "green", "failed": "red", "aborted": "yellow"}


def picture(
    view: ExperimentView, *, now: datetime, width: int, where: str = "", hint: str = "", rows: int = ROWS_SHOWN
) -> RenderableType:
    """The experiment at a glance, each line at most `width` cells.

    Args:
        now: also gives the time zone in which times are shown.
        where: whose experiment it is, shown at the right of the first line.
        hint: a last line, for instance how to leave.
        rows: at most so many clinics; the others are summed up in a line.
    """
    parts: list[RenderableType] = [_heading(view, width, where), _rounds(view, now, width)]
    parts += [_line(_where_it_stands(view, now), width, _colour(view)), Text(), _sites(view, now, width, rows)]
    if len(view.sites) > rows:
        parts.append(_line(_the_rest(view.sites[rows:]), width, "dim"))
    if not view.ended and any(site.state == "set_aside" for site in view.sites):
        parts.append(_line(_set_aside(view, now), width, "yellow"))
    parts.append(Text())
    if view.model is not None:
        parts.append(_line(_model(view, view.model), width))
    parts += [_logged(line.at, line.text, now, width) for line in view.log[-LINES_SHOWN:]]
    if hint:
        parts.append(_line([hint], width, "dim"))
    return Group(*parts)


# --- what the experiment does ------------------------------------------------------------------------------------


def _heading(view: ExperimentView, width: int, where: str) -> RenderableType:
    left = Text.assemble((f" {view.experiment}", "bold"), f" · {view.study} · ", (_activity(view), _colour(view)))
    room = width - len(where) - 1
    if not where or room < left.cell_len + 2:
        left.truncate(width, overflow="ellipsis")
        return left
    left.pad_right(room - left.cell_len)
    return left.append(where, "dim")


def _activity(view: ExperimentView) -> str:
    if view.broken is not None:
        return "journal broken"
    if view.paused is not None:
        return "paused"
    if view.phase != "running" or view.step is None:
        return view.phase
    if view.step.closed_at is not None:
        return "merging" if view.step.task in (Task.TRAIN, Task.INITIALISE) else "running"
    return {
        Task.INITIALISE: "making the first model",
        Task.TRAIN: "training",
        Task.EVALUATE: "evaluating",
        Task.TEST: "testing",
        Task.CHECK: "checking",
    }[view.step.task]


def _colour(view: ExperimentView) -> str:
    if view.broken is not None:
        return "red"
    return "yellow" if view.paused is not None else COLOURS[view.phase]


def _rounds(view: ExperimentView, now: datetime, width: int) -> Text:
    until = view.changed_at if view.ended else now
    gone = duration_text((until - view.started_at).total_seconds())
    segments = [f"{view.rounds_done} of {view.rounds_planned}", f"{gone} {'in all' if view.ended else 'gone'}"]
    left = seconds_left(view, now)
    if left is not None and left >= 1:
        segments.append(f"about {duration_text(left if left < 120 else round(left / 60) * 60)} left")
    after = "   ".join(segments)
    room = min(max(width - len(after) - 13, 8), 40)
    done = bar(view.rounds_done / view.rounds_planned, room, _colour(view))
    text = Text.assemble(" Rounds  ", done, f"   {after}", no_wrap=True)
    text.truncate(width, overflow="ellipsis")
    return text


def seconds_left(view: ExperimentView, now: datetime) -> float | None:
    """How long the rounds to come may take, each as long as those so far were on average."""
    if view.ended or view.paused is not None or view.trains_since is None or view.model is None or not view.rounds_done:
        return None
    each = (view.model.adopted_at - view.trains_since).total_seconds() / view.rounds_done
    in_hand = (now - view.model.adopted_at).total_seconds()
    left = view.rounds_planned - view.rounds_done
    return max(each * left - in_hand, each * (left - 1)) if left > 0 else None


def _where_it_stands(view: ExperimentView, now: datetime) -> list[str]:
    if view.broken is not None:
        return [view.broken]
    if view.paused is not None:
        return [f"Paused ({_words(view.paused)})", *([view.reason] if view.reason else [])]
    if view.ended:
        ended = f"{view.phase.capitalize()} {_clock(view.changed_at, now)}"
        return [ended, *([view.reason] if view.reason else [])]
    if view.enrolment_ends is not None:
        granted = sum(site.state == "granted" for site in view.sites)
        asked = f"{granted} of {len(view.sites)} clinics granted, quorum {view.quorum}"
        return [f"Enrolment ends {_clock(view.enrolment_ends, now)} at the latest", asked]
    return ["Starting"] if view.step is None else _step(view.step, now)


def _step(step: StepView, now: datetime) -> list[str]:
    name = step_text((step.round, step.task)).capitalize()
    if step.closed_at is not None:
        return [f"{name} closed {_clock(step.closed_at, now)}", f"{step.answered} of {step.asked} counted"]
    ends = min((at for at in (step.deadline, step.grace_ends) if at is not None), default=None)
    closes = f"{name} is open" if ends is None else f"{name} closes {_clock(ends, now)} at the latest"
    missing = step.quorum - step.answered
    if missing <= 0:
        return [closes, f"quorum {step.quorum} of {step.asked} reached: {step.answered} answered"]
    grace = f" after {duration_text(step.grace)} grace" if step.grace and step.quorum < step.asked else ""
    return [
        closes,
        f"quorum {step.quorum} of {step.asked}: {step.answered} answered",
        f"{missing} more {'closes' if missing == 1 else 'close'} it{grace}",
    ]


def _model(view: ExperimentView, model: ModelView) -> list[str]:
    segments = [f"Model {model.round}", short(model.sha256)]
    if model.value is not None:
        best = view.best
        better = "" if best is None else f" (best {best.value:.3f}, model {best.round})"
        segments.append(f"{view.metric} {model.value:.3f}{better}")
        segments.append(f"mean over {model.measured_by} of {len(view.sites)} clinics")
    elif view.best is not None:
        segments.append(f"best {view.best.metric} {view.best.value:.3f}, model {view.best.round}")
    return [*segments, *([f"began with {view.origin}"] if view.origin else [])]


def _logged(at: datetime, text: str, now: datetime, width: int) -> Text:
    line = Text.assemble((f" {at.astimezone(now.tzinfo):%H:%M:%S}  ", "dim"), text)
    line.truncate(width, overflow="ellipsis")
    return line


# --- the clinics -------------------------------------------------------------------------------------------------


def _sites(view: ExperimentView, now: datetime, width: int, rows: int) -> Table:
    wide = width >= WIDE
    table = Table(
        Column("clinic", no_wrap=True, overflow="ellipsis", max_width=24 if wide else 16),
        Column("state", no_wrap=True, overflow="ellipsis", ratio=1),
        Column("cases", justify="right", no_wrap=True),
        Column(_measured_header(view, wide), no_wrap=True),
        Column("loss", justify="right", no_wrap=True),
        Column("sent", justify="right", no_wrap=True),
        Column("seen", justify="right", no_wrap=True),
        box=None,
        padding=(0, 2 if wide else 1, 0, 0),
        pad_edge=False,
        collapse_padding=True,
        header_style="dim",
        width=width - 1,
    )
    for site in view.sites[:rows]:
        table.add_row(*site_cells(site, view, now, wide=wide))
    grid = Table.grid(padding=0)
    grid.add_row(" ", table)
    return grid


def _measured_header(view: ExperimentView, wide: bool) -> str:
    if view.metric is None:
        return "metric"
    return f"{view.metric} of model {view.step.model}" if wide and view.step is not None else view.metric


def _the_rest(sites: Sequence[SiteView]) -> list[str]:
    states = [site.state for site in sites]
    counts = {state: states.count(state) for state in dict.fromkeys(states)}
    return [f"and {len(sites)} more clinics", ", ".join(f"{count} {_words(state)}" for state, count in counts.items())]


def _set_aside(view: ExperimentView, now: datetime) -> list[str]:
    """How to ask clinics set aside again, and which of them are there to be asked."""
    aside = [site for site in view.sites if site.state == "set_aside"]
    there = [site.site for site in aside if site.seen is not None and now - site.seen < THERE]
    name = aside[0].site if len(aside) == 1 else "CLINIC"
    return [
        f"To ask it again: {readmission(view.experiment, name)}",
        *([f"there again: {', '.join(there)}"] if there else []),
    ]


# --- the end -----------------------------------------------------------------------------------------------------


def final_table(view: ExperimentView, pooled: Mapping[str, float] | None = None) -> RenderableType:
    """What a run came to: each clinic's part, the model, and its metrics beside those of training on pooled data.

    The difference is that of the common test, or of the final evaluation where there was no common test.
    """
    parts: list[RenderableType] = [_contributions(view)]
    if view.model is not None:
        parts.append(Text.assemble(f"\n Model {view.model.round}  ", (view.model.sha256, "bold"), overflow="fold"))
    names = sorted({*view.evaluated, *view.tested, *(pooled or {})}, key=lambda name: (name != view.metric, name))
    if names:
        parts += [Text(), _metrics(view, names, pooled)]
    return Group(*parts)


def _contributions(view: ExperimentView) -> Table:
    measured = {name for site in view.sites for name in site.metrics or {}}
    names = sorted(measured, key=lambda name: (name != view.metric, name))[:3]
    table = Table("clinic", box=box.SIMPLE_HEAD, header_style="dim", pad_edge=True)
    for title in ("cases", "rounds", *(f"last {name}" for name in names)):
        table.add_column(title, justify="right")
    for site in view.sites:
        metrics = site.metrics or {}
        values = (_number(metrics.get(name)) for name in names)
        table.add_row(site.site, _count(site.cases), f"{site.rounds} of {view.rounds_done}", *values)
    return table


def _metrics(view: ExperimentView, names: Iterable[str], pooled: Mapping[str, float] | None) -> Table:
    table = Table("metric", box=box.SIMPLE_HEAD, header_style="dim")
    titles = ["at the clinics", *(["common test"] if view.tested else [])]
    titles += ["pooled data", "difference"] if pooled is not None else []
    for title in titles:
        table.add_column(title, justify="right")
    for name in names:
        cells = [_number(view.evaluated.get(name)), *([_number(view.tested.get(name))] if view.tested else [])]
        if pooled is not None:
            federated, beside = (view.tested or view.evaluated).get(name), pooled.get(name)
            both = federated is not None and beside is not None
            cells += [_number(beside), f"{federated - beside:+.4f}" if both else NOTHING]  # type: ignore[operator]
        table.add_row(Text(name, "bold" if name == view.metric else ""), *cells)
    return table


# --- small things ------------------------------------------------------------------------------------------------


def _line(segments: Sequence[str], width: int, style: str = "") -> Text:
    """As many of the segments as fit; the first is cut where it does not fit alone."""
    text = f" {segments[0]}"
    for segment in segments[1:]:
        if len(text) + 3 + len(segment) > width:
            break
        text += f" · {segment}"
    line = Text(text, style)
    line.truncate(width, overflow="ellipsis")
    return line


def _clock(at: datetime, now: datetime) -> str:
    local = at.astimezone(now.tzinfo)
    return f"{local:%H:%M}" if local.date() == now.date() else f"{local:%d %b %H:%M}"


def _words(code: str) -> str:
    return code.replace("_", " ")


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.4f}"


def _count(value: int | None) -> str:
    return NOTHING if value is None else f"{value}"
