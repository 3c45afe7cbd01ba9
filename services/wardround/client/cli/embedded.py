"""An experiment made ready to run with all its clinics on this machine: what `simulate` and `compare` share."""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from wardround.client.cli.errors import CommandError, Exit
from wardround.client.errors import NotThereError
from wardround.client.experiment_file import read_experiment
from wardround.client.models import GlobalModel, Which, find_model
from wardround.metrics.evolve import IllegalEntryError
from wardround.metrics.wording import clinics_text
from wardround.runtime.journal import JournalBrokenError
from wardround.runtime.store.folder import FolderStore
from wardround.runtime.store.port import StoreError
from wardround.simulation.memory import reuse_large_buffers
from wardround.simulation.run import Embedding, InUseError, Run, claimed, clear
from wardround.simulation.sites import Clinic, SitesError, beside, load_clinics, make_clinics
from wardround.training.registry import dataset_writer
from wardround_messages.manifest import Manifest
from wardround_messages.names import GlobalKey, bucket_of

T = TypeVar("T")


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
    store: Literal["folder", "memory"]
    trainings: Literal["inline", "local"]
    begin_with: str | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """`brought` is the file of the first model where the experiment does not make one; `folder` is the run's."""

    manifest: Manifest
    brought: Path | None
    clinics: list[Clinic]
    folder: Path
    embedding: Embedding


@contextmanager
def ready(wish: Wish, say: Callable[[str], None]) -> Iterator[Ready]:
    """The experiment with its clinics, in a folder that no other command works in meanwhile.

    `say` is told what takes a while.

    Raises:
        CommandError: the file, the clinics or the folder cannot be used.
    """
    names, own = _sites(wish.sites)
    read = read_experiment(
        wish.file,
        id=wish.id,
        overrides=wish.overrides,
        sites=names,
        find_fork=partial(_find_model, wish.out),
        begin_with=wish.begin_with,
    )
    manifest, brought = read.manifest, read.brought
    initial = manifest.model.initial
    if initial.kind == "forked":
        key = GlobalKey(initial.round, initial.sha256[:16])
        brought = _hub_of(wish.out, initial.experiment) / bucket_of(initial.experiment) / str(key)
    reuse_large_buffers()
    folder = wish.out.absolute() / manifest.id
    with _claimed(folder):
        if wish.fresh:
            _clear(folder)
        clinics = _clinics(folder, manifest, own, wish.trainings, say)
        yield Ready(manifest, brought, clinics, folder, Embedding(wish.store, wish.trainings))


def until_interrupted(run: Coroutine[Any, Any, T]) -> T:
    """Ctrl-C and SIGTERM end the run in good order; a second one ends it at once, which loses nothing either."""
    return asyncio.run(_until_interrupted(run))


def exit_code(run: Run) -> Exit:
    """How a command ends whose experiment ended so."""
    match run.ending.state:
        case "finished":
            return Exit.DONE
        case "refused" | "enrolling":
            return Exit.REFUSED
        case "paused" if run.ending.code.startswith("enrolment"):
            return Exit.REFUSED
        case _:
            return Exit.ENDED_BADLY


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


def _clinics(
    folder: Path, manifest: Manifest, own: Path | None, trainings: str, say: Callable[[str], None]
) -> list[Clinic]:
    try:
        if own is None:
            if not folder.exists() and dataset_writer(manifest.training.dataset) is not None:
                say(f"Making the data '{manifest.training.dataset}' of {clinics_text(len(manifest.cohort.sites))}")
            return make_clinics(folder / "sites", manifest, scheduler=trainings)
        return [beside(clinic, folder / "sites" / clinic.name) for clinic in load_clinics(own, manifest.cohort.sites)]
    except SitesError as error:
        raise CommandError(str(error)) from None


def _hub_of(out: Path, experiment: str) -> Path:
    return out / experiment / "hub"


def _find_model(out: Path, experiment: str, which: Which) -> GlobalModel:
    """A global model of an earlier simulation, as its journal names it."""
    hub = _hub_of(out, experiment)
    if not (hub / bucket_of(experiment)).is_dir():
        raise CommandError(
            f"there is no model {which} of '{experiment}' in {out}: no such experiment was simulated there"
        )
    try:
        return asyncio.run(find_model(FolderStore(hub), experiment, which))
    except (NotThereError, StoreError, JournalBrokenError, IllegalEntryError) as error:
        raise CommandError(str(error)) from None
