"""How fast an object passes, and how fast it may: on a clock that is set by hand, or in virtual time."""

import asyncio
from collections.abc import Coroutine
from io import BytesIO
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from wardround.runtime.store.download import FIRST_CHUNK, download
from wardround.runtime.store.limit import Limit
from wardround.runtime.store.memory import MemoryStore
from wardround.runtime.store.passage import Passage
from wardround.runtime.store.s3_upload import Source
from wardround.simulation.faults.virtual_time import run_virtually
from wardround_messages.base import digest

BUCKET, KEY = "wr-brain-tumour", "global/model"
MB = 10**6


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


# --- the budget ------------------------------------------------------------------------------------------------------


def test_what_is_booked_passes_one_after_another_at_the_limit(clock: Clock) -> None:
    limit = Limit(1000, clock=clock)
    assert [limit.book(500), limit.book(1000), limit.book(1)] == [0.0, 0.5, 1.5]


def test_idle_time_is_not_saved_up_for_a_burst(clock: Clock) -> None:
    limit = Limit(1000, clock=clock)
    limit.book(500)
    clock.now += 3600
    assert [limit.book(500), limit.book(500)] == [0.0, 0.5]


def test_several_transfers_share_one_budget_evenly(clock: Clock) -> None:
    limit = Limit(1 * MB, clock=clock)
    first, second = Passage(100 * MB, limit=limit, clock=clock), Passage(100 * MB, limit=limit, clock=clock)
    ready = {first: 100.0, second: 100.0}
    steps = {first: 4 * MB, second: 20_000}  # as a download asks, and as an upload sends
    while clock.now < 130:
        passage = min(ready, key=lambda each: ready[each])
        clock.now = max(clock.now, ready[passage])
        size = passage.piece(steps[passage])
        ready[passage] = clock.now + passage.pause(size)
        passage.passed(size)
    assert first.done == pytest.approx(15 * MB, rel=0.1)
    assert second.done == pytest.approx(15 * MB, rel=0.1)


def test_a_pause_that_is_too_short_to_keep_is_put_off(clock: Clock) -> None:
    passage = Passage(100 * MB, limit=Limit(1000 * MB, clock=clock), clock=clock)
    pauses = [passage.pause(4 * 2**20) for _ in range(5)]  # 4.2 ms each
    assert pauses == pytest.approx([0, 0, 0, 0.01258, 0.01678], abs=1e-5)


@pytest.mark.parametrize(("per_second", "piece"), [(20_000, 5000), (1000, 1024), (100 * MB, 4 * 2**20)])
def test_a_piece_is_what_the_limit_allows_in_a_quarter_of_a_second(clock: Clock, per_second: int, piece: int) -> None:
    assert Passage(MB, limit=Limit(per_second, clock=clock)).piece(5 * MB) == piece


def test_without_a_limit_nothing_waits(clock: Clock) -> None:
    passage = Passage(100 * MB, clock=clock)
    assert (passage.piece(64 * MB), passage.pause(64 * MB)) == (64 * MB, 0.0)


# --- progress --------------------------------------------------------------------------------------------------------


def test_the_speed_is_that_of_the_last_seconds(clock: Clock) -> None:
    passage = Passage(100 * MB, clock=clock)
    assert passage.speed() is None
    passage.begin()
    for second in range(60):
        clock.now += 1
        passage.passed(MB if second < 30 else 10_000)
    assert passage.speed() == pytest.approx(10_000, rel=0.01)
    clock.now += 60
    assert passage.speed() == 0, "the line hangs"


def test_a_download_that_goes_on_has_done_more_than_it_moved() -> None:
    passage = Passage(10)
    passage.begin(at=4)
    passage.passed(3)
    assert (passage.done, passage.moved) == (7, 3)


def test_an_upload_that_begins_anew_has_moved_more_than_is_done() -> None:
    passage = Passage(10)
    for sent in (7, 3):
        passage.begin()
        passage.passed(sent)
    assert (passage.done, passage.moved) == (3, 10)


# --- a line with a limit, downwards ----------------------------------------------------------------------------------


class FarStore(MemoryStore):
    """Each request takes as long as its way there and back, and its bytes on a line of 8 MB/s."""

    async def read(self, bucket: str, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        data = await super().read(bucket, key, offset=offset, length=length)
        await asyncio.sleep(0.04 + len(data) / (8 * MB))
        return data


async def far(data: bytes) -> FarStore:
    store = FarStore()
    await store.make_bucket(BUCKET)
    await store.put(BUCKET, KEY, data)
    return store


def taking(work: Coroutine[Any, Any, None]) -> float:
    """Virtual seconds that the work takes."""

    async def timed() -> float:
        await work
        return asyncio.get_running_loop().time()

    return run_virtually(timed())


async def fetch(store: FarStore, data: bytes, to: Path, limit: Limit) -> None:
    passage = Passage(len(data), limit=limit, clock=asyncio.get_running_loop().time)
    await download(store, BUCKET, KEY, size=len(data), sha256=digest(data), to=to, passage=passage)


@pytest.mark.parametrize("per_second", [20_000, 500_000, 2 * MB])
def test_a_download_runs_at_the_limit(tmp_path: Path, per_second: int) -> None:
    data = bytes(20 * per_second)

    async def work() -> None:
        limit = Limit(per_second, clock=asyncio.get_running_loop().time)
        await fetch(await far(data), data, tmp_path / "model", limit)

    assert taking(work()) == pytest.approx(20, rel=0.1)


@pytest.mark.parametrize("per_second", [10_000, 100_000, MB])
def test_a_slow_line_is_asked_for_no_more_than_it_carries_in_some_seconds(tmp_path: Path, per_second: int) -> None:
    data = bytes(20 * per_second)

    class Slow(MemoryStore):
        longest = 0.0

        async def read(self, bucket: str, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
            chunk = await super().read(bucket, key, offset=offset, length=length)
            await asyncio.sleep(len(chunk) / per_second)
            if offset > FIRST_CHUNK:
                self.longest = max(self.longest, len(chunk) / per_second)
            return chunk

    async def work() -> None:
        store = Slow()
        await store.make_bucket(BUCKET)
        await store.put(BUCKET, KEY, data)
        await download(store, BUCKET, KEY, size=len(data), sha256=digest(data), to=tmp_path / "model")
        assert store.longest < 7

    assert taking(work()) == pytest.approx(20)


def test_downloads_share_the_limit_and_small_objects_are_not_held_up(tmp_path: Path) -> None:
    data, waits = bytes(10 * MB), []

    async def work() -> None:
        loop = asyncio.get_running_loop()
        limit, store = Limit(MB, clock=loop.time), await far(data)

        async def ask() -> None:
            for _ in range(10):
                await asyncio.sleep(1)
                asked = loop.time()
                await store.read(BUCKET, KEY, length=1000)
                waits.append(loop.time() - asked)

        await asyncio.gather(ask(), *(fetch(store, data, tmp_path / name, limit) for name in "ab"))

    assert taking(work()) == pytest.approx(20, rel=0.1)
    assert max(waits) < 0.05


# --- and upwards -----------------------------------------------------------------------------------------------------


class GivenUp(Event):
    """Waiting takes no time of ours."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self.longest = 0.0

    def wait(self, timeout: float | None = None) -> bool:
        self.longest = max(self.longest, timeout or 0.0)
        self._clock.now += timeout or 0.0
        return self.is_set()


@pytest.mark.parametrize("per_second", [20_000, 500_000, 50 * MB])
def test_an_upload_is_read_at_the_limit_in_small_pieces(clock: Clock, per_second: int) -> None:
    content = bytes(10 * per_second) if per_second < MB else bytes(2 * per_second)
    passage, given_up = Passage(len(content), limit=Limit(per_second, clock=clock), clock=clock), GivenUp(clock)
    source = Source(BytesIO(content), "update", len(content), given_up, passage)
    assert b"".join(source.blocks()) == content
    assert clock.now - 100 == pytest.approx(len(content) / per_second, rel=0.1)
    assert given_up.longest <= 0.26, "no server waits long for the next byte"
    assert passage.done == len(content)


def test_an_upload_that_is_held_up_ends_as_soon_as_it_is_given_up() -> None:
    content, given_up = bytes(1000), Event()
    passage = Passage(1000, limit=Limit(1, clock=lambda: 0.0))
    passage.pause(100_000)  # somebody else's
    given_up.set()
    with pytest.raises(OSError, match="canceled"):
        Source(BytesIO(content), "update", 1000, given_up, passage).read(1000)
