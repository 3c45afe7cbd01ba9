"""Bus, store and scheduler as one process sees them: the embedded adapters, with everything in the way that may be."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal, TypeVar

from wardround.runtime.bus.memory import MemoryBroker, MemoryBus
from wardround.runtime.bus.port import BusError, Delivery, Handler, Offset, Packet, Subscription
from wardround.runtime.store.announcements import Announcer
from wardround.runtime.store.content import Content, opened, read_all
from wardround.runtime.store.memory import MemoryStore
from wardround.runtime.store.passage import Passage
from wardround.runtime.store.port import AlreadyExistsError, ObjectInfo
from wardround.simulation.faults.fates import Fates
from wardround.simulation.faults.history import Commanded, History, Written
from wardround.simulation.faults.process import Process
from wardround.site_agent.scheduler.port import Began, RunEnd, Scheduler, nobody_asks
from wardround_messages.names import COMMANDS, OBJECTSTORE
from wardround_messages.topology import Topology

T = TypeVar("T")

KINDS = {"updates": "an update", "global": "a model", "journal": "a journal entry"}


class LossyBroker(MemoryBroker):
    """Loses, doubles and delays messages, as their fate is."""

    def __init__(self, topology: Topology, fates: Fates, history: History) -> None:
        super().__init__(topology)
        self._fates = fates
        self._history = history

    def route(self, packet: Packet) -> None:
        arrivals = self._fates.message(packet)
        if arrivals != (0.0,):
            self._note(packet, arrivals)
        for delay in arrivals:
            if delay == 0:
                super().route(packet)
            else:
                asyncio.get_running_loop().call_later(delay, self._arrive, packet)

    def _arrive(self, packet: Packet) -> None:
        try:
            super().route(packet)
        except BusError as error:
            self._history.note("broker", "message dropped", f"{packet.routing_key}: {error}")

    def _note(self, packet: Packet, arrivals: tuple[float, ...]) -> None:
        what = "announcement" if packet.exchange == OBJECTSTORE else "message"
        about = packet.message_id or packet.routing_key
        if not arrivals:
            self._history.inject(f"{what} lost", "broker", about=about)
        if len(arrivals) > 1:
            self._history.inject(f"{what} doubled", "broker", about=about)
        for delay in arrivals:
            if delay > 0:
                self._history.inject(f"{what} late", "broker", over=self._history.clock() + delay, about=about)


class RottingStore(MemoryStore):
    """Bits of what it holds may flip."""

    def __init__(self, announcer: Announcer | None, fates: Fates, history: History) -> None:
        super().__init__(announcer)
        self._fates = fates
        self._history = history
        self.written_at: dict[str, float] = {}

    async def _write(self, bucket: str, key: str, data: bytes) -> None:
        self.written_at[key] = self._history.clock()
        await super()._write(bucket, key, data)
        if self._fates.rots(key):
            self.flip(bucket, key)

    def flip(self, bucket: str, key: str) -> None:
        """Flip one bit in the middle of the object."""
        objects = self._buckets[bucket].objects
        stored = objects[key]
        data = bytearray(stored.data)
        data[len(data) // 2] ^= 1
        objects[key] = replace(stored, data=bytes(data))
        self._history.rotten.setdefault(key, self._history.clock())
        self._history.inject(f"bit flipped in {KINDS.get(key.partition('/')[0], 'an object')}", "store", about=key)


class FaultyStore:
    """The store as one process reaches it; implements `runtime.store.port.ObjectStore`."""

    def __init__(self, store: RottingStore, process: Process, fates: Fates, history: History) -> None:
        self._store = store
        self._process = process
        self._fates = fates
        self._history = history

    async def create(self, bucket: str, key: str, data: bytes) -> None:
        await self._process.call("store", "create", key, partial(self._create, bucket, key, data))

    async def put(self, bucket: str, key: str, source: Content, *, passage: Passage | None = None) -> None:
        await self._process.call("store", "put", key, partial(self._put, bucket, key, source, passage))

    async def read(self, bucket: str, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        data = await self._process.call(
            "store", "read", key, lambda: self._store.read(bucket, key, offset=offset, length=length)
        )
        self._history.read(self._process.name, key)
        return data

    async def head(self, bucket: str, key: str) -> ObjectInfo:
        return await self._process.call("store", "head", key, lambda: self._store.head(bucket, key))

    async def list(self, bucket: str, prefix: str = "") -> tuple[ObjectInfo, ...]:
        return await self._process.call("store", "list", prefix, partial(self._list, bucket, prefix))

    async def delete(self, bucket: str, key: str) -> None:
        await self._process.call("store", "delete", key, lambda: self._store.delete(bucket, key))

    async def announce(self, bucket: str, prefixes: Sequence[str]) -> None:
        await self._process.call("store", "announce", bucket, lambda: self._store.announce(bucket, prefixes))

    async def buckets(self) -> tuple[str, ...]:
        return await self._process.call("store", "buckets", "", self._store.buckets)

    async def make_bucket(self, bucket: str) -> None:
        await self._process.call("store", "make_bucket", bucket, lambda: self._store.make_bucket(bucket))

    async def close(self) -> None:
        """The store outlives who uses it."""

    async def _create(self, bucket: str, key: str, data: bytes) -> None:
        try:
            await self._store.create(bucket, key, data)
        except AlreadyExistsError:
            self._history.note(self._process.name, "412", key)
            raise
        self._record(bucket, key, data, "create", fresh=True)

    async def _put(self, bucket: str, key: str, source: Content, passage: Passage | None) -> None:
        with opened(source) as (file, _):
            data = read_all(file)
        fresh = key not in self._store.written_at
        await self._store.put(bucket, key, data, passage=passage)
        self._record(bucket, key, data, "put", fresh=fresh)

    def _record(self, bucket: str, key: str, data: bytes, method: Literal["create", "put"], *, fresh: bool) -> None:
        now = self._history.clock()
        self._history.written.append(Written(now, self._process.name, bucket, key, data, method, fresh))

    async def _list(self, bucket: str, prefix: str) -> tuple[ObjectInfo, ...]:
        found = await self._store.list(bucket, prefix)
        age = self._fates.listing_age(self._process.name)
        if age == 0:
            return found
        self._history.inject("stale listing", self._process.name, about=prefix)
        known_until = self._history.clock() - age
        return tuple(info for info in found if self._store.written_at.get(info.key, 0.0) <= known_until)


class FaultyBus:
    """The broker as one process reaches it; implements `runtime.bus.port.Bus`."""

    def __init__(self, bus: MemoryBus, process: Process, history: History) -> None:
        self.inner = bus
        self._process = process
        self._history = history

    @property
    def login(self) -> str:
        return self.inner.login

    async def publish(self, packet: Packet) -> None:
        about = packet.message_id or packet.routing_key
        await self._process.call("bus", "publish", about, partial(self._publish, packet))

    async def subscribe(
        self, queue: str, handler: Handler, *, dead_key: str, prefetch: int = 16, offset: Offset | None = None
    ) -> Subscription:
        async def handle(delivery: Delivery) -> None:
            self._history.note(self._process.name, "heard", _name(delivery.packet))
            await self._process.handle(lambda: handler(delivery))

        return await self._process.call(
            "bus",
            "subscribe",
            queue,
            lambda: self.inner.subscribe(queue, handle, dead_key=dead_key, prefetch=prefetch, offset=offset),
        )

    def on_connect(self, callback: Callable[[], None]) -> None:
        def heard() -> None:
            if not self._process.dead:
                callback()

        self.inner.on_connect(heard)

    async def drain(self, *, within: float) -> None:
        await self.inner.drain(within=within)

    async def close(self) -> None:
        await self.inner.close()

    async def _publish(self, packet: Packet) -> None:
        await self.inner.publish(packet)
        if packet.exchange == COMMANDS and packet.message_id is not None and self.login == "coordinator":
            said = Commanded(self._history.clock(), self._process.name, packet.message_id, packet.body.decode())
            self._history.commanded.append(said)


class FaultyScheduler:
    """The site's scheduler as one life of its agent reaches it; implements `site_agent.scheduler.port.Scheduler`.

    As `AirflowScheduler` does, it knows a trigger that was carried out and not answered, and makes no second one of it.
    """

    def __init__(self, scheduler: Scheduler, process: Process) -> None:
        self._scheduler = scheduler
        self._process = process
        self._unanswered: set[str] = set()

    async def trigger(self, task: str, *, again: bool = False) -> None:
        await self._process.call("scheduler", "trigger", task, partial(self._trigger, task, again=again))
        self._unanswered.discard(task)

    async def _trigger(self, task: str, *, again: bool) -> None:
        if task not in self._unanswered:
            await self._scheduler.trigger(task, again=again)
            self._unanswered.add(task)

    async def wait(self, task: str, *, began: Began = nobody_asks) -> RunEnd:
        return await self._process.call("scheduler", "wait", task, lambda: self._scheduler.wait(task, began=began))

    async def cancel(self, task: str) -> None:
        self._unanswered.discard(task)
        await self._process.call("scheduler", "cancel", task, lambda: self._scheduler.cancel(task))

    async def close(self) -> None:
        """What runs goes on: the scheduler is not the agent's."""


class FaultyDisk:
    """The clinic's disk, as one life of its agent writes to inbox and log; implements `site_agent.disk.Disk`."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def __call__(self, what: str, write: Callable[[], Awaitable[T]]) -> T:
        method, _, about = what.partition(" ")
        return await self._process.call("disk", method, about, write)


def _name(packet: Packet) -> str:
    if packet.exchange != OBJECTSTORE:
        return packet.message_id or packet.routing_key
    return f"announcement {packet.body[:400].decode(errors='replace').partition('Key')[2][3:].partition(chr(34))[0]}"
