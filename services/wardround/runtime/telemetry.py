"""What all services count of themselves. No label holds what an experiment, a site or a person chose."""

import asyncio
import platform
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector

from wardround import __version__
from wardround.runtime.bus.port import (
    Bus,
    BusUnavailableError,
    DeadLetterError,
    Delivery,
    ForbiddenError,
    Handler,
    Offset,
    Packet,
    Subscription,
    UnroutableError,
)
from wardround.runtime.store.content import Content
from wardround.runtime.store.passage import Passage
from wardround.runtime.store.port import (
    AccessDeniedError,
    AlreadyExistsError,
    NotFoundError,
    ObjectInfo,
    ObjectStore,
    StoreUnavailableError,
)

# Seconds: from a local disk to a weights file over a clinic's line.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0, 600.0)
REACHED_LATELY = 30.0

T = TypeVar("T")


def process_figures(registry: CollectorRegistry, *, service: str, up: Callable[[], bool]) -> None:
    """Memory, processor time and open files of this process, what is running here, and whether it is ready."""
    ProcessCollector(registry=registry)
    Info("wardround_build", "What is running.", registry=registry).info(
        {"service": service, "version": __version__, "python": platform.python_version()}
    )
    Gauge("wardround_up", "1 while the service is ready.", registry=registry).set_function(lambda: float(up()))


class MeasuredBus:
    """A bus that counts what goes through it."""

    def __init__(self, bus: Bus, registry: CollectorRegistry) -> None:
        self._bus = bus
        self._handled = Counter(
            "wardround_messages_handled", "Messages received, by what became of them.", ["outcome"], registry=registry
        )
        self._published = Histogram(
            "wardround_publish_seconds",
            "From handing a message over to the broker's word on it.",
            ["outcome"],
            registry=registry,
            buckets=BUCKETS,
        )
        reconnections = Counter(
            "wardround_reconnections", "Connections to the broker that came back.", registry=registry
        )
        bus.on_connect(reconnections.inc)

    @property
    def login(self) -> str:
        return self._bus.login

    async def publish(self, packet: Packet) -> None:
        begun = time.perf_counter()
        outcome = "confirmed"
        try:
            await self._bus.publish(packet)
        except BaseException as error:
            outcome = _outcome_of_publishing(error)
            raise
        finally:
            self._published.labels(outcome).observe(time.perf_counter() - begun)

    async def subscribe(
        self, queue: str, handler: Handler, *, dead_key: str, prefetch: int = 16, offset: Offset | None = None
    ) -> Subscription:
        async def counted(delivery: Delivery) -> None:
            outcome = "given_back"
            try:
                await handler(delivery)
                outcome = "handled"
            except DeadLetterError:
                outcome = "dead"
                raise
            finally:
                self._handled.labels(outcome).inc()

        return await self._bus.subscribe(queue, counted, dead_key=dead_key, prefetch=prefetch, offset=offset)

    def on_connect(self, callback: Callable[[], None]) -> None:
        self._bus.on_connect(callback)

    async def drain(self, *, within: float) -> None:
        await self._bus.drain(within=within)

    async def close(self) -> None:
        await self._bus.close()


class MeasuredStore:
    """A store that counts and times what is asked of it, and remembers whether it answers."""

    def __init__(
        self, store: ObjectStore, registry: CollectorRegistry, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._monotonic = monotonic
        self._calls = Histogram(
            "wardround_store_seconds",
            "Calls to the object store.",
            ["method", "outcome"],
            registry=registry,
            buckets=BUCKETS,
        )
        self._answered: float | None = None
        self._failed: float | None = None

    @property
    def trouble(self) -> str | None:
        """That the store did not answer the last call, nor any other for half a minute; None while all is well."""
        if self._failed is None or (self._answered is not None and self._answered >= self._failed):
            return None
        if self._answered is None:
            return "the object store has not answered yet"
        silent = self._monotonic() - self._answered
        return None if silent < REACHED_LATELY else f"the object store has not answered for {silent:.0f} s"

    async def create(self, bucket: str, key: str, data: bytes) -> None:
        await self._timed("create", self._store.create(bucket, key, data))

    async def put(self, bucket: str, key: str, source: Content, *, passage: Passage | None = None) -> None:
        await self._timed("put", self._store.put(bucket, key, source, passage=passage))

    async def read(self, bucket: str, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        return await self._timed("read", self._store.read(bucket, key, offset=offset, length=length))

    async def head(self, bucket: str, key: str) -> ObjectInfo:
        return await self._timed("head", self._store.head(bucket, key))

    async def list(self, bucket: str, prefix: str = "") -> tuple[ObjectInfo, ...]:
        return await self._timed("list", self._store.list(bucket, prefix))

    async def delete(self, bucket: str, key: str) -> None:
        await self._timed("delete", self._store.delete(bucket, key))

    async def announce(self, bucket: str, prefixes: Sequence[str]) -> None:
        await self._timed("announce", self._store.announce(bucket, prefixes))

    async def buckets(self) -> tuple[str, ...]:
        return await self._timed("buckets", self._store.buckets())

    async def make_bucket(self, bucket: str) -> None:
        await self._timed("make_bucket", self._store.make_bucket(bucket))

    async def close(self) -> None:
        await self._store.close()

    async def _timed(self, method: str, call: Awaitable[T]) -> T:
        begun = time.perf_counter()
        outcome = "ok"
        try:
            return await call
        except BaseException as error:
            outcome = _outcome_of_a_call(error)
            raise
        finally:
            self._calls.labels(method, outcome).observe(time.perf_counter() - begun)
            if outcome == "unavailable":
                self._failed = self._monotonic()
            elif outcome not in ("cancelled", "failed"):
                self._answered = self._monotonic()


def _outcome_of_publishing(error: BaseException) -> str:
    match error:
        case UnroutableError():
            return "unroutable"
        case ForbiddenError():
            return "forbidden"
        case BusUnavailableError():
            return "unavailable"
        case asyncio.CancelledError():
            return "cancelled"
        case _:
            return "failed"


def _outcome_of_a_call(error: BaseException) -> str:
    match error:
        case NotFoundError():
            return "not_found"
        case AlreadyExistsError():
            return "exists"
        case AccessDeniedError():
            return "denied"
        case StoreUnavailableError():
            return "unavailable"
        case asyncio.CancelledError():
            return "cancelled"
        case _:
            return "failed"
