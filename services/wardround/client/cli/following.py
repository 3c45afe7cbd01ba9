"""What a person, a log file or a program sees of a run while it goes on: a live picture, lines, or JSON lines."""

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from wardround.client.display import picture
from wardround.metrics.lines import Line
from wardround.metrics.view import ExperimentView
from wardround.runtime.clock import wall_clock

View = Callable[[], ExperimentView | None]
Watch = Callable[[str, View], None]


class Following:
    """On a terminal a picture that changes in place, elsewhere a line for each thing that happens."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())

    @property
    def on_a_terminal(self) -> bool:
        return self.console.is_terminal and not self.as_json

    @contextmanager
    def following(self, *, briefly: bool = False) -> Iterator[Watch]:
        """Show how an experiment goes on, `briefly` without a line for each step; yields the watcher for the run."""
        if self.on_a_terminal:
            with self._picture() as watch:
                yield watch
        elif briefly and not self.as_json:
            yield lambda _, __: None
        else:
            with self._lines() as watch:
                yield watch

    @contextmanager
    def live(self, render: Callable[[], RenderableType]) -> Iterator[None]:
        """Show on the terminal what `render` makes, anew eight times a second."""
        with Live(get_renderable=render, console=self.console, refresh_per_second=8):
            yield

    def say(self, text: str) -> None:
        """A sentence for a person."""
        if not self.as_json:
            self.console.print(f"\n{text}", markup=False)

    @contextmanager
    def _picture(self) -> Iterator[Watch]:
        views: list[View] = []

        def render() -> RenderableType:
            view = views[-1]() if views else None
            if view is None:
                return Text(" waiting for the clinics")
            now = wall_clock().astimezone()
            return picture(view, now=now, width=self.console.width, where="simulation")

        with self.live(render):
            yield lambda _, view: views.append(view)

    @contextmanager
    def _lines(self) -> Iterator[Watch]:
        tasks: list[asyncio.Task[None]] = []
        views: list[tuple[str, View]] = []
        printed: set[tuple[object, str]] = set()

        def print_new() -> None:
            for experiment, view in views:
                current = view()
                for line in current.log if current is not None else ():
                    if (line.at, line.text) not in printed:
                        printed.add((line.at, line.text))
                        self._line(experiment, line)

        async def follow() -> None:
            while True:
                print_new()
                await asyncio.sleep(0.1)

        def watch(experiment: str, view: View) -> None:
            views.append((experiment, view))
            tasks.append(asyncio.create_task(follow()))

        try:
            yield watch
        finally:
            for task in tasks:
                task.cancel()
            print_new()

    def _line(self, experiment: str, line: Line) -> None:
        if self.as_json:
            print(json.dumps({"at": line.at.isoformat(), "experiment": experiment, "text": line.text}), flush=True)
        else:
            self.console.print(f"{line.at.astimezone():%H:%M:%S}  {line.text}", markup=False)
