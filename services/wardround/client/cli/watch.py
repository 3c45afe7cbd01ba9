"""`wardround watch` and `status`: how an experiment goes on, and how it stands."""

import sys
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING

import typer

from wardround.client.cli.errors import CommandError, Exit
from wardround.client.cli.on_hub import AsJson, Experiment, InsecureLab, OnHub, on_hub, option_of

if TYPE_CHECKING:
    from wardround.client.hub import Hub
    from wardround.metrics.view import ExperimentView

See = Callable[["ExperimentView"], None]
LINES_BESIDES = 15  # of the picture, besides those of the clinics
REDRAWN_A_SECOND = 4


def watch(
    experiment: Experiment, hub: OnHub = None, as_json: AsJson = False, insecure_lab: InsecureLab = False
) -> None:
    """Follow an experiment to its end, live. Ctrl-C leaves; the experiment goes on."""
    follow(experiment, hub=hub, insecure_lab=insecure_lab, as_json=as_json)


def status(
    experiment: Experiment, hub: OnHub = None, as_json: AsJson = False, insecure_lab: InsecureLab = False
) -> None:
    """Show how an experiment stands, and leave."""
    from pydantic import TypeAdapter

    from wardround.client.cli.output import show, show_json
    from wardround.client.display import picture
    from wardround.client.errors import unknown_experiment
    from wardround.metrics.view import ExperimentView
    from wardround.runtime.clock import wall_clock

    async def look(reached: "Hub") -> tuple[ExperimentView, str]:
        view = await reached.view(experiment)
        if view is None:
            raise unknown_experiment(experiment)
        return view, reached.where

    view, where = on_hub(look, hub=hub, insecure_lab=insecure_lab)
    if as_json:
        show_json(TypeAdapter(ExperimentView).dump_python(view, mode="json"))
    else:
        show(picture(view, now=wall_clock().astimezone(), width=_width(), where=where, rows=len(view.sites)))


def follow(experiment: str, *, hub: str | None, insecure_lab: bool, as_json: bool, silently: bool = False) -> None:
    """Show the experiment until it has ended; leaves with the exit code that its end means."""
    again = f"wardround watch {experiment}{option_of(hub)}"

    async def to_the_end(reached: "Hub") -> "ExperimentView":
        with _seeing(experiment, reached.where, again, as_json=as_json, silently=silently) as see:
            async with aclosing(reached.watch(experiment)) as views:
                async for view in views:
                    see(view)
        return view

    left = f"left; {experiment} goes on. Again: {again}"
    _end(on_hub(to_the_end, hub=hub, insecure_lab=insecure_lab, left=left), hub, as_json=as_json)


def _end(view: "ExperimentView", hub: str | None, *, as_json: bool) -> None:
    from wardround.client.cli.output import show, show_json
    from wardround.client.display import final_table

    if as_json:
        show_json(outcome(view))
    elif view.rounds_done:
        show(final_table(view))
    if view.phase == "finished" and view.broken is None:
        if not as_json and view.model is not None:
            fetch = f"wardround fetch {view.experiment} -o model.safetensors{option_of(hub)}"
            print(f"Its last model as a file: {fetch}", flush=True)
        return
    if as_json:
        raise typer.Exit(Exit.ENDED_BADLY)
    how = "is stopped" if view.broken else "was aborted" if view.phase == "aborted" else f"has {view.phase}"
    why = view.broken or view.reason
    raise CommandError(f"{view.experiment} {how}{f': {why}' if why else ''}", Exit.ENDED_BADLY)


def outcome(view: "ExperimentView") -> dict[str, object]:
    """What a program wants to know of how it ended."""
    model, best = view.model, view.best
    return {
        "experiment": view.experiment,
        "state": "broken" if view.broken is not None else view.phase,
        "reason": view.broken or view.reason,
        "round": view.rounds_done,
        "rounds": view.rounds_planned,
        "model": None if model is None else {"round": model.round, "sha256": model.sha256, "size": model.size},
        "best": None if best is None else best.model_dump(mode="json"),
        "evaluated": dict(view.evaluated),
        "tested": dict(view.tested),
    }


# --- ways of seeing --------------------------------------------------------------------------------------------------


@contextmanager
def _seeing(experiment: str, where: str, again: str, *, as_json: bool, silently: bool) -> Iterator[See]:
    if silently:
        yield _told_when_paused()
    elif sys.stdout.isatty() and not as_json:
        with _picture(where, again) as see:
            yield see
    else:
        yield _lines(experiment, as_json=as_json)


@contextmanager
def _picture(where: str, again: str) -> Iterator[See]:
    """On a screen of its own, drawn whole each time: so it survives whatever the window is resized to."""
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.text import Text

    from wardround.client.cli.output import show
    from wardround.client.display import picture
    from wardround.runtime.clock import wall_clock

    console = Console(highlight=False)
    views: list[ExperimentView] = []
    live = f"{where} · live" if where else "live"
    hint = f"Ctrl-C leaves; the experiment goes on. Again: {again}    As lines: --json"

    def draw() -> RenderableType:
        if not views:
            return Text(" waiting for the hub")
        width, height = console.size
        rows = max(height - LINES_BESIDES, 1)
        return picture(views[-1], now=wall_clock().astimezone(), width=width, where=live, hint=hint, rows=rows)

    def see(view: "ExperimentView") -> None:
        views[:] = [view]

    try:
        with Live(get_renderable=draw, console=console, screen=True, refresh_per_second=REDRAWN_A_SECOND):
            yield see
    finally:
        if views:
            show(picture(views[-1], now=wall_clock().astimezone(), width=console.width, where=where))


def _lines(experiment: str, *, as_json: bool) -> See:
    """Each line of the log as it comes."""
    from wardround.client.cli.output import show_json
    from wardround.metrics.lines import Line
    from wardround.runtime.logging import printable

    shown: set[Line] = set()

    def see(view: "ExperimentView") -> None:
        for line in view.log:
            if line in shown:
                continue
            if as_json:
                show_json({"at": line.at.isoformat(), "experiment": experiment, "text": line.text})
            else:
                print(f"{line.at.astimezone():%H:%M:%S}  {printable(line.text)}", flush=True)
        shown.clear()
        shown.update(view.log)  # the log itself is bounded

    return see


def _told_when_paused() -> See:
    paused: str | None = None

    def see(view: "ExperimentView") -> None:
        nonlocal paused
        if view.paused is not None and paused is None:
            why = f": {view.reason}" if view.reason else ""
            print(
                f"wardround: {view.experiment} is paused ({view.paused}){why}; "
                f"waiting for: wardround resume {view.experiment}",
                file=sys.stderr,
                flush=True,
            )
        paused = view.paused

    return see


def _width() -> int:
    from rich.console import Console

    return Console().width if sys.stdout.isatty() else 120
