"""What would leave the clinic, looked at before it does: size, layout and values of an update, metrics, words."""

import os
import re
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from wardround.runtime.regular_file import open_regular
from wardround.runtime.safetensors_header import (
    FLOATS,
    LENGTH_BYTES,
    WIDTHS,
    BadTensorsError,
    Tensor,
    header_end,
    read_header,
)
from wardround.runtime.store.content import SealedFile, Sealing
from wardround.site_agent.policy import Leave
from wardround_messages.names import Task
from wardround_messages.parts import Failure, Measured
from wardround_messages.task_folder import TaskResult

SLICE = 2**20

# A float is NaN or infinite where all bits of its exponent are set. `top` finds the values whose highest byte says it
# may be so, `mask` are the exponent's bits in the byte below. Both run at C speed over whole slices.
_TOP = dict.fromkeys(("F64", "F32", "BF16"), b"\x7f\xff") | {"F16": b"\x7c\x7d\x7e\x7f\xfc\xfd\xfe\xff"}
_MASK = {"F64": 0xF0, "F32": 0x80, "BF16": 0x80, "F16": 0x00}


class HeldBackError(Exception):
    """This must not leave, or is not what was asked for. `code` and `hint` are free of data and paths."""

    def __init__(self, code: str, hint: str = "") -> None:
        super().__init__(f"{code}: {hint}")
        self.code = code
        self.hint = hint


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """`size` in bytes. `content` is what was checked: the bytes themselves where they are few, else the file, sealed:
    trainings may write to it before it has left."""

    size: int
    sha256: str
    content: bytes | SealedFile


def regular_file(path: Path) -> bool:
    """Whether a file lies there, and neither a link to one, a pipe nor a folder."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def check_update(path: Path, *, at_most: int) -> CheckedFile:
    """Read the update once, slice by slice: at most `at_most` bytes, well-formed safetensors, every float finite.

    Raises:
        HeldBackError: `no_update`, `update_too_large`, `not_finite`, or a code of `BadTensorsError`.
    """
    if not regular_file(path):
        raise HeldBackError("no_update", "the training left no update.safetensors")
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > at_most:
            raise HeldBackError("update_too_large", f"the update has {size} bytes, {at_most} may leave")
        if size > SLICE:
            sealing = _look_through(file, size)
            return CheckedFile(size, sealing.sha256, sealing.sealed(path))
        content = file.read(size)
    return CheckedFile(len(content), _look_through(BytesIO(content), len(content)).sha256, content)


def _look_through(file: BinaryIO, size: int) -> Sealing:
    sealing = Sealing()
    try:
        head = file.read(LENGTH_BYTES)
        head += file.read(header_end(head, size) - len(head))
        tensors = read_header(head, size)
    except BadTensorsError as error:
        raise HeldBackError(error.code, error.detail) from None
    sealing.take(head)
    for tensor, data in _slices(file, tensors):
        sealing.take(data)
        if tensor.dtype in FLOATS and not all_finite(data, tensor.dtype):
            raise HeldBackError("not_finite", f"{tensor.name} holds a value that is not a finite number")
    return sealing


def _slices(file: BinaryIO, tensors: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, bytes]]:
    for tensor in tensors:
        left = tensor.end - tensor.begin
        while left > 0:
            data = file.read(min(SLICE, left))
            if not data:
                raise HeldBackError("not_safetensors", "the update became shorter while it was read")
            left -= len(data)
            yield tensor, data


def all_finite(data: bytes, dtype: str) -> bool:
    """Whether each little-endian float in `data` (F64, F32, F16 or BF16) is a finite number."""
    width = WIDTHS[dtype]
    top, mask = data[width - 1 :: width], _MASK[dtype]
    suspects = [value for value in _TOP[dtype] if value in top]
    return not suspects or not any(
        data[found.start() * width + width - 2] & mask == mask
        for found in re.finditer(b"[" + re.escape(bytes(suspects)) + b"]", top)
    )


def failure_of(failure: Failure, text: str, leave: Leave) -> Failure:
    """What may be said of a failed training: codes only, or words where the policy lets them leave."""
    words = (failure.hint or text) if leave.errors == "text" else ""
    return Failure(phase=failure.phase, code=failure.code, hint=plain(words))


def plain(words: str) -> str:
    """At most 400 characters of text, without control characters or line breaks."""
    kept = "".join(" " if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") else char for char in words)
    return " ".join(kept.split())[:400]


@dataclass(frozen=True, slots=True)
class Figures:
    """What of a result's numbers may leave; `kept_back` is how many metrics stay, `seconds` what each phase took."""

    cases: int | None
    received: Measured | None
    trained: dict[str, float | None]
    kept_back: int
    seconds: dict[str, float]
    steps: int


def figures(result: TaskResult, *, task: Task, leave: Leave, counts_leave: bool) -> Figures:
    """The numbers of a result that the policy lets leave. Of a check nothing does but codes; case counts stay where
    the strategy weighs sites equally."""
    if task is Task.CHECK:
        return Figures(None, None, {}, 0, {}, 0)
    trained, back_trained = leave.metrics_allowed(result.trained)
    received, back_received = None, 0
    if result.received is not None:
        values, back_received = leave.metrics_allowed(result.received.values)
        received = Measured(cases=result.received.cases if counts_leave else None, values=values)
    cases = result.cases if counts_leave and result.cases > 0 else None
    return Figures(cases, received, trained, back_trained + back_received, dict(result.seconds), result.steps)
