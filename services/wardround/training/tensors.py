"""Weights in and out of safetensors files: digest, finiteness, layout, and the same bytes for the same arrays."""

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from wardround.training.errors import TaskError

Array = NDArray[Any]
Weights = dict[str, Array]
Layout = dict[str, str]
"""Type and shape by tensor, such as `float32[30, 16]`."""

OPTIMIZER = "optimizer."
_OS_ERROR = re.compile(r"\(os error (\d+)\)")


def read_tensors(path: Path) -> Weights:
    """Tensors of a safetensors file as writable arrays of their own.

    Raises:
        TaskError: `model_unreadable`, for anything but a whole safetensors file of types that NumPy has.
    """
    try:
        tensors = safetensors.numpy.load_file(path)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise TaskError("model_unreadable", "not a safetensors file of types that NumPy knows") from error
    return {name: value if value.flags.writeable else value.copy() for name, value in tensors.items()}


def read_model(path: Path, sha256: str) -> Weights:
    """The received model, once its digest is right and every value is finite.

    Raises:
        TaskError: `model_missing`, `model_digest`, `model_unreadable`, `model_nonfinite`.
    """
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise TaskError("model_missing", f"the task builds on a model, but {path.name} is not in its folder") from error
    if found != sha256:
        raise TaskError("model_digest", f"{path.name} is not the model that the job names; fetch it again")
    weights = read_tensors(path)
    if (name := _nonfinite(weights)) is not None:
        raise TaskError("model_nonfinite", f"tensor '{name}' of the received model holds NaN or infinity")
    return weights


def write_tensors(path: Path, tensors: Mapping[str, Array]) -> None:
    """Write the file whole or not at all. Without metadata, so that equal tensors are equal bytes.

    Raises:
        OSError: the disk is full, or the like.
    """
    # safetensors takes the memory as it lies: a transposed view would be written in the wrong order.
    dense = {name: np.asarray(value, order="C") for name, value in tensors.items()}
    with _renamed_when_done(path) as part:
        part.touch()
        mode = part.stat().st_mode  # as the umask has it; safetensors would leave it to its owner alone
        try:
            safetensors.numpy.save_file(dense, part)
            part.chmod(stat.S_IMODE(mode))
        except SafetensorError as error:
            if said := _OS_ERROR.search(str(error)):
                raise OSError(int(said[1]), os.strerror(int(said[1]))) from error
            raise


def write_whole(path: Path, content: bytes) -> None:
    """Write the file whole or not at all."""
    with _renamed_when_done(path) as part:
        part.write_bytes(content)


@contextmanager
def _renamed_when_done(path: Path) -> Iterator[Path]:
    """A file beside `path` to write; it goes also when the disk is full."""
    part = path.with_name(f"{path.name}.part")
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def check_finite(update: Mapping[str, Array]) -> None:
    """Raises `TaskError("nonfinite_update")`, naming the first tensor that holds NaN or infinity."""
    if (name := _nonfinite(update)) is not None:
        raise TaskError("nonfinite_update", f"the training diverged: tensor '{name}' holds NaN or infinity")


def _nonfinite(weights: Mapping[str, Array]) -> str | None:
    for name in sorted(weights):
        value = weights[name]
        if value.dtype.kind in "fc" and not np.isfinite(value).all():
            return name
    return None


def check_names(weights: Mapping[str, Array]) -> None:
    """A model has tensors, and their names leave room for the optimizer's. Raises `TaskError("model_unsupported")`."""
    if not weights:
        raise TaskError("model_unsupported", "the trainer's first model has no tensor")
    if taken := [name for name in weights if name.startswith(OPTIMIZER)]:
        raise TaskError("model_unsupported", f"tensor '{min(taken)}': names with {OPTIMIZER} belong to optimizers")


def layout_of(weights: Mapping[str, Array]) -> Layout:
    return {name: f"{value.dtype}{list(value.shape)}" for name, value in weights.items()}


def check_layout(update: Mapping[str, Array], base: Layout) -> None:
    """Names, types and shapes must be those of the model built on.

    Raises:
        TaskError: `layout_changed`, naming the first tensor that differs.
    """
    found = layout_of(update)
    for name in sorted(found.keys() | base.keys()):
        if name not in found or name not in base:
            change = "is missing from the update" if name in base else "is not in the model built on"
            raise TaskError("layout_changed", f"tensor '{name}' {change}")
        if found[name] != base[name]:
            raise TaskError("layout_changed", f"tensor '{name}' is {found[name]}, in the model built on {base[name]}")


def check_suitable(weights: Mapping[str, Array], own: Mapping[str, Array]) -> None:
    """The model received has the tensors of the trainer's own first model.

    Raises:
        TaskError: `model_unsuitable`, naming the first tensor that differs.
    """
    received, expected = layout_of(weights), layout_of(own)
    for name in sorted(received.keys() | expected.keys()):
        if received.get(name) != expected.get(name):
            raise TaskError(
                "model_unsuitable",
                f"tensor '{name}' of the received model is {received.get(name, 'not there')}, "
                f"of this trainer with these parameters {expected.get(name, 'not there')}",
            )
