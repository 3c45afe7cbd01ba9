"""How far long work is: a bar on a terminal, a line now and then elsewhere, both on standard error."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINES = 10


@contextmanager
def progress(of_what: str) -> Iterator[Callable[[int, int], None]]:
    """What to tell (done, of)."""
    if not sys.stderr.isatty():
        yield lambda done, of: _say_line(done, of, of_what)
        return
    columns = (TextColumn(of_what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("left"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(of_what, total=None)
        yield lambda done, of: shown.update(task, completed=done, total=of)


def _say_line(done: int, of: int, of_what: str) -> None:
    if done == of or done * LINES // of > (done - 1) * LINES // of:
        typer.echo(f"{done} of {of} {of_what}", err=True)
