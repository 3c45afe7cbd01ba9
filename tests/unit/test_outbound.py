import json
import math
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.runtime.store.content import ContentChangedError
from wardround.runtime.store.memory import MemoryStore
from wardround.site_agent.outbound import (
    SLICE,
    Figures,
    HeldBackError,
    all_finite,
    check_update,
    failure_of,
    figures,
    plain,
)
from wardround.site_agent.policy import Leave
from wardround_messages.base import digest
from wardround_messages.names import Task
from wardround_messages.parts import Failure, Measured, Trainer
from wardround_messages.task_folder import TaskResult

FORMATS = {"F64": "d", "F32": "f", "F16": "e"}


def tensors(dtype: str, data: bytes, width: int) -> bytes:
    header = {"layer.weight": {"dtype": dtype, "shape": [len(data) // width], "data_offsets": [0, len(data)]}}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(("dtype", "as_float"), [("F32", "f"), ("F64", "d")])
@given(data=st.data())
def test_floats_are_finite_as_python_tells_it(dtype: str, as_float: str, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.floats(width=32), max_size=6))
    packed = struct.pack(f"<{len(values)}{as_float}", *values)
    assert all_finite(packed, dtype) == all(map(math.isfinite, values))


def test_every_half_float_is_told_rightly() -> None:
    for bits in range(2**16):
        packed = bits.to_bytes(2, "little")
        assert all_finite(packed, "F16") == math.isfinite(struct.unpack("<e", packed)[0])
        # A bfloat16 is the upper half of a float32.
        assert all_finite(packed, "BF16") == math.isfinite(struct.unpack("<f", b"\0\0" + packed)[0])


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_value_that_is_not_finite_keeps_the_update_back_and_names_the_tensor(
    tmp_path: Path, dtype: str, value: float
) -> None:
    width = struct.calcsize(FORMATS[dtype])
    data = bytearray(SLICE + 8 * width)  # the value stands in the second slice
    data[-width:] = struct.pack(f"<{FORMATS[dtype]}", value)
    (tmp_path / "update").write_bytes(tensors(dtype, bytes(data), width))
    with pytest.raises(HeldBackError, match=r"not_finite: layer\.weight"):
        check_update(tmp_path / "update", at_most=2**30)


def test_the_largest_floats_are_finite(tmp_path: Path) -> None:
    data = struct.pack("<3f", 3.4028234e38, -3.4028234e38, 1e-45)
    file = tensors("F32", data, 4)
    (tmp_path / "update").write_bytes(file)
    checked = check_update(tmp_path / "update", at_most=len(file))
    assert (checked.size, checked.sha256) == (len(file), digest(file))


def test_integers_are_not_looked_at_as_floats(tmp_path: Path) -> None:
    (tmp_path / "update").write_bytes(tensors("I32", b"\xff\xff\xff\x7f", 4))
    assert check_update(tmp_path / "update", at_most=1000).size > 0


def test_an_update_too_large_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "update").write_bytes(b"x" * 101)
    with pytest.raises(HeldBackError, match="update_too_large"):
        check_update(tmp_path / "update", at_most=100)


def test_a_missing_update_or_a_link_in_its_place_is_no_update(tmp_path: Path) -> None:
    with pytest.raises(HeldBackError, match="no_update"):
        check_update(tmp_path / "update", at_most=100)
    (tmp_path / "patients").write_bytes(tensors("F32", bytes(4), 4))
    (tmp_path / "update").symlink_to(tmp_path / "patients")
    with pytest.raises(HeldBackError, match="no_update"):
        check_update(tmp_path / "update", at_most=100)


async def test_what_takes_the_updates_place_after_the_check_does_not_leave(tmp_path: Path) -> None:
    store, update, patients = MemoryStore(), tmp_path / "update.safetensors", tmp_path / "patients.csv"
    await store.make_bucket("wr-glioma-1")
    update.write_bytes(tensors("F32", bytes(2_400_000), 4))
    patients.write_bytes(b"name;born\n" * 240_000)
    checked = check_update(update, at_most=2**30)
    update.unlink()
    update.symlink_to(patients)
    with pytest.raises(ContentChangedError):
        await store.put("wr-glioma-1", "updates/r000001/clinic-1/0123456789abcdef.safetensors", checked.content)
    assert await store.list("wr-glioma-1") == ()


@pytest.mark.parametrize("size", [SLICE // 2, 2_400_000])
async def test_what_was_checked_leaves_as_it_is(tmp_path: Path, size: int) -> None:
    store, update = MemoryStore(), tmp_path / "update.safetensors"
    await store.make_bucket("wr-glioma-1")
    update.write_bytes(tensors("F32", bytes(size), 4))
    key = "updates/r000001/clinic-1/0123456789abcdef.safetensors"
    checked = check_update(update, at_most=2**30)
    await store.put("wr-glioma-1", key, checked.content)
    left = await store.read("wr-glioma-1", key)
    assert left == update.read_bytes()
    assert (checked.size, checked.sha256) == (len(left), digest(left))


def test_codes_leave_and_words_stay() -> None:
    failure = Failure(phase="train", code="trainer_error", hint="see /data/patient-7")
    assert failure_of(failure, "patient-7", Leave()) == Failure(phase="train", code="trainer_error")


def test_words_leave_plain_where_the_policy_lets_them() -> None:
    failure = Failure(phase="train", code="trainer_error")
    said = failure_of(failure, "Traceback:\n\tline\x1b[31m 1" + "x" * 500, Leave(errors="text"))
    assert said.hint.startswith("Traceback: line [31m 1")
    assert len(said.hint) == 400


def test_text_is_made_plain() -> None:
    assert plain("a\u202eb\u2028c\x00d  e") == "a b c d e"


RESULT = TaskResult(
    trainer=Trainer(name="adding", version="1", code_sha256="a" * 64),
    cases=14,
    received=Measured(cases=12, values={"loss": 0.5, "age": 61.0}),
    trained={"loss": 0.25, "dice/mean": 0.7, "weight": 3.0},
    steps=40,
    seconds={"data": 14.0},
)
LEAVE = Leave(metrics=("loss", "dice/*"))


def test_only_metrics_that_the_policy_names_leave() -> None:
    numbers = figures(RESULT, task=Task.TRAIN, leave=LEAVE, counts_leave=True)
    assert numbers.trained == {"loss": 0.25, "dice/mean": 0.7}
    assert numbers.received == Measured(cases=12, values={"loss": 0.5})
    assert (numbers.cases, numbers.kept_back) == (14, 2)


def test_counts_stay_where_sites_weigh_equally() -> None:
    numbers = figures(RESULT, task=Task.TRAIN, leave=LEAVE, counts_leave=False)
    assert numbers.cases is None
    assert numbers.received is not None
    assert numbers.received.cases is None


def test_of_a_check_no_number_leaves() -> None:
    numbers = figures(RESULT, task=Task.CHECK, leave=LEAVE, counts_leave=True)
    assert numbers == Figures(None, None, {}, 0, {}, 0)
