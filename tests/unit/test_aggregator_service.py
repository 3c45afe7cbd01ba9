"""The aggregator on a bus and a store: once is enough, outages are waited out, nothing is left behind."""

import asyncio
import errno
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from step_in_store import BUCKET, StepInStore, model, noon
from structlog.testing import capture_logs

from wardround.aggregator.app import Aggregator
from wardround.aggregator.handlers import WORK, Aggregation
from wardround.runtime import patience
from wardround.runtime.bus.memory import MemoryBroker, MemoryBus
from wardround.runtime.bus.messaging import Messenger, open_delivery
from wardround.runtime.bus.port import DeadLetterError, Delivery
from wardround.runtime.store.content import Content
from wardround.runtime.store.folder import FolderStore
from wardround.runtime.store.memory import MemoryStore
from wardround.runtime.store.port import ObjectInfo, StoreUnavailableError
from wardround_messages.base import canonical_json
from wardround_messages.commands import AggregateStep, PauseExperiment
from wardround_messages.names import AGGREGATOR_QUEUE, ResultKey
from wardround_messages.objects import Result
from wardround_messages.topology import topology

UPDATES = {"clinic-1": model(w=[1.0, 2.0]), "clinic-2": model(w=[3.0, 4.0])}


def step_of(store: MemoryStore | None = None, **parts: Any) -> StepInStore:
    return StepInStore(store or MemoryStore(), UPDATES, **{"base": model(w=[0.0, 0.0]), **parts})


def _broker() -> MemoryBroker:
    return MemoryBroker(topology(("clinic-1", "clinic-2"), ("researcher-a",)))


@asynccontextmanager
async def serving(step: StepInStore, workdir: Path) -> AsyncIterator[tuple[MemoryBroker, Messenger]]:
    broker = _broker()
    aggregator = Aggregator(MemoryBus(broker, "aggregator"), step.store, clock=noon, workdir=workdir)
    running = asyncio.create_task(aggregator.run())
    await aggregator.ready.wait()
    yield broker, Messenger(MemoryBus(broker, "coordinator"), service="coordinator", origin="hub", clock=noon)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert not aggregator.ready.is_set()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await condition():  # noqa: ASYNC110 - neither store nor broker tells when
            await asyncio.sleep(0.001)


async def has_result(step: StepInStore, command: AggregateStep) -> bool:
    keys = [info.key for info in await step.store.list(BUCKET, "results/")]
    return str(ResultKey(command.closing)) in keys


async def test_a_command_on_the_queue_ends_as_a_result_in_the_store(tmp_path: Path) -> None:
    step = step_of()
    command = await step.write()
    async with serving(step, tmp_path / "work") as (broker, coordinator):
        await coordinator.send(command)
        await until(lambda: has_result(step, command))

        result = await step.result(command)
        assert (result.closing, result.closing_sha256) == (command.closing, command.closing_sha256)
        assert result.used == ("clinic-1", "clinic-2")
        await until(lambda: _is(broker.depth(AGGREGATOR_QUEUE) == 0))
        assert broker.dead_letters() == ()
    assert list((tmp_path / "work").iterdir()) == []


async def _is(value: bool) -> bool:
    return value


async def test_the_same_step_gives_the_same_bytes_in_every_store_and_however_it_is_sliced(tmp_path: Path) -> None:
    found = []
    for store, slice_size in ((MemoryStore(), 2**20), (FolderStore(tmp_path / "store", durable=False), 1)):
        step = StepInStore(store, UPDATES, base=model(w=[0.0, 0.0]))
        command = await step.write()
        await Aggregation(store, workdir=tmp_path, slice_size=slice_size).aggregate(command)
        keys = [info.key for info in await store.list(BUCKET)]
        found.append({key: await store.read(BUCKET, key) for key in keys})

    assert found[0] == found[1]


async def test_a_step_that_has_a_result_is_not_merged_again(tmp_path: Path) -> None:
    step = step_of()
    command = await step.write()
    aggregation = Aggregation(step.store, workdir=tmp_path, slice_size=2**20)
    await aggregation.aggregate(command)
    before = await step.store.list(BUCKET)
    await step.store.delete(BUCKET, step.ref("clinic-1").key)

    await aggregation.aggregate(command)

    assert [info for info in before if not info.key.startswith("updates/")] == [
        info for info in await step.store.list(BUCKET) if not info.key.startswith("updates/")
    ]


async def test_two_aggregators_at_once_end_with_one_result(tmp_path: Path) -> None:
    step = step_of()
    command = await step.write()
    two = [Aggregation(step.store, workdir=tmp_path, slice_size=size) for size in (1, 2**20)]

    with capture_logs() as logs:
        await asyncio.gather(*(one.aggregate(command) for one in two))

    assert (await step.result(command)).model is not None
    assert [log for log in logs if log["event"] == "another_result_counts"] == []
    assert len(await step.store.list(BUCKET, "global/r000001/")) == 1


async def test_another_result_that_came_first_counts_and_ours_is_dropped(tmp_path: Path) -> None:
    class Overtaken(MemoryStore):
        async def create(self, bucket: str, key: str, data: bytes) -> None:
            if key.startswith("results/"):
                other = Result.model_validate_json(data).model_copy(update={"model": None, "used": ()})
                await super().create(bucket, key, canonical_json(other))
            await super().create(bucket, key, data)

    step = step_of(Overtaken())
    command = await step.write()

    with capture_logs() as logs:
        await Aggregation(step.store, workdir=tmp_path, slice_size=2**20).aggregate(command)

    assert (await step.result(command)).model is None
    assert [log["event"] for log in logs if log["log_level"] == "warning"] == ["another_result_counts"]


class AwayStore(MemoryStore):
    """Fails every other call; of a create that fails, the object is written all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.calls = 0

    def _call(self) -> None:
        self.calls += 1
        if self.away and self.calls % 2:
            raise StoreUnavailableError("503")

    async def read(self, bucket: str, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        self._call()
        return await super().read(bucket, key, offset=offset, length=length)

    async def head(self, bucket: str, key: str) -> ObjectInfo:
        self._call()
        return await super().head(bucket, key)

    async def put(self, bucket: str, key: str, source: Content, **more: Any) -> None:
        self._call()
        await super().put(bucket, key, source, **more)

    async def create(self, bucket: str, key: str, data: bytes) -> None:
        await super().create(bucket, key, data)
        if self.away:
            raise StoreUnavailableError("written, and the answer lost")


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "LONGEST_WAIT", 0)


@pytest.mark.usefixtures("no_waiting")
async def test_an_outage_of_the_store_is_waited_out_and_spends_no_delivery(tmp_path: Path) -> None:
    store, undisturbed = AwayStore(), step_of()
    step = step_of(store)
    command = await step.write()
    store.away = True
    async with serving(step, tmp_path) as (broker, coordinator):
        await coordinator.send(command)
        await until(lambda: has_result(step, command))
        await until(lambda: _is(broker.depth(AGGREGATOR_QUEUE) == 0))
        assert broker.dead_letters() == ()
    store.away = False

    same = await undisturbed.write()
    await Aggregation(undisturbed.store, workdir=tmp_path, slice_size=2**20).aggregate(same)
    assert await step.result(command) == await undisturbed.result(same)


@pytest.mark.usefixtures("no_waiting")
async def test_a_full_disk_is_waited_out(tmp_path: Path) -> None:
    class Full(MemoryStore):
        full = 3

        async def put(self, bucket: str, key: str, source: Content, **more: Any) -> None:
            if isinstance(source, Path) and self.full:
                self.full -= 1
                raise OSError(errno.ENOSPC, "no space left on device")
            await super().put(bucket, key, source, **more)

    step = step_of(Full())
    command = await step.write()

    await Aggregation(step.store, workdir=tmp_path, slice_size=2**20).aggregate(command)

    assert (await step.result(command)).used == ("clinic-1", "clinic-2")
    assert list(tmp_path.iterdir()) == []


async def test_a_command_that_the_journal_does_not_bear_out_ends_as_a_dead_letter(tmp_path: Path) -> None:
    step = step_of()
    command = await step.write()
    async with serving(step, tmp_path) as (broker, coordinator):
        await coordinator.send(command.model_copy(update={"experiment": "glioma-2"}))
        await until(lambda: _is(bool(broker.dead_letters())))
        [letter] = broker.dead_letters()
        assert (letter.reason, letter.queue) == ("journal_missing", AGGREGATOR_QUEUE)
        assert "wr-glioma-2" in letter.detail


async def test_a_message_that_is_no_command_to_the_aggregator_is_a_dead_letter(tmp_path: Path) -> None:
    message = PauseExperiment(experiment="glioma-1")
    packet = Messenger(MemoryBus(_broker(), "researcher-a"), service="client", origin="hub", clock=noon).packet(message)

    with pytest.raises(DeadLetterError, match="not_mine"):
        await Aggregation(MemoryStore(), workdir=tmp_path, slice_size=1).on_message(open_delivery(Delivery(packet)))


@pytest.mark.parametrize("damage", ["flipped", "missing", "cut"])
async def test_a_broken_model_to_build_on_is_a_dead_letter_and_no_result_is_written(
    damage: str, tmp_path: Path
) -> None:
    step = step_of()
    command = await step.write()
    ref = step.base_ref()
    assert ref is not None
    assert step.base is not None
    if damage == "missing":
        await step.store.delete(BUCKET, ref.key)
    else:
        await step.store.put(BUCKET, ref.key, step.base[:-1] + (b"\x01" if damage == "flipped" else b""))

    with pytest.raises(DeadLetterError) as caught:
        await Aggregation(step.store, workdir=tmp_path, slice_size=2**20).aggregate(command)

    assert caught.value.code == "built_on"
    assert not await has_result(step, command)
    assert list(tmp_path.iterdir()) == []


async def test_a_killed_merge_leaves_nothing_behind_and_is_taken_up_again(tmp_path: Path) -> None:
    class Stuck(MemoryStore):
        stuck = True

        async def put(self, bucket: str, key: str, source: Content, **more: Any) -> None:
            if isinstance(source, Path) and self.stuck:
                await asyncio.Event().wait()
            await super().put(bucket, key, source, **more)

    store = Stuck()
    step = step_of(store)
    command = await step.write()
    async with serving(step, tmp_path) as (broker, coordinator):
        await coordinator.send(command)
        await until(lambda: _is(any(tmp_path.glob(f"{WORK}*/model.safetensors"))))
        broker.stop()
        await until(lambda: _is(not any(tmp_path.iterdir())))
        store.stuck = False
        broker.start()
        await until(lambda: has_result(step, command))


async def test_what_a_killed_process_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / f"{WORK}old").mkdir()
    (tmp_path / f"{WORK}old" / "model.safetensors").write_bytes(b"half")
    (tmp_path / "notes").write_text("mine")
    async with serving(step_of(), tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == ["notes"]


async def test_memory_depends_on_the_slice_and_not_on_the_number_or_size_of_updates(tmp_path: Path) -> None:
    async def peak(members: int, elements: int) -> int:
        store = FolderStore(tmp_path / f"store-{members}-{elements}", durable=False)
        updates = {f"clinic-{n}": model(w=np.full(elements, n, np.float32)) for n in range(1, members + 1)}
        step = StepInStore(store, updates, base=model(w=np.zeros(elements, np.float32)))
        command = await step.write()
        tracemalloc.start()
        await Aggregation(store, workdir=tmp_path, slice_size=2**18).aggregate(command)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len((await step.result(command)).used) == members
        return most

    few, many, large = await peak(2, 2**18), await peak(4, 2**18), await peak(2, 2**21)

    assert few < 5 * 2**20
    assert max(many, large) < few + 2**20
