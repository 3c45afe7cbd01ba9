"""How charts look: type, colours that the colour-blind can tell apart, and labels that do not lie upon each other.

Lengths are points, of which an inch has 72.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

INK = "#1f2933"
MUTED = "#616e7c"
FAINT = "#cbd2d9"
HAIR = "#e4e7eb"
BLUE = "#0072B2"
# Okabe and Ito's palette, https://jfly.uni-koeln.de/color/, without the blue, which is the whole's, and the yellow,
# which white paper swallows; the last two are Tol's olive and wine.
SITE_COLOURS = ("#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999933", "#882255")
PART_COLOURS = (BLUE, "#56B4E9", "#009E73", "#E69F00", "#CC79A7", "#9aa5b1")

TITLE, TEXT, SMALL = 10.0, 8.0, 7.5
STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same glyphs everywhere
    "font.size": TEXT,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "xtick.major.width": 0.8,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "path",
    "svg.hashsalt": "wardround",
}
WIDTH = 360.0
SIDE = 1.0
HEAD = 36.0  # title and subtitle
FOOT = 30.0  # ticks and the name of the axis
LINE = 10.5  # from one line of small text to the next


def site_colour(nth: int, cohort: int) -> str:
    """A colour of its own for each site of a small cohort; one grey for all of a large one."""
    return SITE_COLOURS[nth] if cohort <= len(SITE_COLOURS) else "#9aa5b1"


def figure(width: float, height: float) -> Figure:
    """An empty sheet; its pixels are points until it is saved."""
    made = Figure(figsize=(width / 72, height / 72), dpi=72)
    FigureCanvasAgg(made)
    return made


def headed(sheet: Figure, title: str, subtitle: str) -> None:
    height = sheet.bbox.height
    write(sheet, SIDE, height - 11, title, size=TITLE, weight="bold")
    write(sheet, SIDE, height - 23, subtitle, size=SMALL, color=MUTED)


def axes(sheet: Figure, *, left: float, right: float, top: float) -> Axes:
    """Axes with these margins above the foot, a line below and hair lines across."""
    width, height = sheet.bbox.width, sheet.bbox.height
    made = sheet.add_axes((left / width, FOOT / height, (width - left - right) / width, (height - top - FOOT) / height))
    for side in ("top", "right", "left"):
        made.spines[side].set_visible(False)
    made.grid(axis="y", color=HAIR, linewidth=0.8)
    return made


def whole_numbers(made: Axes) -> None:
    """Ticks below at whole numbers only."""
    made.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))


def few_ticks(axis: Axis) -> None:
    axis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))


def lead(sheet: Figure, xs: Sequence[float], ys: Sequence[float], **style: Any) -> None:
    """A line through points of the sheet."""
    width, height = sheet.bbox.width, sheet.bbox.height
    sheet.add_artist(Line2D([x / width for x in xs], [y / height for y in ys], **style))


def write(sheet: Figure, x: float, y: float, text: str, **style: Any) -> float:
    """Text from a point on; its width. What is written is no mathematics, whatever is in it."""
    written = sheet.text(
        x / sheet.bbox.width,
        y / sheet.bbox.height,
        text,
        parse_math=False,
        **{"va": "baseline", "size": TEXT, **style},
    )
    return float(written.get_window_extent().width)


def text_width(sheet: Figure, text: str, size: float = TEXT, weight: str = "normal") -> float:
    probe = sheet.text(0, 0, text, size=size, weight=weight, parse_math=False)
    width = float(probe.get_window_extent().width)
    probe.remove()
    return width


@dataclass(frozen=True, slots=True)
class Key:
    """An entry of a legend: a marker or, without one, a square, and its word."""

    word: str
    colour: str
    marker: str = "s"
    filled: bool = True


def legend(sheet: Figure, keys: Iterable[Key], top: float) -> None:
    """Entries in lines from `top` downwards, as many to a line as fit."""
    for key, x, line in _flow(sheet, keys):
        y = top - line * (LINE + 2)
        lead(sheet, [x + 3], [y + 2.6], **symbol(key))
        write(sheet, x + 10, y, key.word, size=SMALL, color=INK)


def legend_height(sheet: Figure, keys: Iterable[Key]) -> float:
    lines = [line for _, _, line in _flow(sheet, keys)]
    return (max(lines) + 1) * (LINE + 2) if lines else 0.0


def _flow(sheet: Figure, keys: Iterable[Key]) -> list[tuple[Key, float, int]]:
    placed, x, line = [], SIDE, 0
    for key in keys:
        width = 10 + text_width(sheet, key.word, SMALL) + 12
        if x > SIDE and x + width > sheet.bbox.width:
            x, line = SIDE, line + 1
        placed.append((key, x, line))
        x += width
    return placed


def symbol(key: Key) -> dict[str, Any]:
    """The entry's marker, as matplotlib draws it."""
    return {
        "linestyle": "none",
        "marker": key.marker,
        "markersize": 5.5,
        "color": key.colour,
        "markerfacecolor": key.colour if key.filled else "white",
        "markeredgewidth": 1.2,
    }


def spread_out(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places as near as can be to those that are wanted, in the same order, at least `gap` apart, within the bounds
    where there is room."""
    groups: list[list[int]] = []  # each stands together, around the mean of what its members want
    for index in sorted(range(len(wanted)), key=lambda index: wanted[index]):
        groups.append([index])
        while len(groups) > 1 and _lowest(wanted, groups[-1], gap, low, high) < gap + _highest(
            wanted, groups[-2], gap, low, high
        ):
            last = groups.pop()
            groups[-1].extend(last)
    placed = [0.0] * len(wanted)
    for group in groups:
        begin = _lowest(wanted, group, gap, low, high)
        for nth, index in enumerate(group):
            placed[index] = begin + nth * gap
    return placed


def _lowest(wanted: Sequence[float], group: list[int], gap: float, low: float, high: float) -> float:
    length = (len(group) - 1) * gap
    middle = sum(wanted[index] for index in group) / len(group)
    return max(min(middle - length / 2, high - length), low)


def _highest(wanted: Sequence[float], group: list[int], gap: float, low: float, high: float) -> float:
    return _lowest(wanted, group, gap, low, high) + (len(group) - 1) * gap
