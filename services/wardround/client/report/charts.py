"""Charts drawn: each becomes a figure of matplotlib, without its global state."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wardround.client.report import look
from wardround.client.report.chart_kinds import BarChart, Chart, GridChart, Line, LineChart, Outcome
from wardround.client.report.look import BLUE, FAINT, INK, LINE, MUTED, PART_COLOURS, SMALL, TEXT, WIDTH, Key
from wardround.client.report.taking_part import OUTCOMES

HEIGHT = 210.0
MARKED_UP_TO = 60  # rounds: beyond, markers run into each other
GREY = "#7b8794"

KEYS: Mapping[Outcome, Key] = {
    "counted": Key(OUTCOMES["counted"], BLUE, "o"),
    "left_out": Key(OUTCOMES["left_out"], "#CC79A7", "D"),
    "late": Key(OUTCOMES["late"], "#E69F00", "^"),
    "failed": Key(OUTCOMES["failed"], "#D55E00", "X"),
    "refused": Key(OUTCOMES["refused"], "#882255", "s"),
    "cancelled": Key(OUTCOMES["cancelled"], GREY, "P"),
    "withdrawn": Key(OUTCOMES["withdrawn"], GREY, "v", filled=False),
    "declined": Key(OUTCOMES["declined"], GREY, "s", filled=False),
    "set_aside": Key(OUTCOMES["set_aside"], GREY, "D", filled=False),
    "not_asked": Key(OUTCOMES["not_asked"], GREY, "_"),
    "open": Key(OUTCOMES["open"], BLUE, "o", filled=False),
}


def draw(chart: Chart) -> Figure:
    """The chart as a figure; call it, and save what it gives, within `matplotlib.rc_context(look.STYLE)`."""
    match chart:
        case LineChart():
            return _lines(chart)
        case GridChart():
            return _grid(chart)
        case BarChart() if chart.lying:
            return _lying_bars(chart)
        case BarChart():
            return _standing_bars(chart)


# --- lines -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Pen:
    colour: str
    width: float
    dashes: str | tuple[float, tuple[float, ...]] = "-"
    above: int = 3


def _pen(line: Line, cohort: int) -> _Pen:
    match line.kind:
        case "whole":
            return _Pen(BLUE, 2.2, above=5)
        case "pooled":
            return _Pen(INK, 1.3, (0, (4, 2)), above=4)
        case "alone":
            return _Pen(INK, 1.3, (0, (1, 1.6)), above=4)
        case "site":
            return _Pen(look.site_colour(line.nth or 0, cohort), 1.1)


def _lines(chart: LineChart) -> Figure:
    sheet = look.figure(WIDTH, HEIGHT)
    look.headed(sheet, chart.title, chart.subtitle)
    told = [line for line in chart.lines if line.kind != "site" or chart.cohort <= len(look.SITE_COLOURS)]
    told = told if len(told) > 1 or told != list(chart.lines) else []
    labels = max((look.text_width(sheet, _cut(line.label), weight=_weight(line)) for line in told), default=0.0)
    made = look.axes(sheet, left=34, right=labels + 22 if told else 8, top=look.HEAD + 2)
    for line in chart.lines:
        _line(made, line, _pen(line, chart.cohort))
    if chart.level is not None:
        made.axhline(chart.level, color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)))
    rounds = [x for line in chart.lines for x, _ in line.points]
    made.set_xlim(*_with_room(min(rounds, default=0), max(rounds, default=1)))
    made.margins(y=0.08)
    if chart.from_zero:
        made.set_ylim(bottom=0)
    look.few_ticks(made.yaxis)
    look.whole_numbers(made)
    made.set_xlabel(chart.x_label, size=SMALL, loc="left")
    _label(sheet, made, told, chart.cohort)
    return sheet


def _line(made: Axes, line: Line, pen: _Pen) -> None:
    """With a gap where rounds are missing."""
    values = dict(line.points)
    rounds = range(min(values), max(values) + 1)
    marked = [number - rounds[0] for number in values if _marked(number, line, values)]
    made.plot(
        rounds,
        [values.get(number, np.nan) for number in rounds],
        color=pen.colour,
        linewidth=pen.width,
        linestyle=pen.dashes,
        zorder=pen.above,
        marker="o" if marked else None,
        markevery=marked,
        markersize=3.2,
    )


def _marked(number: int, line: Line, values: Mapping[int, float]) -> bool:
    """The points of the main line, while they are few; of any line those that nothing else would show."""
    alone = number - 1 not in values and number + 1 not in values
    return alone or (line.kind == "whole" and len(values) <= MARKED_UP_TO)


def _label(sheet: Figure, made: Axes, told: list[Line], cohort: int) -> None:
    """The lines' names at their ends, each led to by its colour."""
    if not told:
        return
    made.autoscale_view()  # it is put off until the figure is drawn, and with it the places of all points
    edge, low, high = made.bbox.x1, made.bbox.y0, made.bbox.y1
    lasts = [made.transData.transform(line.points[-1]) for line in told]
    ends = [float(y) for _, y in lasts]
    for line, (last, _), end, y in zip(told, lasts, ends, look.spread_out(ends, LINE, low, high), strict=True):
        pen = _pen(line, cohort)
        look.lead(sheet, (float(last), edge + 2), (end, end), color=pen.colour, linewidth=0.6, alpha=0.6)
        style = {"color": pen.colour, "linewidth": min(pen.width, 1.6), "linestyle": pen.dashes}
        look.lead(sheet, (edge + 2, edge + 9, edge + 15), (end, y, y), **style)
        look.write(sheet, edge + 18, y, _cut(line.label), va="center_baseline", weight=_weight(line))


def _weight(line: Line) -> str:
    return "bold" if line.kind == "whole" else "normal"


def _cut(label: str, longest: int = 24) -> str:
    return label if len(label) <= longest else f"{label[: longest - 1]}\N{HORIZONTAL ELLIPSIS}"


def _with_room(first: int, last: int) -> tuple[float, float]:
    room = max((last - first) * 0.02, 0.25)
    return first - room, last + room


# --- bars --------------------------------------------------------------------------------------------------------


def _keys(chart: BarChart) -> tuple[list[Key], list[str]]:
    sites = len(chart.parts)
    colours = [
        PART_COLOURS[index % len(PART_COLOURS)] if part.nth is None else look.site_colour(part.nth, sites)
        for index, part in enumerate(chart.parts)
    ]
    keys = [Key(_cut(part.label), colour) for part, colour in zip(chart.parts, colours, strict=True)]
    return (keys if len(keys) > 1 else []), colours


def _standing_bars(chart: BarChart) -> Figure:
    sheet = look.figure(WIDTH, HEIGHT)
    look.headed(sheet, chart.title, chart.subtitle)
    keys, colours = _keys(chart)
    top = look.HEAD + look.legend_height(sheet, keys)
    look.legend(sheet, keys, HEIGHT - look.HEAD - 2)
    made = look.axes(sheet, left=34, right=8, top=top + 2)
    rounds = np.array(chart.bars, dtype=float)
    values = np.array([part.values for part in chart.parts], dtype=float)
    if len(rounds) > MARKED_UP_TO:
        made.stackplot(rounds, values, colors=colours, step="mid", linewidth=0)
    else:
        base = np.cumsum(values, axis=0) - values
        for height, below, colour in zip(values, base, colours, strict=True):
            made.bar(rounds, height, bottom=below, width=0.12 * min(len(rounds), 6), color=colour, linewidth=0)
    made.set_xlim(min(rounds) - 0.7, max(rounds) + 0.7)
    made.set_ylim(bottom=0)
    look.few_ticks(made.yaxis)
    look.whole_numbers(made)
    made.set_xlabel(chart.x_label, size=SMALL, loc="left")
    return sheet


def _lying_bars(chart: BarChart) -> Figure:
    keys, colours = _keys(chart)
    probe = look.figure(WIDTH, HEIGHT)
    legend = look.legend_height(probe, keys)
    names = max(look.text_width(probe, _cut(str(name))) for name in chart.bars)
    height = max(look.HEAD + legend + 16.0 * len(chart.bars) + look.FOOT, HEIGHT * 0.6)
    sheet = look.figure(WIDTH, height)
    look.headed(sheet, chart.title, chart.subtitle)
    look.legend(sheet, keys, height - look.HEAD - 2)
    made = look.axes(sheet, left=look.SIDE + names + 6, right=10, top=look.HEAD + legend + 2)
    places = np.arange(len(chart.bars))
    left = np.zeros(len(chart.bars))
    for part, colour in zip(chart.parts, colours, strict=True):
        made.barh(places, part.values, left=left, height=0.62, color=colour, linewidth=0)
        left += np.array(part.values, dtype=float)
    made.set_yticks(places, [_cut(str(name)) for name in chart.bars], size=TEXT, color=INK)
    made.invert_yaxis()
    made.grid(visible=False, axis="y")
    made.grid(axis="x", color=look.HAIR, linewidth=0.8)
    look.few_ticks(made.xaxis)
    return sheet


# --- the grid ----------------------------------------------------------------------------------------------------


def _grid(chart: GridChart) -> Figure:
    keys = [key for outcome, key in KEYS.items() if any(outcome in row for row in chart.cells)]
    probe = look.figure(2 * WIDTH, HEIGHT)
    names = max(look.text_width(probe, _cut(site)) for site in chart.sites)
    width = min(max(names + 24 + 16.0 * len(chart.columns), WIDTH), 2 * WIDTH)
    legend = look.legend_height(look.figure(width, HEIGHT), keys)
    height = look.HEAD + legend + 14.0 * len(chart.sites) + 8 + look.FOOT
    sheet = look.figure(width, height)
    look.headed(sheet, chart.title, chart.subtitle)
    look.legend(sheet, keys, height - look.HEAD - 2)
    made = look.axes(sheet, left=look.SIDE + names + 8, right=8, top=look.HEAD + legend + 6)
    made.grid(visible=False)
    places = _places(chart.columns)
    made.set_xlim(-0.7, places[-1] + 0.7)
    made.set_ylim(len(chart.sites) - 0.4, -0.6)
    for outcome, key in KEYS.items():
        if outcome == "counted" and len(chart.columns) > MARKED_UP_TO:
            _bands(made, chart, places)
        else:
            _marks(made, chart, places, outcome, key)
    made.set_yticks(range(len(chart.sites)), [_cut(site) for site in chart.sites], size=TEXT, color=INK)
    _name_columns(made, chart.columns, places)
    made.set_xlabel("round", size=SMALL, loc="left")
    return sheet


def _marks(made: Axes, chart: GridChart, places: list[float], outcome: Outcome, key: Key) -> None:
    cells = [
        (x, y) for y, row in enumerate(chart.cells) for x, each in zip(places, row, strict=True) if each == outcome
    ]
    if cells:
        made.plot([x for x, _ in cells], [y for _, y in cells], zorder=4, **look.symbol(key))


def _places(columns: tuple[str, ...]) -> list[float]:
    """Where the columns stand: what is no round a little apart."""
    words = [not name.isdigit() for name in columns]
    return [index + 0.5 * sum(words[: index + 1]) for index in range(len(columns))]


def _bands(made: Axes, chart: GridChart, places: list[float]) -> None:
    """What counted, as bands: with hundreds of rounds a symbol each would be a smear."""
    for y, row in enumerate(chart.cells):
        runs: list[tuple[float, float]] = []
        for x, outcome in zip(places, row, strict=True):
            if outcome == "counted":
                if runs and runs[-1][0] + runs[-1][1] == x - 0.5:
                    runs[-1] = (runs[-1][0], runs[-1][1] + 1)
                else:
                    runs.append((x - 0.5, 1.0))
        made.broken_barh(runs, (y - 0.18, 0.36), facecolors=BLUE, linewidth=0)


def _name_columns(made: Axes, columns: tuple[str, ...], places: list[float]) -> None:
    """Every so many rounds, and whatever is no round."""
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10_000) if len(columns) / step <= 30)
    words = [index for index, name in enumerate(columns) if not name.isdigit()]
    numbers = [
        index
        for index, name in enumerate(columns)
        if name.isdigit() and int(name) % step == 0 and not any(abs(index - word) < step for word in words)
    ]
    shown = sorted([*words, *numbers])
    made.set_xticks([places[index] for index in shown], [columns[index] for index in shown])
    made.spines["bottom"].set_color(FAINT)
