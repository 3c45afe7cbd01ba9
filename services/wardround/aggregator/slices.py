"""A model cut into slices that fit into memory."""

from collections.abc import Iterator
from dataclasses import dataclass

from wardround.runtime.safetensors_header import WIDTHS, Tensor

# Sums are taken block by block, counted from a tensor's first element. A slice holds whole blocks, so that no sum
# depends on where slices end. 32 Ki float64 are 256 KiB: what the arithmetic needs at once stays in the cache.
BLOCK = 2**15


@dataclass(frozen=True, slots=True)
class Part:
    """Elements of one tensor: whole blocks, or the rest of it. `begin` is in bytes from the tensor's first."""

    tensor: Tensor
    begin: int
    elements: int


@dataclass(frozen=True, slots=True)
class Slice:
    """Bytes `begin` to `end` of a model, counted from the end of its header, and the parts that they are."""

    begin: int
    end: int
    parts: tuple[Part, ...]

    @property
    def elements(self) -> int:
        return sum(part.elements for part in self.parts)


def slices(tensors: tuple[Tensor, ...], slice_size: int) -> Iterator[Slice]:
    """All bytes of the tensors, in order; a slice has at most `slice_size` bytes, or a single block."""
    begin = end = 0
    parts: list[Part] = []
    for tensor in tensors:
        width = WIDTHS[tensor.dtype]
        left = (tensor.end - tensor.begin) // width
        while left:
            room = max(slice_size - (end - begin), 0) // width
            fitting = left if left <= room else room // BLOCK * BLOCK
            if not fitting and parts:
                yield Slice(begin, end, tuple(parts))
                begin, parts = end, []
                continue
            elements = fitting or min(left, BLOCK)
            parts.append(Part(tensor, end - tensor.begin, elements))
            end += elements * width
            left -= elements
    if parts:
        yield Slice(begin, end, tuple(parts))
