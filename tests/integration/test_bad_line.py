"""Models and updates over a line that breaks, hangs, or is held to a limit, to a real store."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from statistics import median

import pytest

from servers.minio import MinioServer
from servers.proxy import Proxy
from wardround.runtime.patience import patiently
from wardround.runtime.store.download import download, keep_on
from wardround.runtime.store.limit import Limit
from wardround.runtime.store.passage import Passage
from wardround.runtime.store.port import NotFoundError, StoreUnavailableError
from wardround.runtime.store.s3 import S3Store
from wardround_messages.base import digest

pytestmark = pytest.mark.slow

BUCKET, MODEL, UPDATE = "wr-brain-tumour", "global/a", "updates/a"
MIB = 2**20
CONTENT = bytes(range(251)) * (8 * MIB // 251)


class Breaking:
    """Breaks a connection whenever so many bytes have gone over the line, as many times as it is told."""

    def __init__(self, after: int, *, times: int = 1000) -> None:
        self.passed = 0
        self.broken = 0
        self._after = after
        self._times = times

    def __call__(self, data: bytes) -> bytes:
        self.passed += len(data)
        if self.broken < self._times and self.passed >= (self.broken + 1) * self._after:
            self.broken += 1
            raise ConnectionResetError
        return data


@pytest.fixture
async def direct(minio_server: MinioServer) -> AsyncIterator[S3Store]:
    store = minio_server.store()
    await store.make_bucket(BUCKET)
    await store.put(BUCKET, MODEL, CONTENT)
    yield store
    await store.close()


async def fetch(store: S3Store, to: Path, passage: Passage) -> None:
    await download(store, BUCKET, MODEL, size=len(CONTENT), sha256=digest(CONTENT), to=to, passage=passage)


async def test_a_model_comes_through_a_line_that_always_breaks(
    minio_server: MinioServer, direct: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wardround.runtime.store.download.AGAIN_WITHIN", 0.05)
    line = Breaking(after=700_000)
    proxy = Proxy(minio_server.port, to_client=line)
    await proxy.mend()
    store, passage, to = minio_server.store(port=proxy.port), Passage(len(CONTENT)), tmp_path / "model"
    await keep_on(lambda: fetch(store, to, passage), passage, patient=patiently)
    assert to.read_bytes() == CONTENT
    assert list(tmp_path.iterdir()) == [to]
    assert line.broken >= 11
    assert passage.moved == len(CONTENT), "nothing that was kept is fetched twice"
    assert line.passed < 4 * len(CONTENT), "each break costs the chunk that was asked for, and no more"
    await store.close()
    await proxy.cut()


async def test_an_update_that_was_cut_off_is_sent_again_from_its_beginning(
    minio_server: MinioServer, direct: S3Store, tmp_path: Path
) -> None:
    line = Breaking(after=3 * MIB, times=2)
    proxy = Proxy(minio_server.port, to_server=line)
    await proxy.mend()
    store, passage = minio_server.store(port=proxy.port, timeout=5), Passage(len(CONTENT))
    (tmp_path / "update").write_bytes(CONTENT)

    async def put() -> None:
        with pytest.raises(NotFoundError):
            await direct.head(BUCKET, UPDATE)
        await store.put(BUCKET, UPDATE, tmp_path / "update", passage=passage)

    await patiently(put)
    assert await direct.read(BUCKET, UPDATE) == CONTENT
    assert line.broken == 2
    assert passage.done == len(CONTENT) < passage.moved
    await store.close()
    await proxy.cut()


async def test_both_directions_share_a_limit_that_holds_up_nothing_small(
    minio_server: MinioServer, direct: S3Store, tmp_path: Path
) -> None:
    limit = Limit(4 * MIB, clock=time.monotonic)
    (tmp_path / "update").write_bytes(CONTENT)
    waits = []

    async def ask() -> None:
        for number in range(20):
            await asyncio.sleep(0.15)
            begun = time.monotonic()
            await direct.create(BUCKET, f"answers/{number}", b"{}")
            await direct.head(BUCKET, MODEL)
            waits.append(time.monotonic() - begun)

    begun = time.monotonic()
    passages = [Passage(len(CONTENT), limit=limit) for _ in range(3)]
    await asyncio.gather(
        ask(),
        fetch(direct, tmp_path / "model", passages[0]),
        direct.put(BUCKET, "updates/a", tmp_path / "update", passage=passages[1]),
        direct.put(BUCKET, "updates/b", CONTENT, passage=passages[2]),
    )
    took = time.monotonic() - begun
    assert 2 * MIB < 3 * len(CONTENT) / took < 1.1 * 4 * MIB, "a busy machine may be slower"
    assert median(waits) < 1, "what the limit holds up waits each time; a busy machine now and then"
    for key in ("updates/a", "updates/b"):
        assert await direct.read(BUCKET, key) == CONTENT
    assert (tmp_path / "model").read_bytes() == CONTENT


async def test_an_update_that_is_given_up_while_it_is_held_up_ends_at_once(
    minio_server: MinioServer, direct: S3Store
) -> None:
    store = minio_server.store()
    passage = Passage(len(CONTENT), limit=Limit(10_000, clock=time.monotonic))
    putting = asyncio.ensure_future(store.put(BUCKET, UPDATE, CONTENT, passage=passage))
    while not passage.done:  # noqa: ASYNC110 - a test waits, nobody else
        await asyncio.sleep(0.01)
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    begun = time.monotonic()
    await store.close()
    assert time.monotonic() - begun < 2
    with pytest.raises(NotFoundError):
        await direct.head(BUCKET, UPDATE)


async def test_a_line_that_hangs_ends_a_try_in_bounded_time(
    minio_server: MinioServer, direct: S3Store, tmp_path: Path
) -> None:
    proxy = Proxy(minio_server.port, to_client=Breaking(after=10**12))
    await proxy.mend()
    store, passage = minio_server.store(port=proxy.port, timeout=1), Passage(len(CONTENT))
    await store.head(BUCKET, MODEL)
    proxy.stalled = True
    (tmp_path / "update").write_bytes(CONTENT)
    begun = time.monotonic()
    for attempt in (
        fetch(store, tmp_path / "model", passage),
        store.put(BUCKET, UPDATE, tmp_path / "update", passage=passage),
    ):
        with pytest.raises(StoreUnavailableError):
            await attempt
    assert time.monotonic() - begun < 6
    await store.close()
    await proxy.cut()
