"""A strict look at the header of a safetensors file: nothing is allocated, opened or believed before it was checked.

Format: https://github.com/huggingface/safetensors#format. Eight bytes with the header's length (little endian), the
header as JSON, then the tensors' bytes without holes. Stricter than the library: header at most 1 MiB, plain names,
the offsets in the header must cover the file to its last byte.
"""

import json
import math
import re
from dataclasses import dataclass
from typing import Any

HEADER_AT_MOST = 2**20
LENGTH_BYTES = 8
NAME_AT_MOST = 256

WIDTHS = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U64": 8,
    "U32": 4,
    "U16": 2,
    "U8": 1,
    "BOOL": 1,
}
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})

# Names are shown to people and compared, never used as paths; what looks like one is refused all the same.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./:@-]*", re.ASCII)


class BadTensorsError(ValueError):
    """Bytes that are no safetensors file we read. `code` is one of a fixed set, `detail` is safe to show."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor's place: bytes `begin` to `end` of the file, `shape` in row-major order."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def header_end(first: bytes, size: int) -> int:
    """Where the header ends and the tensors begin in a file of `size` bytes, told from its first eight bytes.

    Raises:
        BadTensorsError: `not_safetensors` or `header_too_large`.
    """
    if size < LENGTH_BYTES + 2 or len(first) < LENGTH_BYTES:
        raise BadTensorsError("not_safetensors", f"{size} bytes are too few for a safetensors file")
    length = int.from_bytes(first[:LENGTH_BYTES], "little")
    if length > size - LENGTH_BYTES:
        raise BadTensorsError("not_safetensors", "the header would end beyond the file")
    if length > HEADER_AT_MOST:
        raise BadTensorsError("header_too_large", f"the header has {length} bytes, {HEADER_AT_MOST} are allowed")
    return LENGTH_BYTES + length


def read_header(head: bytes, size: int) -> tuple[Tensor, ...]:
    """The tensors of a file of `size` bytes in the order of their bytes; `head` is the file up to `header_end`.

    Raises:
        BadTensorsError: `not_safetensors`, `header_too_large`, `tensor_name`, `dtype`, `shape` or `layout`.
    """
    end = header_end(head, size)
    if len(head) < end:
        raise BadTensorsError("not_safetensors", "the header is cut off")
    tensors = sorted(
        (_tensor(name, entry, start=end) for name, entry in _entries(head[LENGTH_BYTES:end])),
        key=lambda tensor: (tensor.begin, tensor.end, tensor.name),
    )
    reached = end
    for tensor in tensors:
        if tensor.begin != reached:
            raise BadTensorsError("layout", f"the bytes of {tensor.name} do not follow those before it")
        reached = tensor.end
    if reached != size:
        raise BadTensorsError("layout", f"the tensors end at byte {reached} of {size}")
    return tuple(tensors)


def _entries(text: bytes) -> list[tuple[str, Any]]:
    if not text.startswith(b"{"):
        raise BadTensorsError("not_safetensors", "the header is not a JSON object")
    try:
        header = json.loads(text.decode(), object_pairs_hook=_no_key_twice)
    except (ValueError, RecursionError) as error:
        if isinstance(error, BadTensorsError):
            raise
        raise BadTensorsError("not_safetensors", "the header is not JSON") from None
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise BadTensorsError("not_safetensors", "__metadata__ is not text")
    return list(header.items())


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BadTensorsError("layout", "a name stands twice in the header")
    return found


def _tensor(name: str, entry: Any, *, start: int) -> Tensor:
    if len(name) > NAME_AT_MOST or ".." in name or _NAME.fullmatch(name) is None:
        raise BadTensorsError("tensor_name", f"a tensor's name is not plain: {name[:60]!a}")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise BadTensorsError("not_safetensors", f"{name} needs dtype, shape and data_offsets, nothing else")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in WIDTHS:
        raise BadTensorsError("dtype", f"{name} is of no type that is read here")
    if not _counts(shape) or len(shape) > 32:
        raise BadTensorsError("shape", f"the shape of {name} is not a list of counts")
    if not _counts(offsets) or len(offsets) != 2:
        raise BadTensorsError("layout", f"data_offsets of {name} are not two counts")
    begin, end = offsets
    if end - begin != math.prod(shape) * WIDTHS[dtype]:
        raise BadTensorsError("layout", f"{name} has another number of bytes than its shape and type say")
    return Tensor(name, dtype, tuple(shape), start + begin, start + end)


def _counts(value: Any) -> bool:
    # 2^53 bounds what the product of a shape can grow to.
    return isinstance(value, list) and all(type(item) is int and 0 <= item <= 2**53 for item in value)
