"""What `wardround simulate` does: a module of its own, as it imports all the services."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from rich.console import Console
from rich.live import Live
from rich.text import Text

from wardround.client.cli.errors import CommandError, Exit
from wardround.client.display import final_table, picture
from wardround.client.experiment_file import read_experiment
from wardround.metrics.lines import Line
from wardround.metrics.view import ExperimentView
from wardround.runtime.clock import wall_clock
from wardround.runtime.store.transfer import file_digest
from wardround.simulation.memory import reuse_large_buffers
from wardround.simulation.run import Embedding, InUseError, Run, claimed, clear, run_federation, run_pooled
from wardround.simulation.sites import Clinic, SitesError, beside, load_clinics, make_clinics
from wardround_messages.manifest import Manifest
from wardround_messages.names import GLOBAL_PREFIX, bucket_of

T = TypeVar("T")
View = Callable[[], ExperimentView | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a person asked for. Of the clinics `sites` says how many, or where they lie; with `fresh` an earlier run's
    results are deleted first."""

    file: Path
    sites: str | None
    id: str | None
    overrides: tuple[str, ...]
    out: Path
    fresh: bool
    pooled: bool
    store: Literal["folder", "memory"]
    trainings: Literal["inline", "local"]
    as_json: bool


def carry_out(wish: Wish) -> Exit:
    """Run the federation, then the pooled training, and show both; the exit code."""
    names, own = _sites(wish.sites)
    read = read_experiment(
        wish.file,
        id=wish.id,
        overrides=wish.overrides,
        sites=names,
        find_fork=lambda experiment, round_: file_digest(_model_of(wish.out, experiment, round_)),
    )
    manifest, brought = read.manifest, read.brought
    initial = manifest.model.initial
    if initial.kind == "forked":
        brought = _model_of(wish.out, initial.experiment, initial.round)
    reuse_large_buffers()
    folder, shown = wish.out.absolute() / manifest.id, _Shown(as_json=wish.as_json)
    with _claimed(folder):
        if wish.fresh:
            _clear(folder)
        clinics = _clinics(folder, manifest, own, wish.trainings)
        embedding = Embedding(wish.store, wish.trainings)
        run = _run(manifest, clinics, folder, embedding, brought, pooled=wish.pooled, shown=shown)
        outcome = asyncio.run(_until_interrupted(run))
    shown.end(manifest, wish.out / manifest.id, *outcome)
    return _exit_code(outcome[0])


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """No two commands work in one folder."""
    try:
        with claimed(folder):
            yield
    except InUseError as error:
        raise CommandError(f"--out: {error}", Exit.TRY_AGAIN) from None
    except OSError as error:
        raise CommandError(f"--out: {error.filename or folder}: {error.strerror}") from None


def _clear(folder: Path) -> None:
    try:
        clear(folder)
    except FileExistsError as error:
        raise CommandError(f"--out: {error}") from None


async def _until_interrupted(run: Coroutine[Any, Any, T]) -> T:
    """Ctrl-C and SIGTERM end the run in good order; a second one ends it at once, which loses nothing either."""
    task = asyncio.ensure_future(run)

    def interrupt() -> None:
        if task.cancelling():
            os._exit(Exit.INTERRUPTED)
        task.cancel()

    loop = asyncio.get_running_loop()
    for each in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(each, interrupt)
    try:
        return await task
    except asyncio.CancelledError:
        raise CommandError("interrupted; the same command goes on where it stopped", Exit.INTERRUPTED) from None


def _sites(wish: str | None) -> tuple[tuple[str, ...] | None, Path | None]:
    """What `--sites` says: the names of the clinics to make, or the folder with a person's own."""
    if wish is None:
        return None, None
    if not (wish.isascii() and wish.isdigit()):
        return None, Path(wish)
    if not 1 <= int(wish) <= 1000:
        raise CommandError(f"--sites {wish}: must be 1 to 1000 clinics, or a folder")
    return tuple(f"clinic-{number}" for number in range(1, int(wish) + 1)), None


async def _run(
    manifest: Manifest,
    clinics: list[Clinic],
    folder: Path,
    embedding: Embedding,
    brought: Path | None,
    *,
    pooled: bool,
    shown: "_Shown",
) -> tuple[Run, Run | None]:
    with shown.following() as watch:
        run = await run_federation(manifest, clinics, folder, embedding, brought=brought, watch=watch)
    if run.ending.state != "finished" or not pooled:
        return run, None
    shown.say("The same training on pooled data, to compare:")
    with shown.following(briefly=True) as watch:
        return run, await run_pooled(manifest, clinics, folder, embedding, brought=brought, watch=watch)


def _clinics(folder: Path, manifest: Manifest, own: Path | None, trainings: str) -> list[Clinic]:
    try:
        if own is None:
            return make_clinics(folder / "sites", manifest, scheduler=trainings)
        return [beside(clinic, folder / "sites" / clinic.name) for clinic in load_clinics(own, manifest.cohort.sites)]
    except SitesError as error:
        raise CommandError(str(error)) from None


def _model_of(out: Path, experiment: str, round_: int) -> Path:
    """A global model of an earlier simulation."""
    folder = out / experiment / "hub" / bucket_of(experiment) / GLOBAL_PREFIX / f"r{round_:06d}"
    models = sorted(folder.glob("*.safetensors"))
    if not models:
        raise CommandError(f"model.initial: there is no model {round_} of '{experiment}' in {out}")
    return models[0]


def _exit_code(run: Run) -> Exit:
    match run.ending.state:
        case "finished":
            return Exit.DONE
        case "refused" | "enrolling":
            return Exit.REFUSED
        case "paused" if run.ending.code.startswith("enrolment"):
            return Exit.REFUSED
        case _:
            return Exit.ENDED_BADLY


class _Shown:
    """What a person, a log file or a program sees of a run: a live picture, lines, or JSON lines."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())

    @contextmanager
    def following(self, *, briefly: bool = False) -> Iterator[Callable[[str, View], None]]:
        """Show how an experiment goes on, `briefly` without a line for each step; yields the watcher for the run."""
        if self._console.is_terminal and not self._as_json:
            with self._picture() as watch:
                yield watch
        elif briefly and not self._as_json:
            yield lambda _, __: None
        else:
            with self._lines() as watch:
                yield watch

    @contextmanager
    def _picture(self) -> Iterator[Callable[[str, View], None]]:
        views: list[View] = []

        def render() -> Text | object:
            view = views[-1]() if views else None
            if view is None:
                return Text(" waiting for the clinics")
            now = wall_clock().astimezone()
            return picture(view, now=now, width=self._console.width, where="simulation")

        with Live(get_renderable=render, console=self._console, refresh_per_second=8):  # type: ignore[arg-type]
            yield lambda _, view: views.append(view)

    @contextmanager
    def _lines(self) -> Iterator[Callable[[str, View], None]]:
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
        if self._as_json:
            print(json.dumps({"at": line.at.isoformat(), "experiment": experiment, "text": line.text}), flush=True)
        else:
            self._console.print(f"{line.at.astimezone():%H:%M:%S}  {line.text}", markup=False)

    def say(self, text: str) -> None:
        if not self._as_json:
            self._console.print(f"\n{text}", markup=False)

    def end(self, manifest: Manifest, folder: Path, run: Run, pooled: Run | None) -> None:
        """The outcome: a table, or one JSON object."""
        beside = None if pooled is None else {k: v for k, v in pooled.metrics.items() if v is not None}
        if self._as_json:
            print(json.dumps(summary(manifest, folder, run, beside)), flush=True)
            return
        if run.view is not None and run.view.rounds_done:
            self._console.print()
            self._console.print(final_table(run.view, beside))
        if run.ending.state == "finished":
            model = _model_file(folder, run)
            where = "" if model is None else f"  (the model: {model})"
            self._console.print(f"Results: {folder}{where}", markup=False)
        else:
            why = ": ".join(part for part in (run.ending.code, run.ending.reason) if part)
            print(f"wardround: {manifest.id} is {run.ending.state}{f' ({why})' if why else ''}", file=sys.stderr)


def _model_file(folder: Path, run: Run) -> Path | None:
    """Where the last model lies, as the person spelt the folder."""
    return None if run.model_file is None else folder / run.model_file.name


def summary(manifest: Manifest, folder: Path, run: Run, pooled: dict[str, float] | None) -> dict[str, object]:
    """What a program wants to know of a run."""
    view = run.view
    model = None if view is None else view.model
    return {
        "experiment": manifest.id,
        "state": run.ending.state,
        "code": run.ending.code,
        "reason": run.ending.reason,
        "round": view.rounds_done if view is not None else 0,
        "rounds": view.rounds_planned if view is not None else manifest.rounds.count,
        "model": None
        if model is None
        else {"round": model.round, "sha256": model.sha256, "file": str(_model_file(folder, run))},
        "metrics": dict(run.metrics),
        "evaluated": dict(view.evaluated) if view is not None else {},
        "tested": dict(view.tested) if view is not None else {},
        "pooled": pooled,
        "folder": str(folder),
    }
