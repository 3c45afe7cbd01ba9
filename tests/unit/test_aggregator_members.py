"""Members that cannot be merged are left out, each with the reason; the round goes on where the quorum allows."""

import io
import json
import pickle
import zipfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save
from step_in_store import BUCKET, StepInStore, model
from structlog.testing import capture_logs

from wardround.aggregator.handlers import Aggregation
from wardround.runtime.bus.port import DeadLetterError
from wardround.runtime.store.memory import MemoryStore
from wardround.runtime.store.port import ObjectStore
from wardround_messages.names import UpdateKey
from wardround_messages.objects import Result
from wardround_messages.parts import ObjectRef

BASE = model(w=[0.0, 0.0], flag=np.array([False]), count=np.array([1]))
SOUND = {"clinic-1": model(w=[1.0, 2.0], flag=np.array([True]), count=np.array([2]))}


def raw(header: str | bytes, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header.encode() if isinstance(header, str) else header
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("w.npy", b"0" * 100)
    return file.getvalue()


def bad_truth() -> bytes:
    good = model(w=[1.0, 2.0], flag=np.array([True]), count=np.array([2]))
    return good[:-1] + b"\x07"


FINE = {"w": np.array([1.0, 2.0], np.float32), "flag": np.array([True]), "count": np.array([2])}

BAD_UPDATES: dict[str, tuple[bytes, str, str]] = {
    "zero bytes": (b"", "not_safetensors", "0 bytes"),
    "seven bytes": (b"\x00" * 7, "not_safetensors", "7 bytes"),
    "cut off": (save(FINE)[:-5], "layout", "end at byte"),
    "header beyond the file": (raw("{}", length=10**6), "not_safetensors", "beyond the file"),
    "header of 2^63 bytes": (raw("{}", length=2**63), "not_safetensors", "beyond the file"),
    "header over 1 MiB": (raw(b"{" + b" " * 2**20 + b"}"), "header_too_large", "1048578"),
    "pickle": (pickle.dumps(FINE), "not_safetensors", ""),
    "zip": (zipped(), "not_safetensors", ""),
    "nested too deeply": (raw('{"w":' + "[" * 100_000 + "]" * 100_000 + "}"), "not_safetensors", ""),
    "overlapping": (
        raw(json.dumps({"w": entry("F32", [2], 0, 8), "v": entry("F32", [2], 4, 12)}), bytes(12)),
        "layout",
        "v",
    ),
    "holed": (
        raw(json.dumps({"w": entry("F32", [2], 0, 8), "v": entry("F32", [1], 12, 16)}), bytes(16)),
        "layout",
        "v",
    ),
    "trailing": (save(FINE) + b"more", "layout", "end at byte"),
    "tensor missing": (save({"w": FINE["w"], "flag": FINE["flag"]}), "layout", "tensor count is missing"),
    "tensor extra": (save(FINE | {"x": FINE["w"]}), "layout", "tensor x is one too many"),
    "tensor renamed": (save({("W" if n == "w" else n): v for n, v in FINE.items()}), "layout", "tensor W"),
    "other shape": (save(FINE | {"w": FINE["w"].reshape(2, 1)}), "layout", "tensor w is F32[2, 1]"),
    "other type": (save(FINE | {"w": FINE["w"].astype(np.float64)}), "layout", "tensor w is F64[2]"),
    "optimizer state unasked": (save(FINE | {"optimizer.m": FINE["w"]}), "layout", "optimizer.m is one too many"),
    "NaN": (save(FINE | {"w": np.array([1.0, np.nan], np.float32)}), "nonfinite", "tensor w"),
    "infinity": (save(FINE | {"w": np.array([-np.inf, 1.0], np.float32)}), "nonfinite", "tensor w"),
    "neither true nor false": (bad_truth(), "not_boolean", "tensor flag"),
    "named as a path": (save(FINE | {"../x": FINE["w"]}), "tensor_name", "'../x'"),
    "named with NUL": (save(FINE | {"a\0b": FINE["w"]}), "tensor_name", r"\x00"),
    "named with 10 kB": (save(FINE | {"n" * 10_000: FINE["w"]}), "tensor_name", "nnn"),
    "unknown type": (raw(json.dumps({"w": entry("F8_E5M2", [1], 0, 1)}), b"0"), "dtype", "w"),
    "shape beyond all bounds": (raw(json.dumps({"w": entry("F32", [2**53] * 32, 0, 4)}), bytes(4)), "layout", "w"),
}


async def aggregate(step: StepInStore, workdir: Path) -> Result:
    command = await step.write()
    await Aggregation(step.store, workdir=workdir, slice_size=2**20).aggregate(command)
    return await step.result(command)


def why(result: Result) -> dict[str, str]:
    return {one.site: one.code for one in result.left_out}


@pytest.mark.parametrize(("update", "code", "detail"), BAD_UPDATES.values(), ids=BAD_UPDATES.keys())
async def test_a_bad_update_is_left_out_and_the_others_are_merged_as_without_it(
    update: bytes, code: str, detail: str, tmp_path: Path
) -> None:
    with_bad = StepInStore(MemoryStore(), SOUND | {"clinic-2": update}, base=BASE)
    without = StepInStore(MemoryStore(), SOUND, base=BASE)

    result, alone = await aggregate(with_bad, tmp_path), await aggregate(without, tmp_path)

    assert why(result) == {"clinic-2": code}
    assert detail in result.left_out[0].detail
    assert (result.model, result.used, result.norms) == (alone.model, alone.used, alone.norms)
    assert list(tmp_path.iterdir()) == []


async def test_a_bad_first_model_is_not_adopted(tmp_path: Path) -> None:
    step = StepInStore(MemoryStore(), {"clinic-1": model(w=[float("nan")])}, round=0)

    result = await aggregate(step, tmp_path)

    assert (result.model, result.used, why(result)) == (None, (), {"clinic-1": "nonfinite"})


async def test_of_two_first_models_the_first_sound_one_is_adopted(tmp_path: Path) -> None:
    step = StepInStore(MemoryStore(), {"clinic-1": model(w=[float("nan")]), "clinic-2": model(w=[7.0])}, round=0)

    result = await aggregate(step, tmp_path)

    assert (await step.model(result), why(result)) == (step.updates["clinic-2"], {"clinic-1": "nonfinite"})


async def test_too_few_sound_members_yield_no_model(tmp_path: Path) -> None:
    bad = model(w=[float("inf"), 0.0], flag=np.array([True]), count=np.array([2]))
    step = StepInStore(MemoryStore(), SOUND | {"clinic-2": bad}, base=BASE, quorum=2)

    result = await aggregate(step, tmp_path)

    assert (result.model, result.used, why(result)) == (None, (), {"clinic-2": "nonfinite"})
    assert [info.key for info in await step.store.list(BUCKET, "global/r000001/")] == []


async def test_every_bad_member_of_a_pass_is_named(tmp_path: Path) -> None:
    nan = model(w=[float("nan"), 0.0], flag=np.array([True]), count=np.array([2]))
    step = StepInStore(MemoryStore(), SOUND | {"clinic-3": nan, "clinic-2": nan, "clinic-4": b"PK"}, base=BASE)

    result = await aggregate(step, tmp_path)

    assert why(result) == {"clinic-2": "nonfinite", "clinic-3": "nonfinite", "clinic-4": "not_safetensors"}
    assert result.used == ("clinic-1",)


Tamper = Callable[[ObjectStore, ObjectRef], Awaitable[None]]


async def flip(store: ObjectStore, ref: ObjectRef) -> None:
    data = bytearray(await store.read(BUCKET, ref.key))
    data[-9] ^= 1
    await store.put(BUCKET, ref.key, bytes(data))


async def lengthen(store: ObjectStore, ref: ObjectRef) -> None:
    await store.put(BUCKET, ref.key, await store.read(BUCKET, ref.key) + b" ")


async def remove(store: ObjectStore, ref: ObjectRef) -> None:
    await store.delete(BUCKET, ref.key)


@pytest.mark.parametrize(("tamper", "code"), [(flip, "digest"), (lengthen, "size"), (remove, "missing")])
async def test_another_object_than_announced_is_left_out_and_reported_as_a_security_event(
    tamper: Tamper, code: str, tmp_path: Path
) -> None:
    step = StepInStore(MemoryStore(), SOUND | {"clinic-2": SOUND["clinic-1"]}, base=BASE)
    command = await step.write()
    await tamper(step.store, step.ref("clinic-2"))

    with capture_logs() as logs:
        await Aggregation(step.store, workdir=tmp_path, slice_size=2**20).aggregate(command)

    result = await step.result(command)
    assert (result.used, why(result)) == (("clinic-1",), {"clinic-2": code})
    assert [log["event_kind"] for log in logs if log["event"] == "security"] == [f"update_{code}"]


async def test_a_flipped_bit_is_found_in_a_file_of_another_order_too(tmp_path: Path) -> None:
    shuffled = raw(
        json.dumps({"z": entry("F32", [1], 0, 4), "a": entry("F32", [40], 4, 164)}), np.ones(41, np.float32).tobytes()
    )
    step = StepInStore(MemoryStore(), {"clinic-1": shuffled}, base=model(z=[0.0], a=[0.0] * 40))
    command = await step.write()
    await flip(step.store, step.ref("clinic-1"))

    await Aggregation(step.store, workdir=tmp_path, slice_size=2**20).aggregate(command)

    assert why(await step.result(command)) == {"clinic-1": "digest"}
    assert list(tmp_path.iterdir()) == []


class Fleeting(MemoryStore):
    """An object whose key holds `victim` is tampered with as soon as its header has been read."""

    def __init__(self, victim: str, tamper: Tamper) -> None:
        super().__init__()
        self._victim = victim
        self._tamper: Tamper | None = tamper

    async def read(self, bucket: str, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        data = await super().read(bucket, key, offset=offset, length=length)
        if self._victim in key and self._tamper is not None:
            tamper, self._tamper = self._tamper, None
            await tamper(self, ObjectRef(key=key, size=0, sha256=key.split("/")[-1][:16].ljust(64, "0")))
        return data


async def shorten(store: ObjectStore, ref: ObjectRef) -> None:
    await store.put(BUCKET, ref.key, (await store.read(BUCKET, ref.key))[:-1])


IN_ANOTHER_ORDER = raw(
    json.dumps({"flag": entry("BOOL", [1], 0, 1), "w": entry("F32", [2], 1, 9), "count": entry("I64", [1], 9, 17)}),
    b"\x01" + np.array([1.0, 2.0], np.float32).tobytes() + np.array([2]).tobytes(),
)


@pytest.mark.parametrize("update", [SOUND["clinic-1"], IN_ANOTHER_ORDER], ids=["usual order", "another order"])
@pytest.mark.parametrize("tamper", [flip, shorten, remove])
async def test_an_object_that_changes_after_its_header_was_read_is_left_out(
    tamper: Tamper, update: bytes, tmp_path: Path
) -> None:
    step = StepInStore(Fleeting("clinic-2", tamper), SOUND | {"clinic-2": update}, base=BASE)

    result = await aggregate(step, tmp_path)

    assert result.used == ("clinic-1",)
    assert why(result)["clinic-2"] in {"digest", "size", "missing"}


async def test_a_model_built_on_that_vanishes_is_a_dead_letter(tmp_path: Path) -> None:
    step = StepInStore(Fleeting("global/r000000", remove), SOUND, base=BASE)
    command = await step.write()

    with pytest.raises(DeadLetterError, match="built_on"):
        await Aggregation(step.store, workdir=tmp_path, slice_size=1).aggregate(command)
    assert list(tmp_path.iterdir()) == []


async def test_an_update_of_another_round_or_site_never_enters(tmp_path: Path) -> None:
    step = StepInStore(MemoryStore(), SOUND | {"clinic-2": SOUND["clinic-1"], "clinic-3": SOUND["clinic-1"]}, base=BASE)
    ref = step.ref("clinic-1")
    step.announced = {
        "clinic-2": ref,
        "clinic-3": ref.model_copy(update={"key": str(UpdateKey(7, "clinic-3", ref.sha256[:16]))}),
    }

    result = await aggregate(step, tmp_path)

    assert (result.used, why(result)) == (("clinic-1",), {"clinic-2": "unexpected", "clinic-3": "unexpected"})


async def test_a_site_outside_the_cohort_never_enters(tmp_path: Path) -> None:
    step = StepInStore(MemoryStore(), SOUND | {"clinic-9": SOUND["clinic-1"]}, base=BASE)

    assert why(await aggregate(step, tmp_path)) == {"clinic-9": "unexpected"}


@pytest.mark.parametrize("cases", [None, 0])
async def test_an_update_that_counts_no_cases_has_no_weight_and_is_left_out(cases: int | None, tmp_path: Path) -> None:
    step = StepInStore(
        MemoryStore(), SOUND | {"clinic-2": SOUND["clinic-1"]}, base=BASE, cases={"clinic-1": 3, "clinic-2": cases}
    )

    assert why(await aggregate(step, tmp_path)) == {"clinic-2": "no_cases"}


async def test_a_change_beyond_the_norm_bound_is_left_out(tmp_path: Path) -> None:
    updates = {"clinic-1": model(w=[3.0, 4.0]), "clinic-2": model(w=[1e30, 0.0]), "clinic-3": model(w=[3.0, 4.1])}
    step = StepInStore(MemoryStore(), updates, base=model(w=[0.0, 0.0]), norm_at_most=5.0)

    result = await aggregate(step, tmp_path)

    assert (result.used, why(result)) == (("clinic-1",), {"clinic-2": "norm", "clinic-3": "norm"})
    assert load(await step.model(result))["w"].tolist() == [3.0, 4.0]


async def test_huge_optimizer_state_does_not_slip_past_the_norm_bound(tmp_path: Path) -> None:
    updates = {f"clinic-{n}": model(w=[1.0], optimizer__m=[value]) for n, value in ((1, 1.0), (2, 1e30))}
    step = StepInStore(MemoryStore(), updates, base=model(w=[0.0]), norm_at_most=5.0, optimizer_state="average")

    assert why(await aggregate(step, tmp_path)) == {"clinic-2": "norm"}


async def test_optimizer_state_must_be_that_of_most_members(tmp_path: Path) -> None:
    updates = {
        "clinic-1": model(w=[1.0]),
        "clinic-2": model(w=[2.0], optimizer__m=[1.0]),
        "clinic-3": model(w=[4.0], optimizer__m=[3.0]),
        "clinic-4": b"",
    }
    step = StepInStore(MemoryStore(), updates, base=model(w=[0.0]), optimizer_state="average")

    result = await aggregate(step, tmp_path)

    assert why(result) == {"clinic-1": "layout", "clinic-4": "not_safetensors"}
    assert {name: value.tolist() for name, value in load(await step.model(result)).items()} == {
        "optimizer.m": [2.0],
        "w": [3.0],
    }


async def test_with_optimizer_state_to_average_and_no_readable_update_there_is_no_model(tmp_path: Path) -> None:
    step = StepInStore(MemoryStore(), {"clinic-1": b""}, base=model(w=[0.0]), optimizer_state="average")

    result = await aggregate(step, tmp_path)

    assert (result.model, why(result)) == (None, {"clinic-1": "not_safetensors"})
