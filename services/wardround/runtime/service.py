"""The life of a service's process: connect, get ready, serve, and stop in good order when a signal says so.

What differs from service to service is in a subclass of `Shell`, in the service's own `main.py`.
"""

import asyncio
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import ClassVar, Generic, Protocol, TypeVar

import structlog
from prometheus_client import CollectorRegistry
from starlette.routing import BaseRoute

from wardround.runtime.bus.port import Bus, ForbiddenError
from wardround.runtime.bus.rabbit import RabbitBus
from wardround.runtime.encryption import refuse_unencrypted
from wardround.runtime.http import Endpoint
from wardround.runtime.http_settings import HttpSettings, refuse_exposed
from wardround.runtime.hub_settings import Hub
from wardround.runtime.patience import patiently
from wardround.runtime.service_settings import LogSettings
from wardround.runtime.store.port import AccessDeniedError, LoginRefusedError, NotFoundError, ObjectStore
from wardround.runtime.store.s3 import S3Store
from wardround.runtime.store.s3_probe import PROBE_BUCKET, PROBE_PREFIX
from wardround.runtime.telemetry import MeasuredBus, MeasuredStore

log = structlog.get_logger()

STOPS_WITHIN = 20.0  # seconds for a service to finish what it has begun


class UnconfigurableError(Exception):
    """The service cannot start as configured; the message says what to mend."""


class Service(Protocol):
    """A service at work; `ready` is set while it does its duty."""

    @property
    def ready(self) -> asyncio.Event: ...

    async def run(self) -> None: ...


class Settings(Protocol):
    """What the shell needs of any service's settings."""

    @property
    def http(self) -> HttpSettings: ...

    @property
    def log(self) -> LogSettings: ...


@dataclass(frozen=True, slots=True)
class Outside:
    """What a service is handed: its connections, where it counts its figures, and what is to be closed after it.

    In `concerns` it puts what `/health` is to tell though the service is ready: by name, each in words, or None.
    """

    bus: Bus
    store: ObjectStore
    registry: CollectorRegistry
    closing: AsyncExitStack
    concerns: dict[str, Callable[[], str | None]] = field(default_factory=dict)


S = TypeVar("S", bound=Settings)


class Shell(ABC, Generic[S]):
    """One kind of service. `name` is that of its command without `wardround-`."""

    name: ClassVar[str]

    @abstractmethod
    def load(self, path: str, environ: Mapping[str, str]) -> S:
        """Raises `SettingsError`."""

    @abstractmethod
    def hub(self, settings: S) -> Hub:
        """Where it connects to. Raises `UnconfigurableError` where the settings do not say."""

    @abstractmethod
    def assemble(self, settings: S, outside: Outside) -> tuple[Service, Sequence[BaseRoute]]:
        """The service, wired, and the pages that it serves besides the usual ones."""

    async def check_store(self, settings: S, store: ObjectStore) -> None:
        """What must hold of the store before the service starts: at least, that it knows the login.

        Raises:
            StoreError: it does not hold; StoreUnavailableError: the store is away.
        """
        try:
            await store.read(PROBE_BUCKET, f"{PROBE_PREFIX}login", length=1)
        except LoginRefusedError:
            raise
        except (NotFoundError, AccessDeniedError):
            pass  # it answered this login, which may not see everything

    def addresses(self, settings: S) -> Sequence[str]:
        """What it speaks to besides the hub; nothing of it goes unencrypted off the machine."""
        return ()

    def bound(self, settings: S) -> Mapping[str, str]:
        """What stands in every line of its log besides its name."""
        return {}

    # --- life --------------------------------------------------------------------------------------------------------

    async def serve(self, settings: S, *, insecure_lab: bool) -> None:
        """Work until SIGTERM or SIGINT; then finish what was begun, within bounds, and return.

        While broker or store are away at the start they are waited for; `/ready` tells what is missing.

        Raises:
            UnconfigurableError, UnencryptedError, ExposedError, EndpointError: it cannot start as configured.
        """
        refuse_exposed(settings.http, insecure_lab=insecure_lab)
        refuse_unencrypted(self.addresses(settings), insecure_lab=insecure_lab)
        connections = Connections(self.hub(settings), insecure_lab=insecure_lab, client=f"wardround-{self.name}")
        working: list[Service] = []
        endpoint = Endpoint(
            settings.http,
            service=self.name,
            registry=connections.registry,
            checks={**connections.checks, self.name: lambda: _trouble_of(working)},
        )
        serving = asyncio.create_task(endpoint.serve(), name="endpoint")
        work = asyncio.create_task(self._work(settings, connections, endpoint, working), name=self.name)
        stop = asyncio.create_task(_signalled(), name="signals")
        try:
            await asyncio.wait({serving, work, stop}, return_when=asyncio.FIRST_COMPLETED)
            for task in (serving, work):
                if task.done():
                    task.result()
                    raise RuntimeError(f"the {task.get_name()} ended by itself")
            log.info("stopping")
            working.clear()
            await connections.drain()
        finally:
            for task in (work, serving, stop):
                task.cancel()
            await asyncio.wait({work, serving, stop})
            await connections.close()
        log.info("stopped")

    async def _work(self, settings: S, connections: "Connections", endpoint: Endpoint, working: list[Service]) -> None:
        bus, store = await connections.open()
        async with AsyncExitStack() as closing:
            outside = Outside(bus, store, connections.registry, closing)
            await patiently(lambda: self.check_store(settings, store))
            service, routes = self.assemble(settings, outside)
            endpoint.add(routes, concerns=outside.concerns)
            working.append(service)
            log.info("started", port=endpoint.port)
            await service.run()


class Connections:
    """The two connections of a service, measured."""

    def __init__(self, hub: Hub, *, insecure_lab: bool, client: str) -> None:
        """Raises `UnencryptedError`."""
        refuse_unencrypted((hub.broker, hub.store), insecure_lab=insecure_lab)
        self.registry = CollectorRegistry()
        self._hub = hub
        self._client = client
        self._closing = AsyncExitStack()
        self._bus: RabbitBus | None = None
        self._store: MeasuredStore | None = None

    @property
    def checks(self) -> Mapping[str, Callable[[], str | None]]:
        """What is wrong with each, in words; None while all is well."""
        return {"broker": self._broker_trouble, "store": self._store_trouble}

    async def open(self) -> tuple[Bus, ObjectStore]:
        """Connect, however long the broker is away.

        Raises:
            UnconfigurableError: the broker refuses the login, or a secret cannot be read.
        """
        self._store = MeasuredStore(self.store(), self.registry)
        self._closing.push_async_callback(self._store.close)
        self._bus = await patiently(self.bus)
        self._closing.push_async_callback(self._bus.close)
        return MeasuredBus(self._bus, self.registry), self._store

    async def bus(self) -> RabbitBus:
        """One try. Raises `BusUnavailableError`, `UnconfigurableError`."""
        hub = self._hub
        try:
            return await RabbitBus.connect(
                hub.broker, login=hub.username, password=hub.password.read(), ca=hub.ca, name=self._client
            )
        except ForbiddenError as error:
            raise UnconfigurableError(f"{hub.broker} refuses the login '{hub.username}': {error}") from None

    def store(self) -> S3Store:
        """The store, not yet spoken to."""
        key = self._hub.store_key
        return S3Store(self._hub.store, access_key=key.id, secret_key=key.read(), ca=self._hub.ca)

    async def drain(self) -> None:
        """Hear nothing new, and let what was heard be handled."""
        if self._bus is not None:
            await self._bus.drain(within=STOPS_WITHIN)

    async def close(self) -> None:
        await self._closing.aclose()

    def _broker_trouble(self) -> str | None:
        return None if self._bus is not None and self._bus.connected else f"no connection to {self._hub.broker}"

    def _store_trouble(self) -> str | None:
        return "not spoken to yet" if self._store is None else self._store.trouble


def _trouble_of(working: list[Service]) -> str | None:
    if not working:
        return "it is starting or stopping"
    return None if working[0].ready.is_set() else "it is not ready yet"


async def _signalled() -> None:
    """Wait for SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, stop.set)
    await stop.wait()
