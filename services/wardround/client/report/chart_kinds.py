"""The charts of a report as data: what is to be seen, not how it is drawn. `alt` says it to who cannot see it."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["whole", "site", "pooled", "alone"]
Outcome = Literal[
    "counted",
    "left_out",
    "late",
    "failed",
    "refused",
    "cancelled",
    "withdrawn",
    "declined",
    "set_aside",
    "not_asked",
    "open",
]


@dataclass(frozen=True, slots=True)
class Line:
    """Points (round, value) by round; a round that is missing is a gap. `nth` is the site's place in the cohort, None
    for a line that is no site's."""

    label: str
    kind: Kind
    points: tuple[tuple[int, float], ...]
    nth: int | None = None


@dataclass(frozen=True, slots=True)
class LineChart:
    """`cohort` is how many sites there are, with lines or without; `level` is a value to compare with, `from_zero` has
    the axis begin there."""

    name: str
    title: str
    subtitle: str
    x_label: str
    lines: tuple[Line, ...]
    cohort: int
    caption: str
    alt: str
    level: float | None = None
    from_zero: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """One layer of all bars: of the first bar the first value, and so on. `nth` as with a line."""

    label: str
    values: tuple[float, ...]
    nth: int | None = None


@dataclass(frozen=True, slots=True)
class BarChart:
    """Stacked bars; lying ones have a name each, standing ones a number."""

    name: str
    title: str
    subtitle: str
    bars: tuple[str, ...] | tuple[int, ...]
    parts: tuple[Part, ...]
    caption: str
    alt: str
    x_label: str = ""

    @property
    def lying(self) -> bool:
        return bool(self.bars) and isinstance(self.bars[0], str)


@dataclass(frozen=True, slots=True)
class GridChart:
    """A row for each site, a column for each step; a cell without an outcome is empty."""

    name: str
    title: str
    subtitle: str
    sites: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[Outcome | None, ...], ...]
    caption: str
    alt: str


Chart = LineChart | BarChart | GridChart
