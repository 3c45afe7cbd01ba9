"""The global models of an experiment: which there are, and how one becomes a file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wardround.client.errors import NotThereError
from wardround.client.journals import read_history
from wardround.metrics.figures import best_model
from wardround.metrics.history import History
from wardround.runtime.store.download import download
from wardround.runtime.store.passage import Passage
from wardround.runtime.store.port import NotFoundError, ObjectStore
from wardround_messages.names import bucket_of
from wardround_messages.parts import ObjectRef

Which = Literal["best", "last"] | int


def read_which(text: str) -> Which | None:
    """What a person calls a model: `best`, `last`, or the number of a round; None for anything else."""
    match text:
        case "best" | "last":
            return text
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 6 else None


@dataclass(frozen=True, slots=True)
class GlobalModel:
    """The model that round `round` led to; `size` in bytes."""

    experiment: str
    round: int
    key: str
    size: int
    sha256: str


async def find_model(store: ObjectStore, experiment: str, which: Which) -> GlobalModel:
    """The model of a round, the last one, or the one that did best by the manifest's metric.

    Raises:
        NotThereError: there is none; otherwise as `read_history`.
    """
    history = await read_history(store, experiment)
    number = _number(history, which)
    ref = _model(history, number)
    if ref is None:
        latest = history.latest_model
        there = "it has none yet" if latest < 0 else f"the latest is {latest}"
        raise NotThereError(f"there is no model {number} of '{experiment}': {there}")
    try:
        await store.head(bucket_of(experiment), ref.key)
    except NotFoundError:
        keep = history.manifest.model.keep
        raise NotThereError(f"model {number} of '{experiment}' was deleted: model.keep is {keep}") from None
    return GlobalModel(experiment, number, ref.key, ref.size, ref.sha256)


async def fetch_model(store: ObjectStore, model: GlobalModel, to: Path, passage: Passage) -> None:
    """The model as a file, which appears only when its digest is right; what an earlier try left is gone on from.

    Raises:
        DigestMismatchError: the store holds other bytes; OSError: the file cannot be written.
    """
    bucket = bucket_of(model.experiment)
    await download(store, bucket, model.key, size=model.size, sha256=model.sha256, to=to, passage=passage)


def _number(history: History, which: Which) -> int:
    match which:
        case "last":
            return max(history.latest_model, 0)
        case "best":
            best = best_model(history, up_to=max(history.rounds, default=0))
            if best is not None:
                return best.round
            if history.manifest.model.best is None:
                raise NotThereError(f"'{history.manifest.id}' does not say what is best: its file has no model.best")
            raise NotThereError(f"no model of '{history.manifest.id}' has been measured yet")
        case int():
            return which


def _model(history: History, number: int) -> ObjectRef | None:
    round_ = history.rounds.get(number)
    return None if round_ is None or round_.model is None else round_.model.fact.model
