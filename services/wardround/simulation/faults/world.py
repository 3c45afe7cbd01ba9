"""A hub and its clinics in one process, with everything around them that may fail, and somebody to put it right."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from wardround.aggregator.app import Aggregator
from wardround.coordinator.app import Coordinator
from wardround.metrics.service import MetricsService
from wardround.runtime.bus.memory import MemoryBus
from wardround.runtime.bus.port import Bus
from wardround.runtime.clock import Clock
from wardround.runtime.ids import fresh_id
from wardround.runtime.store.announcements import BusAnnouncer
from wardround.runtime.store.port import ObjectStore
from wardround.simulation.faults.fates import Fates
from wardround.simulation.faults.followed import Followed
from wardround.simulation.faults.history import History
from wardround.simulation.faults.machine import Machine
from wardround.simulation.faults.plan import TWIN, Plan
from wardround.simulation.faults.ports import (
    FaultyBus,
    FaultyDisk,
    FaultyScheduler,
    FaultyStore,
    LossyBroker,
    RottingStore,
)
from wardround.simulation.faults.process import Link, Process
from wardround.simulation.federation import installed_catalogue
from wardround.simulation.sites import RESEARCHER, Clinic
from wardround.site_agent.app import SiteAgent
from wardround.site_agent.scheduler.port import Scheduler
from wardround_messages.topology import topology

EPOCH = datetime(2026, 3, 1, tzinfo=UTC)


class Service(Protocol):
    async def run(self) -> None: ...


class World:
    """Starts, kills, freezes and cuts off services by name: `coordinator-1`, `aggregator-1`, `metrics`, `clinic-1`.

    `clinics` holds what an agent stands on, by the agent's name. Its folder outlives every kill, and so does the
    clinic's scheduler, unless the machine goes down.
    """

    coordinator_type = Coordinator

    def __init__(self, plan: Plan, clinics: Mapping[str, Clinic], folder: Path, fates: Fates) -> None:
        loop = asyncio.get_running_loop()
        self.plan = plan
        self.clinics = clinics
        self.history = History(loop.time)
        self.journal = Followed(self.history)
        self.fates = fates
        self.broker = LossyBroker(topology(plan.clinics, (RESEARCHER,)), fates, self.history)
        announcer = BusAnnouncer(MemoryBus(self.broker, "store"))
        self.store = RottingStore(announcer, fates, self.history)
        self.machines: dict[str, Machine] = {}
        self.processes: dict[str, Process] = {}
        self.coordinators: dict[str, Coordinator] = {}
        self.skews: dict[str, timedelta] = {}
        self._links: dict[str, Link] = {}
        self._store_away = False
        self._full: set[str] = set()
        self._buses: dict[str, FaultyBus] = {}
        self._folder = folder
        self._now = loop.time
        self._works: dict[asyncio.Task[None], None] = {}
        self._down: set[str] = set()
        self._makers: dict[str, Callable[[Process, Bus, ObjectStore], Service]] = {
            **{f"coordinator-{number}": self._coordinator for number in range(1, plan.coordinators + 1)},
            **{f"aggregator-{number}": self._aggregator for number in range(1, plan.aggregators + 1)},
            "metrics": self._metrics,
            **{name: partial(self._agent, clinic) for name, clinic in self.clinics.items()},
        }

    # --- the services, made as their own programs make them ----------------------------------------------------------

    def _coordinator(self, process: Process, bus: Bus, store: ObjectStore) -> Service:
        service = self.coordinators[process.name] = self.coordinator_type(
            bus,
            store,
            clock=self._clock_of(process.name),
            sites=lambda: frozenset(self.plan.clinics),
            interval=self.plan.interval,
            writer=f"{process.name}.{fresh_id()[:8]}",
        )
        return service

    def _aggregator(self, process: Process, bus: Bus, store: ObjectStore) -> Service:
        return Aggregator(bus, store, clock=self._clock_of(process.name), workdir=self._folder / process.name)

    def _metrics(self, process: Process, bus: Bus, store: ObjectStore) -> Service:
        return MetricsService(bus, store, clock=self._clock_of(process.name), look_every=self.plan.interval)

    def _agent(self, clinic: Clinic, process: Process, bus: Bus, store: ObjectStore) -> Service:
        return SiteAgent(
            clinic.settings,
            clinic.policy,
            bus=bus,
            store=store,
            scheduler=self._scheduler(clinic, process),
            catalogue=installed_catalogue,
            clock=self._clock_of(process.name),
            durable=False,
            disk=FaultyDisk(process),
        )

    def _scheduler(self, clinic: Clinic, process: Process) -> Scheduler:
        name = process.name
        if name not in self.machines:
            spool = clinic.settings.paths.spool
            self.machines[name] = Machine(clinic.name, f"{name}'s machine", spool, self.fates, self.history)
        return FaultyScheduler(self.machines[name], process)

    def _clock_of(self, name: str) -> Clock:
        return lambda: EPOCH + timedelta(seconds=self._now()) + self.skews.get(name, timedelta())

    # --- life and death ----------------------------------------------------------------------------------------------

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._makers)

    def alive(self, name: str) -> bool:
        return not self.processes[name].dead

    def start(self, name: str) -> None:
        """Start a service, or start one again that was killed and is quite gone."""
        process = Process(name, self.fates, self.history, on_kill=self._killed, link=self.link(name))
        process.store_away = self._store_away
        process.disk_full = name in self._full
        login = name.rpartition("-")[0] if name.startswith(("coordinator-", "aggregator-")) else name.removesuffix(TWIN)
        bus = self._buses[name] = FaultyBus(MemoryBus(self.broker, login), process, self.history)
        store = FaultyStore(self.store, process, self.fates, self.history)
        service = self._makers[name](process, bus, store)
        self.processes[name] = process
        self.history.note(name, "started")
        process.begin(self._run(process, service))

    async def kill(self, name: str) -> None:
        """End a service wherever it is; nobody starts it again."""
        process = self.processes[name]
        await process.end()
        await self._buses[name].close()

    async def restart(self, name: str, *, machine: bool = False) -> None:
        """Kill the service, if it lives, and start it again after a while; nothing where that is under way.

        With `machine` a clinic's computer goes down, the trainings with it.
        """
        if name in self._down:
            return
        self._down.add(name)
        try:
            await self.kill(name)
            if machine and (scheduler := self.machines.pop(name, None)) is not None:
                await scheduler.go_down()
            await asyncio.sleep(self.fates.restart(name))
        finally:
            self._down.remove(name)
        self.start(name)

    async def close(self) -> None:
        for work in tuple(self._works):
            work.cancel()
        if self._works:
            await asyncio.wait(tuple(self._works))
        for name in self.processes:
            await self.kill(name)
        for machine in self.machines.values():
            await machine.go_down()

    def _killed(self, process: Process) -> None:
        """A fate killed it at a call: whoever watches over it starts it again."""
        self.soon(self.restart(process.name))

    def soon(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do something beside all else; whatever is under way at the end is given up."""
        task = asyncio.create_task(work)
        self._works[task] = None
        task.add_done_callback(self._works.pop)
        return task

    async def _run(self, process: Process, service: Service) -> None:
        try:
            await service.run()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            if not process.dead:
                self.history.crash(process.name, error)
        else:
            self.history.crash(process.name, RuntimeError("it ended by itself"))
        if not process.dead:
            process.dead = True
            self._killed(process)

    # --- what is around them -----------------------------------------------------------------------------------------

    def freeze(self, name: str) -> None:
        """The service stands still; the broker notices, and gives what it held to another."""
        self.processes[name].freeze()
        self._buses[name].inner.suspend()

    def thaw(self, name: str) -> None:
        process = self.processes[name]
        if process.frozen and not process.dead:
            process.thaw()
            self._connect(name)

    def link(self, name: str) -> Link:
        return self._links.get(name, Link.UP)

    def cut(self, name: str, link: Link) -> None:
        """Change the line between a service and the hub."""
        self._links[name] = link
        self.processes[name].link = link
        self._buses[name].inner.suspend()  # also where it is up again: what was in doubt is settled by a new connection
        self._connect(name)

    def _connect(self, name: str) -> None:
        process = self.processes[name]
        if process.link in (Link.UP, Link.MUTE) and not process.dead and not process.frozen:
            self._buses[name].inner.resume()

    def turn_clock(self, name: str, seconds: float) -> None:
        """From here on the service's wall clock is so many seconds ahead of the true time."""
        self.skews[name] = timedelta(seconds=seconds)
        self.history.inject("clock", name, about=f"{seconds:+.0f} s")

    def store_is_away(self, away: bool) -> None:
        self._store_away = away
        for process in self.processes.values():
            process.store_away = away

    def disk_is_full(self, name: str, full: bool) -> None:
        """Whether the clinic's disk takes nothing more into inbox and log."""
        if full:
            self._full.add(name)
        else:
            self._full.discard(name)
        self.processes[name].disk_full = full
