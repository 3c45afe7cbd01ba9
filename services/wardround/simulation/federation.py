"""Coordinator, aggregator, metrics and a site-agent per clinic, on an embedded bus and store, as tasks of one loop."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, cast

from wardround.aggregator.app import Aggregator
from wardround.coordinator.app import RECONCILE_INTERVAL, Coordinator
from wardround.metrics.board import Board
from wardround.metrics.service import MetricsService
from wardround.runtime.bus.memory import MemoryBus
from wardround.runtime.bus.memory_broker import MemoryBroker
from wardround.runtime.clock import Clock, wall_clock
from wardround.runtime.journal import JournalBrokenError
from wardround.runtime.store.announcements import BusAnnouncer
from wardround.runtime.store.folder import FolderStore
from wardround.runtime.store.memory import MemoryStore
from wardround.runtime.store.port import ObjectStore
from wardround.simulation.sites import RESEARCHER, Clinic
from wardround.site_agent.app import SiteAgent
from wardround.site_agent.scheduler.inline import InlineScheduler
from wardround.site_agent.scheduler.local import LocalScheduler
from wardround.site_agent.scheduler.port import Scheduler
from wardround.training.registry import describe
from wardround.training.runner import run_folder
from wardround_messages.parts import TrainerDescription
from wardround_messages.topology import topology

T = TypeVar("T")


class Service(Protocol):
    @property
    def ready(self) -> asyncio.Event: ...

    async def run(self) -> None: ...


class Federation:
    """Services that can be started and killed one by one; `running` starts all and ends them.

    Args:
        folder: holds `hub/` (the object store, unless it is kept in memory) and `work/`.
        scheduler: trainings as threads of this process, or as child processes.
        threads: with inline trainings, whether they leave the event loop; without, the order of all steps is fixed.
    """

    def __init__(
        self,
        folder: Path,
        clinics: Sequence[Clinic],
        *,
        store: Literal["folder", "memory"] = "folder",
        scheduler: Literal["inline", "local"] = "inline",
        threads: bool = True,
        coordinators: int = 1,
        aggregators: int = 1,
        clock: Clock = wall_clock,
        interval: float = RECONCILE_INTERVAL,
    ) -> None:
        sites = tuple(clinic.name for clinic in clinics)
        self.broker = MemoryBroker(topology(sites, (RESEARCHER,)))
        self.clock = clock
        self.services: dict[str, Service] = {}
        self.board = Board()
        announcer = BusAnnouncer(MemoryBus(self.broker, "store"))
        self.store: ObjectStore = (
            MemoryStore(announcer)
            if store == "memory"
            else FolderStore(folder / "hub", announcer=announcer, durable=False)
        )
        self._folder = folder
        self._scheduler = scheduler
        self._threads = threads
        self._turn = asyncio.Lock()
        self._interval = interval
        self._roster = frozenset(sites)
        self._makers: dict[str, Callable[[MemoryBus], Service]] = {
            **{f"coordinator-{number}": self._coordinator for number in range(1, coordinators + 1)},
            **{
                f"aggregator-{number}": partial(self._aggregator, f"aggregator-{number}")
                for number in range(1, aggregators + 1)
            },
            "metrics": self._metrics,
            **{clinic.name: partial(self._agent, clinic) for clinic in clinics},
        }
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._schedulers: dict[str, Scheduler] = {}
        self._faulted: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # --- wiring ------------------------------------------------------------------------------------------------------

    def _coordinator(self, bus: MemoryBus) -> Service:
        return Coordinator(bus, self.store, clock=self.clock, sites=lambda: self._roster, interval=self._interval)

    def _aggregator(self, name: str, bus: MemoryBus) -> Service:
        return Aggregator(bus, self.store, clock=self.clock, workdir=self._folder / "work" / name)

    def _metrics(self, bus: MemoryBus) -> Service:
        service = MetricsService(bus, self.store, clock=self.clock)
        self.board = service.board
        return service

    def _agent(self, clinic: Clinic, bus: MemoryBus) -> Service:
        scheduler = self._schedulers[clinic.name] = self._training(clinic)
        return SiteAgent(
            clinic.settings,
            clinic.policy,
            bus=bus,
            store=self.store,
            scheduler=scheduler,
            catalogue=installed_catalogue,
            clock=self.clock,
            durable=False,
        )

    def _training(self, clinic: Clinic) -> Scheduler:
        spool = clinic.settings.paths.spool
        if self._scheduler == "local":
            return LocalScheduler(spool, python=clinic.settings.scheduler.python)
        return InlineScheduler(spool, run_folder, threads=self._threads, turn=self._turn)

    # --- life --------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Federation"]:
        """All services, until the block ends."""
        try:
            for name in self._makers:
                self.start(name)
            await asyncio.gather(*(self.until(service.ready.wait()) for service in self.services.values()))
            yield self
        finally:
            await asyncio.gather(*map(self.kill, list(self._tasks)))
            await self.store.close()
            self._faulted.cancel()

    def start(self, name: str) -> None:
        """Start a service, or start one again that was killed."""
        login = name.rpartition("-")[0] if name.startswith(("coordinator-", "aggregator-")) else name
        bus = MemoryBus(self.broker, login)
        service = self.services[name] = self._makers[name](bus)
        self._tasks[name] = asyncio.create_task(self._run(name, service, bus), name=name)
        self._tasks[name].add_done_callback(self._note_fault)

    async def kill(self, name: str) -> None:
        """End a service wherever it is."""
        task = self._tasks.pop(name)
        task.remove_done_callback(self._note_fault)
        task.cancel()
        await asyncio.wait({task})

    async def until(self, awaitable: Awaitable[T]) -> T:
        """Await something; a service that fails meanwhile ends the wait with its error."""
        waiting: asyncio.Future[Any] = asyncio.ensure_future(awaitable)
        try:
            faulted: asyncio.Future[Any] = self._faulted
            await asyncio.wait({waiting, faulted}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                self._faulted.result()
            return cast("T", await waiting)
        finally:
            waiting.cancel()

    def broken(self, experiment: str) -> JournalBrokenError | None:
        """Why a coordinator stopped the experiment, if one did."""
        for service in self.services.values():
            if isinstance(service, Coordinator) and experiment in service.experiments:
                return service.experiments[experiment].broken
        return None

    async def _run(self, name: str, service: Service, bus: MemoryBus) -> None:
        try:
            await service.run()
        finally:
            await bus.close()
            if (scheduler := self._schedulers.pop(name, None)) is not None:
                await scheduler.close()

    def _note_fault(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or self._faulted.done():
            return
        error = task.exception() or RuntimeError(f"{task.get_name()} ended by itself")
        self._faulted.set_exception(error)


@cache
def _installed() -> tuple[TrainerDescription, ...]:
    """What is installed does not change while this process, which has loaded it, lives."""
    return describe()


async def installed_catalogue() -> tuple[TrainerDescription, ...]:
    """The trainers of this process, as a site's `Catalogue`."""
    return _installed()
