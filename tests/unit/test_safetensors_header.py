import json
import struct
from typing import Any

import pytest

from wardround.runtime.safetensors_header import HEADER_AT_MOST, BadTensorsError, Tensor, header_end, read_header


def file_of(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(begin: int, end: int, *, dtype: str = "F32", shape: list[Any] | None = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [(end - begin) // 4] if shape is None else shape, "data_offsets": [begin, end]}


def read(file: bytes) -> tuple[Tensor, ...]:
    return read_header(file[: header_end(file[:8], len(file))], len(file))


def test_tensors_come_in_the_order_of_their_bytes_with_their_places_in_the_file() -> None:
    file = file_of({"b": entry(0, 8, shape=[2, 1]), "__metadata__": {"format": "np"}, "a": entry(8, 12)}, bytes(12))
    start = len(file) - 12
    assert read(file) == (
        Tensor("b", "F32", (2, 1), start, start + 8),
        Tensor("a", "F32", (1,), start + 8, start + 12),
    )


def test_scalars_and_empty_tensors_are_tensors() -> None:
    found = read(file_of({"n": entry(0, 0, shape=[0, 3]), "s": entry(0, 4, shape=[])}, bytes(4)))
    assert [(tensor.name, tensor.shape) for tensor in found] == [("n", (0, 3)), ("s", ())]


@pytest.mark.parametrize(
    ("file", "code"),
    [
        (b"", "not_safetensors"),
        (b"1234567", "not_safetensors"),
        (struct.pack("<Q", 2**63) + b"{}", "not_safetensors"),
        (struct.pack("<Q", 3) + b"{}", "not_safetensors"),
        (struct.pack("<Q", HEADER_AT_MOST + 1) + bytes(HEADER_AT_MOST + 1), "header_too_large"),
        (b"\x80\x04\x95\x10\x00\x00\x00\x00" + b"\x00" * 40, "not_safetensors"),
        (b"PK\x03\x04" + b"\x00" * 40, "not_safetensors"),
        (file_of(b"[1]"), "not_safetensors"),
        (file_of(b'{"a":'), "not_safetensors"),
        (file_of(b'{"a":' * 50_000), "not_safetensors"),
        (file_of(b'{"a":"\xff"}'), "not_safetensors"),
        (file_of(b'{"a":1,"a":1}'), "layout"),
        (file_of(b'{"a":' + b"9" * 5000 + b"}"), "not_safetensors"),
        (file_of({"a": 1}), "not_safetensors"),
        (file_of({"a": entry(0, 4) | {"more": 1}}, bytes(4)), "not_safetensors"),
        (file_of({"__metadata__": {"a": 1}}), "not_safetensors"),
        (file_of({"a": entry(0, 4)}, bytes(3)), "layout"),
        (file_of({"a": entry(0, 4)}, bytes(5)), "layout"),
        (file_of({"a": entry(4, 8)}, bytes(8)), "layout"),
        (file_of({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)), "layout"),
        (file_of({"a": entry(0, 4), "b": entry(8, 12)}, bytes(12)), "layout"),
        (file_of({"a": entry(0, 8, shape=[1])}, bytes(8)), "layout"),
        (file_of({"a": entry(4, 0, shape=[0])}, bytes(4)), "layout"),
        (file_of({"a": entry(0, 4) | {"data_offsets": [0]}}, bytes(4)), "layout"),
        (file_of({"a": entry(0, 4) | {"data_offsets": [0, 4.0]}}, bytes(4)), "layout"),
        (file_of({"a": entry(0, 4, shape=[True])}, bytes(4)), "shape"),
        (file_of({"a": entry(0, 4, shape=[-1])}, bytes(4)), "shape"),
        (file_of({"a": entry(0, 0, shape=[2**80])}), "shape"),
        (file_of({"a": entry(0, 0, shape=[0] * 33)}), "shape"),
        (file_of({"a": entry(0, 4, dtype="F33")}, bytes(4)), "dtype"),
        (file_of({"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}, bytes(4)), "dtype"),
        (file_of({"../x": entry(0, 4)}, bytes(4)), "tensor_name"),
        (file_of({"/x": entry(0, 4)}, bytes(4)), "tensor_name"),
        (file_of({"x\0": entry(0, 4)}, bytes(4)), "tensor_name"),
        (file_of({"x\n": entry(0, 4)}, bytes(4)), "tensor_name"),
        (file_of({"x" * 10_000: entry(0, 4)}, bytes(4)), "tensor_name"),
        (file_of({"": entry(0, 4)}, bytes(4)), "tensor_name"),
    ],
)
def test_what_is_not_in_order_is_refused_by_code(file: bytes, code: str) -> None:
    with pytest.raises(BadTensorsError) as refused:
        read(file)
    assert refused.value.code == code
    assert refused.value.detail.isprintable()


def test_a_header_that_was_not_read_whole_is_refused() -> None:
    file = file_of({"a": entry(0, 4)}, bytes(4))
    with pytest.raises(BadTensorsError, match="cut off"):
        read_header(file[:20], len(file))
