"""The merged model is the plain NumPy mean, bit by bit, for any order of arrival and any slice size."""

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save
from step_in_store import StepInStore, model

from wardround.aggregator.handlers import Aggregation
from wardround.aggregator.layout import layout_of
from wardround.aggregator.numbers import STORED_AS
from wardround.aggregator.slices import BLOCK
from wardround.runtime.safetensors_header import FLOATS, Tensor
from wardround.runtime.store.memory import MemoryStore
from wardround_messages.objects import Result
from wardround_messages.parts import LeftOut

SLICE = 2**20


async def aggregate(step: StepInStore, workdir: Path, slice_size: int = SLICE) -> Result:
    command = await step.write()
    await Aggregation(step.store, workdir=workdir, slice_size=slice_size).aggregate(command)
    return await step.result(command)


# --- against plain NumPy -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """Tensors by name (type and number of elements), cases of each site, a seed for the values."""

    tensors: tuple[tuple[str, int], ...]
    cases: tuple[int, ...]
    weight: str
    seed: int

    def file(self, site: int) -> bytes:
        """The model of a site, or with -1 the one built on; written by hand, for NumPy has no bfloat16."""
        arrays = self.arrays(site)
        layout = layout_of(
            Tensor(name, dtype, (count,), 0, arrays[name].nbytes)
            for name, (dtype, count) in zip(arrays, self.tensors, strict=True)
        )
        return layout.header + b"".join(arrays[tensor.name].tobytes() for tensor in layout.tensors)

    def arrays(self, site: int) -> dict[str, np.ndarray]:
        generator = np.random.default_rng([self.seed, site + 1])
        return {f"t{index}": _random(generator, dtype, count) for index, (dtype, count) in enumerate(self.tensors)}

    def expected(self) -> dict[str, np.ndarray]:
        members = [self.arrays(site) for site in range(len(self.cases))]
        weights = self.cases if self.weight == "cases" else [1] * len(self.cases)
        found = {}
        for name, (dtype, count) in zip(members[0], self.tensors, strict=True):
            values = [member[name] for member in members]
            if dtype not in FLOATS:
                found[name] = np.max(values, axis=0)
                continue
            mean = np.zeros(count)
            for weight, value in zip(weights, values, strict=True):
                mean = mean + weight / sum(weights) * _double(value, dtype)
            found[name] = _single(mean, dtype)
        return found


def _random(generator: np.random.Generator, dtype: str, count: int) -> np.ndarray:
    if dtype == "BF16":
        return (generator.standard_normal(count, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    if dtype in FLOATS:
        return generator.standard_normal(count).astype(STORED_AS[dtype])
    if dtype == "BOOL":
        return generator.integers(0, 2, count).astype(np.uint8)
    kind = STORED_AS[dtype]
    return generator.integers(np.iinfo(kind).min, np.iinfo(kind).max, count, dtype=kind, endpoint=True)


def _double(values: np.ndarray, dtype: str) -> np.ndarray:
    return (values.astype(np.uint32) << 16).view(np.float32).astype(float) if dtype == "BF16" else values.astype(float)


def _single(values: np.ndarray, dtype: str) -> np.ndarray:
    """Rounded once; for bfloat16 by the bits of float64, of which it keeps seven (no value here is subnormal)."""
    if dtype != "BF16":
        return values.astype(STORED_AS[dtype])
    bits = values.view(np.uint64)
    kept = (bits + np.uint64((1 << 44) - 1) + (bits >> np.uint64(45) & np.uint64(1))) >> np.uint64(45) << np.uint64(45)
    return (kept.view(np.float64).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


cases = st.builds(
    Case,
    st.lists(
        st.tuples(
            st.sampled_from(sorted(STORED_AS)),
            st.one_of(st.integers(0, 50), st.integers(BLOCK - 1, BLOCK + 1), st.integers(2 * BLOCK, 4 * BLOCK)),
        ),
        min_size=1,
        max_size=4,
    ).map(tuple),
    st.lists(st.integers(1, 10_000), min_size=1, max_size=4).map(tuple),
    st.sampled_from(["cases", "equal"]),
    st.integers(0, 2**32),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases, st.permutations(range(4)), st.integers(1, 2**21), st.integers(1, 2**21))
def test_merge_is_the_numpy_mean_for_any_order_of_arrival_and_any_slice_size(
    case: Case, order: list[int], first_size: int, second_size: int
) -> None:
    arrived = [site for site in order if site < len(case.cases)]

    def aggregated(sites: list[int], slice_size: int) -> tuple[Result, bytes]:
        step = StepInStore(
            MemoryStore(),
            {f"clinic-{site + 1}": case.file(site) for site in sites},
            base=case.file(-1),
            cases={f"clinic-{site + 1}": case.cases[site] for site in sites},
            weight=case.weight,
        )

        async def both() -> tuple[Result, bytes]:
            with tempfile.TemporaryDirectory() as workdir:
                result = await aggregate(step, Path(workdir), slice_size)
            return result, await step.model(result)

        return asyncio.run(both())

    result, merged = aggregated(arrived, first_size)
    again, same = aggregated(sorted(arrived), second_size)

    assert merged == same
    assert (result.norms, result.drift) == (again.norms, again.drift)
    expected = case.expected()
    layout = layout_of(
        Tensor(name, dtype, (count,), 0, expected[name].nbytes)
        for name, (dtype, count) in zip(expected, case.tensors, strict=True)
    )
    assert merged == layout.header + b"".join(expected[tensor.name].tobytes() for tensor in layout.tensors)


# --- one thing at a time -----------------------------------------------------------------------------------------


async def test_updates_are_weighed_by_their_cases(tmp_path: Path) -> None:
    step = StepInStore(
        MemoryStore(),
        {"clinic-1": model(w=[1.0, 0.0]), "clinic-2": model(w=[5.0, 4.0])},
        base=model(w=[0.0, 0.0]),
        cases={"clinic-1": 30, "clinic-2": 10},
    )

    result = await aggregate(step, tmp_path)

    assert load(await step.model(result))["w"].tolist() == [2.0, 1.0]
    assert result.used == ("clinic-1", "clinic-2")
    assert (result.left_out, result.warnings) == ((), ())


async def test_no_cases_are_needed_where_sites_weigh_equally(tmp_path: Path) -> None:
    step = StepInStore(
        MemoryStore(),
        {"clinic-1": model(w=[1.0]), "clinic-2": model(w=[5.0])},
        base=model(w=[0.0]),
        cases={"clinic-1": None, "clinic-2": None},
        weight="equal",
    )

    assert load(await step.model(await aggregate(step, tmp_path)))["w"].tolist() == [3.0]


async def test_norms_are_those_of_the_change_and_drift_tells_whether_sites_pull_one_way(tmp_path: Path) -> None:
    base = {"w": np.array([1.0, 1.0], np.float32), "seen": np.array([5])}
    apart = StepInStore(
        MemoryStore(),
        {
            "clinic-1": model(w=[4.0, 5.0], seen=np.array([900])),
            "clinic-2": model(w=[-2.0, -3.0], seen=np.array([5])),
        },
        base=save(base),
    )
    together = StepInStore(
        MemoryStore(), {site: model(w=[4.0, 5.0], seen=np.array([5])) for site in apart.updates}, base=save(base)
    )

    one, other = await aggregate(apart, tmp_path), await aggregate(together, tmp_path)

    assert one.norms == other.norms == {"clinic-1": 5.0, "clinic-2": 5.0}
    assert (one.drift, other.drift) == (0.0, 1.0)


async def test_drift_is_null_where_nothing_changed(tmp_path: Path) -> None:
    step = StepInStore(MemoryStore(), {"clinic-1": model(w=[1.0])}, base=model(w=[1.0]))

    result = await aggregate(step, tmp_path)

    assert (result.norms, result.drift) == ({"clinic-1": 0.0}, None)


async def test_initialise_takes_the_update_as_it_is(tmp_path: Path) -> None:
    update = save({"z": np.array([0.1], np.float32), "a": np.array([True])}, metadata={"format": "np"})
    step = StepInStore(MemoryStore(), {"clinic-2": update}, round=0)

    result = await aggregate(step, tmp_path)

    assert await step.model(result) == update
    assert (result.used, result.norms, result.drift) == (("clinic-2",), {}, None)


async def test_optimizer_state_is_averaged_too_and_is_no_part_of_the_norm(tmp_path: Path) -> None:
    step = StepInStore(
        MemoryStore(),
        {
            "clinic-1": model(w=[3.0], optimizer__step=[100.0]),
            "clinic-2": model(w=[5.0], optimizer__step=[200.0]),
        },
        base=model(w=[0.0]),
        optimizer_state="average",
    )

    result = await aggregate(step, tmp_path)

    assert {name: value.tolist() for name, value in load(await step.model(result)).items()} == {
        "optimizer.step": [150.0],
        "w": [4.0],
    }
    assert result.norms == {"clinic-1": 3.0, "clinic-2": 5.0}


async def test_optimizer_state_of_a_forked_model_is_dropped_where_it_is_not_averaged(tmp_path: Path) -> None:
    step = StepInStore(MemoryStore(), {"clinic-1": model(w=[3.0])}, base=model(w=[0.0], optimizer__step=[100.0]))

    result = await aggregate(step, tmp_path)

    assert load(await step.model(result)).keys() == {"w"}
    assert result.norms == {"clinic-1": 3.0}


def in_insertion_order(**tensors: list[float]) -> bytes:
    """A file that another writer made: valid, with metadata, and in an order of its own."""
    entries, data = [], b""
    for name, values in tensors.items():
        raw = np.array(values, np.float32).tobytes()
        entries.append(
            f'"{name}":{{"dtype":"F32","shape":[{len(values)}],"data_offsets":[{len(data)},{len(data) + len(raw)}]}}'
        )
        data += raw
    header = f'{{"__metadata__":{{"by":"hand"}},{",".join(entries)}}}'.encode()
    return len(header).to_bytes(8, "little") + header + data


async def test_files_of_another_writer_are_merged_whatever_their_order(tmp_path: Path) -> None:
    step = StepInStore(
        MemoryStore(),
        {"clinic-1": in_insertion_order(z=[1.0, 2.0], a=[3.0]), "clinic-2": model(z=[3.0, 4.0], a=[5.0])},
        base=in_insertion_order(z=[0.0, 0.0], a=[0.0]),
    )

    result = await aggregate(step, tmp_path)

    merged = load(await step.model(result))
    assert {name: value.tolist() for name, value in merged.items()} == {"a": [4.0], "z": [2.0, 3.0]}
    assert result.norms == pytest.approx({"clinic-1": 14**0.5, "clinic-2": 50**0.5})


async def test_zeros_and_an_unchanged_model_count_with_a_warning(tmp_path: Path) -> None:
    step = StepInStore(
        MemoryStore(),
        {"clinic-1": model(w=[0.0, 0.0]), "clinic-2": model(w=[1.0, 2.0]), "clinic-3": model(w=[2.0, 2.0])},
        base=model(w=[1.0, 2.0]),
    )

    result = await aggregate(step, tmp_path)

    assert result.used == ("clinic-1", "clinic-2", "clinic-3")
    assert result.warnings == (
        LeftOut(site="clinic-1", code="zeros", detail="the update is zero throughout"),
        LeftOut(site="clinic-2", code="unchanged", detail="the update equals the model it was built on"),
    )


async def test_huge_values_count_with_a_warning_where_no_bound_is_set(tmp_path: Path) -> None:
    step = StepInStore(MemoryStore(), {"clinic-1": model(w=[1e30])}, base=model(w=[0.0]))

    result = await aggregate(step, tmp_path)

    assert result.used == ("clinic-1",)
    assert [(warning.code, "tensor w" in warning.detail) for warning in result.warnings] == [("huge", True)]


async def test_float64_near_its_limits_neither_overflows_nor_stops_the_round(tmp_path: Path) -> None:
    most = np.finfo(np.float64).max
    step = StepInStore(
        MemoryStore(),
        {f"clinic-{number}": model(w=np.array([most, -most])) for number in (1, 2, 3)},
        base=model(w=np.array([-most, most])),
    )

    result = await aggregate(step, tmp_path)

    assert load(await step.model(result))["w"].tolist() == pytest.approx([most, -most])
    assert set(result.norms.values()) == {most}


async def test_a_brought_model_with_infinity_does_not_stop_the_round(tmp_path: Path) -> None:
    step = StepInStore(MemoryStore(), {"clinic-1": model(w=[1.0])}, base=model(w=[float("-inf")]))

    result = await aggregate(step, tmp_path)

    assert result.used == ("clinic-1",)
    assert result.norms["clinic-1"] == np.finfo(np.float64).max


async def test_a_scalar_an_empty_tensor_and_many_small_ones_are_merged(tmp_path: Path) -> None:
    tensors: dict[str, Any] = {f"layer{index}": [float(index)] for index in range(300)}
    tensors |= {"empty": np.zeros((0, 3), np.float32), "scalar": np.array(7.0, np.float16)}
    step = StepInStore(MemoryStore(), {"clinic-1": model(**tensors)}, base=model(**tensors))

    result = await aggregate(step, tmp_path, slice_size=64)

    merged = load(await step.model(result))
    assert merged["empty"].shape == (0, 3)
    assert merged["scalar"].shape == ()
    assert [merged[f"layer{index}"].tolist() for index in range(300)] == [[float(index)] for index in range(300)]
