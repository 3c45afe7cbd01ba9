"""Fetching a global model over a line that breaks, as a researcher does."""

from pathlib import Path

import pytest

from wardround.client.hub import Hub
from wardround.client.hubs import Connections
from wardround.client.models import GlobalModel, Which
from wardround.runtime.bus.memory import MemoryBus
from wardround.runtime.bus.port import BusUnavailableError
from wardround.runtime.store.download import FIRST_CHUNK, part_of
from wardround.runtime.store.memory import MemoryStore
from wardround.runtime.store.port import StoreUnavailableError
from wardround_messages.base import digest

BUCKET, KEY = "wr-brain-tumour", "global/r000001/0123456789abcdef.safetensors"
DATA = bytes(range(256)) * (20 * FIRST_CHUNK // 256)


class Line(MemoryStore):
    """Breaks at each `breaks_at`-th read."""

    def __init__(self, breaks_at: int) -> None:
        super().__init__()
        self.breaks_at = breaks_at
        self.reads = 0
        self.came = 0

    async def read(self, bucket: str, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        self.reads += 1
        if self.reads % self.breaks_at == 0:
            raise StoreUnavailableError("connection reset")
        data = await super().read(bucket, key, offset=offset, length=length)
        self.came += len(data)
        return data


class OneModel(Hub):
    async def model(self, experiment: str, which: Which) -> GlobalModel:
        return GlobalModel(experiment, 1, KEY, len(DATA), digest(DATA))


async def no_broker() -> MemoryBus:
    raise BusUnavailableError("not needed")


async def hub_behind(line: Line) -> Hub:
    await line.make_bucket(BUCKET)
    await line.put(BUCKET, KEY, DATA)
    return OneModel(Connections(line, no_broker), answers_within=0.05)


async def test_a_fetch_that_gets_on_takes_longer_than_an_outage_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wardround.runtime.store.download.AGAIN_WITHIN", 0.02)
    line = Line(breaks_at=2)
    async with await hub_behind(line) as hub:
        await hub.fetch("brain-tumour", "last", tmp_path / "model")
    assert (tmp_path / "model").read_bytes() == DATA
    assert (line.reads, line.came) == (2 * 20 - 1, len(DATA))


async def test_a_fetch_that_was_given_up_is_gone_on_with(tmp_path: Path) -> None:
    line, to = Line(breaks_at=1), tmp_path / "model"
    part_of(to, digest(DATA)).write_bytes(DATA[:1000])
    async with await hub_behind(line) as hub:
        with pytest.raises(StoreUnavailableError):
            await hub.fetch("brain-tumour", "last", to)
        assert part_of(to, digest(DATA)).read_bytes() == DATA[:1000]
        line.breaks_at = 10**6
        await hub.fetch("brain-tumour", "last", to)
    assert list(tmp_path.iterdir()) == [to]
    assert line.came == len(DATA) - 1000
