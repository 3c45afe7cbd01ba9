"""The broker in memory: exchanges, queues, logins and rights of a topology, and the faults a test may ask for."""

import re
from typing import Protocol

import structlog

from wardround.runtime.bus.dead_letters import DeadLetter, given_up
from wardround.runtime.bus.memory_queues import MemoryQueue, MemoryStream, Source
from wardround.runtime.bus.port import ForbiddenError, Offset, Packet, UnroutableError
from wardround.runtime.bus.topics import TopicTable
from wardround_messages.names import DEAD_QUEUE
from wardround_messages.topology import Queue, Topology

log = structlog.get_logger()

STREAM_KEEPS = 20_000


class Connection(Protocol):
    """A login's connection as the broker sees it."""

    @property
    def login(self) -> str: ...

    def suspend(self) -> None: ...

    def resume(self) -> None: ...

    async def close(self) -> None: ...


class MemoryBroker:
    """A broker for one event loop; `MemoryBus(broker, login)` connects to it. No randomness, no clock.

    Everything that is not acknowledged outlives `stop` and `start`; a stream keeps its last `stream_keeps` messages.
    """

    def __init__(self, topology: Topology, *, stream_keeps: int = STREAM_KEEPS) -> None:
        self.topology = topology
        self._queues = {queue.name: self._make(queue, stream_keeps) for queue in topology.queues}
        self._exchanges: dict[str, TopicTable[MemoryQueue | MemoryStream]] = {
            exchange: TopicTable() for exchange in topology.exchanges
        }
        for binding in topology.bindings:
            self._exchanges[binding.exchange].bind(binding.pattern, self._queues[binding.queue])
        self._writes = {
            login.name: {exchange: re.compile(pattern) for exchange, pattern in login.writes.items()}
            for login in topology.logins
        }
        self._reads = {login.name: frozenset(login.reads) for login in topology.logins}
        self._impersonators = frozenset(login.name for login in topology.logins if login.impersonates)
        self._connections: list[Connection] = []
        self._running = True
        self._cut_off: set[str] = set()

    def _make(self, queue: Queue, stream_keeps: int) -> MemoryQueue | MemoryStream:
        if queue.kind == "stream":
            return MemoryStream(queue, self._give_up, stream_keeps)
        return MemoryQueue(queue, self._give_up)

    async def close(self) -> None:
        """Close every connection."""
        for connection in tuple(self._connections):
            await connection.close()

    # --- what a connection asks for ------------------------------------------------------------------------------

    def connect(self, connection: Connection) -> None:
        """Raises `ForbiddenError` for a login that the topology does not hold."""
        if connection.login not in self._reads:
            raise ForbiddenError(f"the broker knows no login {connection.login!r}: add it to the roster")
        self._connections.append(connection)

    def forget(self, connection: Connection) -> None:
        self._connections.remove(connection)

    def reachable(self, login: str) -> bool:
        return self._running and login not in self._cut_off

    def check_write(self, login: str, packet: Packet) -> None:
        """Raises `ForbiddenError`."""
        if packet.user_id not in (None, login) and login not in self._impersonators:
            raise ForbiddenError(f"{login} may not publish as {packet.user_id!r}")
        pattern = self._writes[login].get(packet.exchange)
        if pattern is None or pattern.search(packet.routing_key) is None:
            raise ForbiddenError(f"{login} may not write {packet.routing_key!r} to {packet.exchange!r}")

    def route(self, packet: Packet) -> None:
        """Put the packet into every queue bound for it, with no question asked about the sender.

        Raises:
            UnroutableError: no queue is bound for its routing key.
        """
        table = self._exchanges.get(packet.exchange)
        queues = table.match(packet.routing_key) if table is not None else []
        if not queues:
            raise UnroutableError(
                f"no queue of {packet.exchange!r} is bound for {packet.routing_key!r}: is the receiver in the roster?"
            )
        for queue in queues:
            queue.put(packet)

    def source(self, login: str, queue: str, offset: Offset | None) -> Source:
        """What a consumer of the queue attaches to. Raises `ForbiddenError`."""
        if queue not in self._reads[login] or queue not in self._queues:
            raise ForbiddenError(f"{login} may not read {queue!r}")
        return self._queues[queue].source(offset)

    def _give_up(self, packet: Packet, queue: str) -> None:
        log.warning("delivery_limit_spent", queue=queue, message_id=packet.message_id, login=packet.user_id)
        try:
            if queue == DEAD_QUEUE:
                raise UnroutableError("there is no place for dead letters that are dead themselves")
            self.route(given_up(packet, queue=queue))
        except UnroutableError as error:
            log.error("message_dropped", queue=queue, message_id=packet.message_id, error=str(error))

    # --- faults --------------------------------------------------------------------------------------------------

    def disconnect(self, login: str) -> None:
        """Cut the login's connections: handlers are cancelled, what they held goes back to the queues."""
        self._cut_off.add(login)
        self._suspend_unreachable()

    def reconnect(self, login: str) -> None:
        """Subscriptions go on, and those who asked for it are called back."""
        if login in self._cut_off:
            self._cut_off.remove(login)
            self._resume([login])

    def stop(self) -> None:
        """Cut all connections. Messages stay."""
        self._running = False
        self._suspend_unreachable()

    def start(self) -> None:
        if not self._running:
            self._running = True
            self._resume(list(self._reads))

    def wipe(self) -> None:
        """Lose every message, as a new and empty broker in the place of the old one: connections drop and come back."""
        was_running = self._running
        self.stop()
        for queue in self._queues.values():
            queue.clear()
        if was_running:
            self.start()

    def _suspend_unreachable(self) -> None:
        for connection in tuple(self._connections):
            if not self.reachable(connection.login):
                connection.suspend()

    def _resume(self, logins: list[str]) -> None:
        for connection in tuple(self._connections):
            if connection.login in logins and self.reachable(connection.login):
                connection.resume()

    # --- for people and tests ------------------------------------------------------------------------------------

    def depth(self, queue: str) -> int:
        """Messages in the queue, those delivered and not yet acknowledged included."""
        return self._queues[queue].depth()

    def dead_letters(self) -> tuple[DeadLetter, ...]:
        return tuple(DeadLetter.read(packet) for packet in self._queues[DEAD_QUEUE].packets())
