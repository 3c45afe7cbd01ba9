"""The aggregator as a service."""

import asyncio
import shutil
from pathlib import Path

from wardround.aggregator.handlers import WORK, Aggregation
from wardround.runtime.bus.messaging import Messenger
from wardround.runtime.bus.port import Bus
from wardround.runtime.clock import Clock
from wardround.runtime.patience import patiently
from wardround.runtime.store.port import ObjectStore
from wardround_messages.names import AGGREGATOR_QUEUE, HUB

# A slice of each model is a request to the store: larger ones cost less, and more memory. At 8 x 200 MB over S3 the
# service held 174 MB at most with 2 MiB, 238 MB with 4 MiB.
SLICE_SIZE = 2 * 2**20


class Aggregator:
    """Takes one `AggregateStep` at a time from the queue and holds its delivery until the result is stored, so that
    the work of a killed aggregator moves on to another at once.

    `workdir` is a folder of its own: what an earlier process left in it is removed. It needs room for one model, and
    for each update whose tensors lie in another order than the safetensors library writes. `slice_size` (bytes)
    bounds memory, at some twenty times as much.
    """

    def __init__(self, bus: Bus, store: ObjectStore, *, clock: Clock, workdir: Path, slice_size: int = SLICE_SIZE):
        self.ready = asyncio.Event()
        self._messenger = Messenger(bus, service="aggregator", origin=HUB, clock=clock)
        self._workdir = workdir
        self._aggregation = Aggregation(store, workdir=workdir, slice_size=slice_size)

    async def run(self) -> None:
        """Serve until cancelled.

        Raises:
            ForbiddenError: the queue cannot be read; OSError: the work folder cannot be used.
        """
        self._workdir.mkdir(parents=True, exist_ok=True)
        for left in self._workdir.glob(f"{WORK}*"):
            shutil.rmtree(left, ignore_errors=True)
        subscription = await patiently(
            lambda: self._messenger.listen(AGGREGATOR_QUEUE, self._aggregation.on_message, prefetch=1)
        )
        self.ready.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ready.clear()
            await subscription.close()
