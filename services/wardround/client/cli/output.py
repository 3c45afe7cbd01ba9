"""Printing so that a closed pipe ends a command quietly, and a log file gets whole lines."""

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime

from rich.console import Console, RenderableType
from rich.table import Column, Table
from rich.text import Text

from wardround.metrics.wording import span_text
from wardround.runtime.clock import wall_clock
from wardround.runtime.logging import printable

NOTHING = "\N{EN DASH}"
UNBOUNDED = 10_000  # columns: what is no terminal gets whole lines


def show(renderable: RenderableType) -> None:
    """Print on standard output; raises `BrokenPipeError` as `print` does, which the console alone would not."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else UNBOUNDED)
    with console.capture() as captured:
        console.print(renderable)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    print("\n".join(lines), flush=True)


def show_json(value: object) -> None:
    """One line of JSON."""
    print(json.dumps(value), flush=True)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = ()) -> Table:
    """Rows under their titles; what came from elsewhere cannot steer the terminal."""
    made = Table(
        *(Column(name, justify="right" if name in right else "left", overflow="fold") for name in columns),
        box=None,
        padding=(0, 2, 0, 0),
        pad_edge=False,
        header_style="dim",
    )
    for row in rows:
        made.add_row(*(Text(NOTHING if cell in (None, "") else printable(str(cell))) for cell in row))
    return made


def ago(at: datetime | None) -> str:
    """How long ago, in the largest unit alone."""
    return NOTHING if at is None else span_text((wall_clock() - at).total_seconds())
