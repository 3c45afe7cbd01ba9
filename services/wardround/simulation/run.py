"""One simulated run: a federation in its folder, and what it is held against in folders below."""

import asyncio
import contextlib
import fcntl
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wardround.metrics.board import ExperimentBoard
from wardround.metrics.rebuild import rebuild
from wardround.metrics.view import ExperimentView, Metrics, ModelView
from wardround.runtime.store.download import download
from wardround.simulation.federation import Federation
from wardround.simulation.references import Reference, reference_clinic, reference_manifest
from wardround.simulation.researcher import Ending, carry_through
from wardround.simulation.sites import Clinic
from wardround_messages.base import canonical_json
from wardround_messages.manifest import Manifest
from wardround_messages.names import GlobalKey, Task, bucket_of

MANIFEST_FILE = "experiment.json"
MODEL_FILE = "model.safetensors"
FIGURES_WITHIN = 10.0  # seconds after the end of an experiment

Watcher = Callable[[str, Callable[[], ExperimentView | None]], None]
"""Told, when a federation is up, what it trains and how to see how it stands."""


@dataclass(frozen=True, slots=True)
class Embedding:
    """On what the services stand."""

    store: Literal["folder", "memory"] = "folder"
    scheduler: Literal["inline", "local"] = "inline"


@dataclass(frozen=True, slots=True)
class Run:
    """How a run ended and what it came to; `view` is None where the experiment was refused. `tested_on` is the number
    of common test cases that the last model was measured on, None where it was on none."""

    ending: Ending
    view: ExperimentView | None = None
    model_file: Path | None = None
    tested_on: int | None = None

    @property
    def metrics(self) -> Metrics:
        """Of the last model on the common test cases, where there are some; else on the sites' validation cases."""
        return {} if self.view is None else self.view.tested or self.view.evaluated


class InUseError(Exception):
    """Another process works in the folder."""


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Have the folder of a run to oneself. The lock lies beside it, so that the folder itself may be deleted.

    Raises:
        InUseError: another process has it; OSError: the folder's parent cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUseError(f"another command is running in {folder}") from None
        yield


def clear(folder: Path) -> None:
    """Delete an earlier run.

    Raises:
        FileExistsError: the folder holds something else.
    """
    if not folder.exists():
        return
    if any(folder.iterdir()) and not (folder / MANIFEST_FILE).is_file():
        raise FileExistsError(f"{folder} is not the folder of a run; nothing was deleted")
    shutil.rmtree(folder)


async def run_federation(
    manifest: Manifest,
    clinics: Sequence[Clinic],
    folder: Path,
    embedding: Embedding,
    *,
    brought: Path | None = None,
    watch: Watcher,
) -> Run:
    """Carry the experiment through in `folder`, or go on with what is there."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / MANIFEST_FILE).exists():
        (folder / MANIFEST_FILE).write_bytes(canonical_json(manifest))
    federation = Federation(folder, clinics, store=embedding.store, scheduler=embedding.scheduler)
    async with federation.running():
        watch(manifest.id, lambda: federation.board.experiment(manifest.id))
        ending = await carry_through(federation, manifest, brought=brought)
        if ending.state == "refused":
            return Run(ending)
        if ending.state == "finished":
            await _figures_written(federation, manifest.id)
        board = await rebuild(federation.store, manifest.id)
        view = board.view({})
        model = None if view is None else view.model
        file = None if model is None else await _keep_model(federation, manifest.id, model, folder)
        return Run(ending, view, file, _tested_on(board))


async def run_reference(
    manifest: Manifest,
    clinics: Sequence[Clinic],
    folder: Path,
    embedding: Embedding,
    reference: Reference,
    *,
    brought: Path | None = None,
    watch: Watcher,
) -> Run:
    """What the run in `folder` is held against, in its own folder below."""
    below = folder / reference.folder
    clinic = reference_clinic(below, clinics, manifest, reference)
    alone = reference_manifest(manifest, reference)
    return await run_federation(alone, [clinic], below, embedding, brought=brought, watch=watch)


def _tested_on(board: ExperimentBoard) -> int | None:
    return next(
        (
            site.received.cases
            for number in sorted(board.figures, reverse=True)
            for step in board.figures[number].steps
            for site in step.sites
            if step.task is Task.TEST and site.received is not None
        ),
        None,
    )


async def _figures_written(federation: Federation, experiment: str) -> None:
    """The metrics service may still be at the figures of the last round."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FIGURES_WITHIN):
            while federation.board[experiment].unwritten or not federation.board[experiment].ended:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def _keep_model(federation: Federation, experiment: str, model: ModelView, folder: Path) -> Path:
    """The last global model, where a person looks for it."""
    file = folder / MODEL_FILE
    key = str(GlobalKey(model.round, model.sha256[:16]))
    await download(federation.store, bucket_of(experiment), key, size=model.size, sha256=model.sha256, to=file)
    return file
