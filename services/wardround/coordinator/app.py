"""The coordinator: wires experiments to the bus. Run it twice and nothing goes wrong."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from weakref import WeakValueDictionary

import structlog

from wardround.coordinator.admission import admit
from wardround.coordinator.commands import ExperimentCommand, Refusal
from wardround.coordinator.experiment import Experiment
from wardround.coordinator.outbox import GIVE_UP_AFTER
from wardround.runtime.bus.messaging import Messenger, Received, open_delivery
from wardround.runtime.bus.port import Bus, BusError, DeadLetterError, Delivery
from wardround.runtime.clock import Clock
from wardround.runtime.ids import fresh_id
from wardround.runtime.journal import JournalBrokenError
from wardround.runtime.patience import patiently
from wardround.runtime.store.announcements import translate
from wardround.runtime.store.port import NotFoundError, ObjectStore
from wardround_messages.base import canonical_json, digest
from wardround_messages.codec import MalformedError
from wardround_messages.commands import (
    AbortExperiment,
    ExtendExperiment,
    PauseExperiment,
    ReadmitSite,
    ResumeExperiment,
    StartExperiment,
)
from wardround_messages.events import CommandRefused, ExperimentRefused, SiteSeen
from wardround_messages.names import (
    ANNOUNCED,
    COORDINATOR_QUEUE,
    HUB,
    OBJECTSTORE,
    JournalKey,
    bucket_of,
    experiment_of,
)

log = structlog.get_logger()

LONGEST_PAUSE = 600.0
LOOK_AROUND_AT_MOST_EVERY = 1.0
RECONCILE_INTERVAL = 15.0  # seconds: how late an object is noticed at most when its announcement is lost


class Coordinator:
    """Decides for every experiment of the hub. `sites` tells the roster: which sites there are now; `writer` signs the
    journal's entries, and no two processes share it."""

    def __init__(
        self,
        bus: Bus,
        store: ObjectStore,
        *,
        clock: Clock,
        sites: Callable[[], frozenset[str]],
        interval: float = RECONCILE_INTERVAL,
        writer: str | None = None,
    ) -> None:
        self.ready = asyncio.Event()
        self.experiments: dict[str, Experiment] = {}
        self._ended: set[str] = set()
        self._bus = bus
        self._store = store
        self._clock = clock
        self._sites = sites
        self._interval = interval
        self._writer = writer or f"{socket.gethostname()}.{os.getpid()}.{fresh_id()[:8]}"[:120]
        self._messenger = Messenger(bus, service="coordinator", origin=HUB, clock=clock)
        self._unknown = asyncio.Event()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks: asyncio.TaskGroup

    async def run(self) -> None:
        """Run until cancelled. Every experiment in the store is taken up where its journal says it is."""
        async with asyncio.TaskGroup() as self._tasks:
            self._bus.on_connect(self._reconnected)
            await patiently(self._take_up_all)
            subscription = await patiently(
                lambda: self._bus.subscribe(COORDINATOR_QUEUE, self._on_delivery, dead_key=self._messenger.dead_key)
            )
            self.ready.set()
            try:
                await self._look_around()
            finally:
                await subscription.close()

    async def _look_around(self) -> None:
        """Find what another coordinator let in: now and then, and when something unknown is announced."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._unknown.wait()
            self._unknown.clear()
            await patiently(self._take_up_all)
            await asyncio.sleep(LOOK_AROUND_AT_MOST_EVERY)

    async def _take_up_all(self) -> None:
        for bucket in await self._store.buckets():
            name = experiment_of(bucket)
            if name is not None and name not in self._ended:
                await self._find(name)

    async def _find(self, name: str) -> Experiment | None:
        """The experiment, taken up where this process does not have it in hand; None where there is none."""
        if name in self.experiments:
            return self.experiments[name]
        try:
            await self._store.head(bucket_of(name), str(JournalKey(0)))
            await self._store.announce(bucket_of(name), ANNOUNCED)
        except NotFoundError:
            return None
        return self.experiments.get(name) or self._take_up(name)

    def _take_up(self, name: str) -> Experiment:
        self._ended.discard(name)
        experiment = Experiment(
            name, self._store, self._messenger, writer=self._writer, clock=self._clock, interval=self._interval
        )
        self.experiments[name] = experiment
        self._tasks.create_task(self._run(experiment), name=f"experiment {name}")
        return experiment

    async def _run(self, experiment: Experiment) -> None:
        """One experiment's fault must not stop the others: it is begun anew, ever more rarely."""
        pause = self._interval
        while True:
            try:
                await experiment.run()
            except Exception:
                log.exception("experiment_faulted", experiment=experiment.name, again_in=pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
                experiment.begin_anew()
            else:
                break
        if experiment.broken is None:
            del self.experiments[experiment.name]
            self._ended.add(experiment.name)

    def _reconnected(self) -> None:
        self._unknown.set()
        for experiment in self.experiments.values():
            experiment.reconnected()

    # --- what comes in -----------------------------------------------------------------------------------------------

    async def _on_delivery(self, delivery: Delivery) -> None:
        """An outage of the store holds the message; it never spends the delivery limit."""
        if delivery.packet.exchange == OBJECTSTORE:
            self._on_announcement(delivery)
        else:
            received = open_delivery(delivery)
            await patiently(lambda: self._on_message(received))

    def _on_announcement(self, delivery: Delivery) -> None:
        try:
            announced = translate(delivery.packet.body)
        except MalformedError as error:
            raise DeadLetterError(error.code, error.detail) from None
        for one in announced:
            name = experiment_of(one.bucket)
            if name in self.experiments:
                self.experiments[name].announced(one.key)
            elif name in self._ended:
                self._take_up(name)
            elif name is not None:
                self._unknown.set()

    async def _on_message(self, received: Received) -> None:
        match received.message:
            case StartExperiment() as command:
                await self._start(command, received)
            case (
                PauseExperiment() | ResumeExperiment() | AbortExperiment() | ExtendExperiment() | ReadmitSite()
            ) as command:
                await self._command(command, received)
            case SiteSeen() as seen:
                await self._seen(seen)
            case other:
                raise DeadLetterError("not_for_me", f"the coordinator does not handle {other.type}")

    async def _start(self, command: StartExperiment, received: Received) -> None:
        async with self._turn(command.experiment):
            try:
                refusal = await admit(
                    self._store,
                    command,
                    command_id=received.envelope.id,
                    requested_by=received.login,
                    known_sites=self._sites(),
                    writer=self._writer,
                    clock=self._clock,
                )
            except JournalBrokenError as error:
                refusal = Refusal("journal_broken", str(error)[:400])
            if refusal is not None:
                await self._refuse(ExperimentRefused, command, received, refusal)
            elif (known := await self._find(command.experiment)) is not None:
                known.repeat_newest()

    async def _command(self, command: ExperimentCommand, received: Received) -> None:
        refusal: Refusal | None
        async with self._turn(command.experiment):
            experiment = await self._find(command.experiment)
            if experiment is None:
                refusal = Refusal("unknown_experiment", f"there is no experiment '{command.experiment}'")
            else:
                try:
                    refusal = await experiment.carry_out(command, received.envelope.id)
                except JournalBrokenError as error:
                    refusal = Refusal("journal_broken", str(error)[:400])
            if refusal is not None:
                await self._refuse(CommandRefused, command, received, refusal)

    def _turn(self, experiment: str) -> asyncio.Lock:
        """Commands to one experiment are carried out in the order in which they came."""
        return self._turns.setdefault(experiment, asyncio.Lock())

    async def _refuse(
        self,
        event: type[ExperimentRefused | CommandRefused],
        command: StartExperiment | ExperimentCommand,
        received: Received,
        refusal: Refusal,
    ) -> None:
        log.info("command_refused", experiment=command.experiment, command=command.type, code=refusal.code)
        refused = event(
            experiment=command.experiment,
            command=received.envelope.id,
            command_sha256=digest(canonical_json(command)),
            code=refusal.code,
            reason=refusal.reason,
        )
        try:
            await self._messenger.send(refused, cause=received.envelope.id, give_up_after=GIVE_UP_AFTER)
        except BusError as error:
            log.warning("not_sent", experiment=command.experiment, error=str(error))

    async def _seen(self, seen: SiteSeen) -> None:
        for name in {task.experiment for task in seen.tasks}:
            await self._find(name)
        for experiment in self.experiments.values():
            if experiment.concerns(seen):
                experiment.seen(seen)
