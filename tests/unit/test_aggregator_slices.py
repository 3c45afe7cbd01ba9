"""Layouts and slices: places of tensors, pieces of models."""

import json

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from wardround.aggregator.layout import in_canonical_order, layout_of, misfit, relative, signature
from wardround.aggregator.slices import BLOCK, slices
from wardround.runtime.safetensors_header import WIDTHS, Tensor, header_end, read_header

tensor_sets = st.lists(
    st.tuples(st.sampled_from(sorted(WIDTHS)), st.integers(0, 3 * BLOCK)), min_size=1, max_size=6
).map(
    lambda kinds: [
        Tensor(f"t{index}", dtype, (count,), 0, count * WIDTHS[dtype]) for index, (dtype, count) in enumerate(kinds)
    ]
)


@given(tensor_sets, st.integers(1, 2**21))
def test_slices_cover_every_byte_once_and_cut_tensors_at_blocks_only(tensors: list[Tensor], slice_size: int) -> None:
    layout = layout_of(tensors)
    reached = 0
    for piece in slices(layout.tensors, slice_size):
        assert piece.begin == reached
        assert piece.end - piece.begin <= max(slice_size, BLOCK * 8)
        for part in piece.parts:
            assert part.tensor.begin + part.begin == reached
            assert part.begin % (BLOCK * WIDTHS[part.tensor.dtype]) == 0
            reached += part.elements * WIDTHS[part.tensor.dtype]
        assert piece.end == reached
    assert reached == sum(tensor.end - tensor.begin for tensor in tensors)


@given(tensor_sets)
@example([Tensor("a", "BF16", (0,), 0, 0), Tensor("b", "F32", (0,), 0, 0), Tensor("c", "U8", (1,), 0, 1)])
def test_a_header_of_ours_reads_back_and_is_aligned(tensors: list[Tensor]) -> None:
    layout = layout_of(tensors)
    size = len(layout.header) + layout.tensors[-1].end

    assert len(layout.header) % 8 == 0
    assert header_end(layout.header, size) == len(layout.header)
    assert relative(read_header(layout.header, size), start=len(layout.header)) == layout.tensors


def test_our_header_is_that_of_the_safetensors_library() -> None:
    dtypes = ("u8", "i8", "f8", "f4", "u4", "i4", "f2", "u2", "i2", "i1", "u1", "?")
    theirs = save({f"{name}.{dtype.strip('?')}": np.ones(3, dtype) for name in "ba" for dtype in dtypes})
    end = header_end(theirs, len(theirs))

    ours = layout_of(reversed(read_header(theirs[:end], len(theirs)))).header

    assert json.loads(ours[8:]) == json.loads(theirs[8:end])
    assert list(json.loads(ours[8:])) == list(json.loads(theirs[8:end]))
    assert load(ours + theirs[end:]).keys() == load(theirs).keys()


def test_misfit_names_the_tensor() -> None:
    ours = [Tensor("a", "F32", (2,), 0, 8), Tensor("b", "I64", (), 8, 16)]

    assert misfit(ours[::-1], ours) is None
    assert misfit(ours[:1], ours) == "tensor b is missing"
    assert misfit(ours, ours[1:]) == "tensor a is one too many"
    assert misfit([Tensor("a", "F64", (2,), 0, 16), ours[1]], ours) == "tensor a is F64[2] and not F32[2]"
    assert misfit([Tensor("a", "F32", (2, 1), 0, 8), ours[1]], ours) == "tensor a is F32[2, 1] and not F32[2]"


def test_a_signature_tells_kinds_apart_and_not_places() -> None:
    tensors = [Tensor("a", "F32", (2,), 0, 8), Tensor("b", "F32", (2,), 8, 16)]

    assert signature(tensors) == signature(in_canonical_order(tensors[::-1]))
    assert signature(tensors) != signature(tensors[:1])
