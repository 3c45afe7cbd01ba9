"""Which tensors a model holds and where their bytes lie: comparing them, ordering them, writing the header."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace

from wardround.runtime.safetensors_header import LENGTH_BYTES, Tensor
from wardround_messages.base import digest

OPTIMIZER = "optimizer."
ALIGNMENT = 8
# The safetensors library writes tensors by type, widest first, then by name. So does whoever wants them aligned.
_RANK = {
    dtype: rank
    for rank, dtype in enumerate(
        ("U64", "I64", "F64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16", "I8", "U8", "BOOL")
    )
}


@dataclass(frozen=True, slots=True)
class Layout:
    """A file to be: its header, the eight bytes of length included, and its tensors in the order of their bytes.

    Here `begin` and `end` of a tensor count from the end of the header.
    """

    header: bytes
    tensors: tuple[Tensor, ...]


def relative(tensors: Iterable[Tensor], *, start: int) -> tuple[Tensor, ...]:
    """The tensors with their places counted from byte `start` of the file."""
    return tuple(replace(tensor, begin=tensor.begin - start, end=tensor.end - start) for tensor in tensors)


def in_canonical_order(tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """The tensors by type and name, each beginning where the one before ends; so equal sets have equal places.

    Empty ones that share a place come in the order that `read_header` gives them.
    """
    placed, reached = [], 0
    for tensor in sorted(tensors, key=lambda tensor: (_RANK[tensor.dtype], tensor.name)):
        size = tensor.end - tensor.begin
        placed.append(replace(tensor, begin=reached, end=reached + size))
        reached += size
    return tuple(sorted(placed, key=lambda tensor: (tensor.begin, tensor.end, tensor.name)))


def layout_of(tensors: Iterable[Tensor]) -> Layout:
    """The file we write for these tensors: canonical order, no metadata, the header padded to eight bytes."""
    placed = in_canonical_order(tensors)
    entries = {
        tensor.name: {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": (tensor.begin, tensor.end)}
        for tensor in placed
    }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return Layout(len(text).to_bytes(LENGTH_BYTES, "little") + text, placed)


def model_tensors(tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
    return tuple(tensor for tensor in tensors if not tensor.name.startswith(OPTIMIZER))


def optimizer_tensors(tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
    return tuple(tensor for tensor in tensors if tensor.name.startswith(OPTIMIZER))


def signature(tensors: Iterable[Tensor]) -> str:
    """The same for the same names, types and shapes, wherever the bytes lie."""
    return digest(repr(sorted((tensor.name, tensor.dtype, tensor.shape) for tensor in tensors)).encode())


def misfit(found: Iterable[Tensor], expected: Iterable[Tensor]) -> str | None:
    """The first tensor, by name, that is not as expected, in words; None where all are."""
    ours, theirs = ({tensor.name: tensor for tensor in tensors} for tensors in (expected, found))
    for name in sorted({*ours, *theirs}):
        if name not in theirs:
            return f"tensor {name} is missing"
        if name not in ours:
            return f"tensor {name} is one too many"
        if _kind(theirs[name]) != _kind(ours[name]):
            return f"tensor {name} is {_kind(theirs[name])} and not {_kind(ours[name])}"
    return None


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype}{list(tensor.shape)}"
