"""Services broken on purpose, at their ports or by a subclass: what each does wrong is what its docstring says."""

from typing import Any

from wardround.coordinator import app
from wardround.coordinator.app import Coordinator
from wardround.coordinator.due import due
from wardround.coordinator.evolve import evolve
from wardround.coordinator.experiment import Experiment
from wardround.coordinator.observe import NOWHERE
from wardround.coordinator.proposed import Proposed
from wardround.runtime.bus.port import Bus, Packet
from wardround.runtime.store.port import NotFoundError, ObjectInfo, ObjectStore
from wardround.simulation.faults.process import Process
from wardround.simulation.faults.world import Service, World
from wardround.simulation.sites import Clinic
from wardround_messages.names import ANSWERS_PREFIX, COMMANDS


class Through:
    """A port that hands every call on, but for those that a subclass replaces."""

    def __init__(self, port: Any) -> None:
        self._port = port

    def __getattr__(self, name: str) -> Any:
        return getattr(self._port, name)


# --- journal -----------------------------------------------------------------------------------------------------


class Overwriting(Through):
    """Creates objects below a prefix whether there is one or not."""

    def __init__(self, port: ObjectStore, prefix: str) -> None:
        super().__init__(port)
        self._prefix = prefix

    async def create(self, bucket: str, key: str, data: bytes) -> None:
        if key.startswith(self._prefix):
            await self._port.put(bucket, key, data)
        else:
            await self._port.create(bucket, key, data)


class JournalWithoutALock(World):
    """The journal is appended to without the conditional create."""

    def _coordinator(self, process: Process, bus: Bus, store: ObjectStore) -> Service:
        return super()._coordinator(process, bus, Overwriting(store, "journal/"))


class Hasty(Experiment):
    """Says what an entry calls for before the entry is written."""

    async def _append(self, proposals: list[Proposed]) -> None:
        for proposed in proposals:
            entry = self._journal.draft(proposed.body, cause=proposed.cause)
            after = evolve(self.state, entry)
            observed = await self._observer.look(after, NOWHERE)
            await self._outbox.speak(after, due(after, observed.answers), self._clock())
            self._adopt(await self._journal.append(entry), after)


class HastyCoordinator(Coordinator):
    def _take_up(self, name: str) -> Experiment:
        before, app.Experiment = app.Experiment, Hasty  # type: ignore[misc]
        try:
            return super()._take_up(name)
        finally:
            app.Experiment = before  # type: ignore[misc]


class EffectBeforeItsEntry(World):
    """An effect comes before the journal entry that it follows from."""

    coordinator_type = HastyCoordinator


# --- listening and saying ----------------------------------------------------------------------------------------


class Blind(Through):
    """Finds no answer by listing."""

    async def list(self, bucket: str, prefix: str = "") -> tuple[ObjectInfo, ...]:
        if prefix.startswith(ANSWERS_PREFIX):
            return ()
        return await self._port.list(bucket, prefix)


class OnlyAnnouncementsBelieved(World):
    """Nothing is listed: an answer that was not announced does not exist."""

    def _coordinator(self, process: Process, bus: Bus, store: ObjectStore) -> Service:
        return super()._coordinator(process, bus, Blind(store))


class SaidOnce(Through):
    """Publishes each command once, whoever asks for it again."""

    def __init__(self, port: Bus, said: set[str]) -> None:
        super().__init__(port)
        self._said = said

    async def publish(self, packet: Packet) -> None:
        if packet.exchange == COMMANDS and packet.message_id is not None:
            if packet.message_id in self._said:
                return
            self._said.add(packet.message_id)
        await self._port.publish(packet)


class NothingSaidAgain(World):
    """A command that was lost is not said again."""

    def __init__(self, *parts: Any) -> None:
        self._said: set[str] = set()
        super().__init__(*parts)

    def _coordinator(self, process: Process, bus: Bus, store: ObjectStore) -> Service:
        return super()._coordinator(process, SaidOnce(bus, self._said), store)


# --- overwriting -------------------------------------------------------------------------------------------------


class Forgetful(Overwriting):
    """As `Overwriting`; and never finds what it wrote before."""

    async def head(self, bucket: str, key: str) -> ObjectInfo:
        if key.startswith(self._prefix):
            raise NotFoundError(key)
        return await self._port.head(bucket, key)


class AggregatorOverwrites(World):
    """The aggregator merges again whenever it is asked, and writes over its result."""

    def _aggregator(self, process: Process, bus: Bus, store: ObjectStore) -> Service:
        return super()._aggregator(process, bus, Forgetful(store, "results/"))


class SiteOverwrites(World):
    """A site answers again whenever it is asked, and writes over its answer, also after the step has closed."""

    def _agent(self, clinic: Clinic, process: Process, bus: Bus, store: ObjectStore) -> Service:
        return super()._agent(clinic, process, bus, Forgetful(store, "answers/"))


MUTANTS: tuple[type[World], ...] = (
    JournalWithoutALock,
    EffectBeforeItsEntry,
    OnlyAnnouncementsBelieved,
    NothingSaidAgain,
    AggregatorOverwrites,
    SiteOverwrites,
)
