"""What the bus contract runs in: one world per adapter, all with the same exchanges, queues, logins and rights."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

from servers.proxy import Proxy
from servers.rabbitmq import Broker, RabbitServer
from wardround.runtime.bus.dead_letters import DeadLetter
from wardround.runtime.bus.memory import MemoryBroker, MemoryBus
from wardround.runtime.bus.port import Bus, Delivery
from wardround.runtime.bus.rabbit import RabbitBus
from wardround_messages.topology import Binding, Login, Queue, Topology

LIMIT = 3

TOPOLOGY = Topology(
    exchanges=("wr.commands", "wr.events", "wr.dead"),
    queues=(
        Queue("work", delivery_limit=LIMIT),
        Queue("single", single_active=True, delivery_limit=LIMIT),
        Queue("twice", delivery_limit=LIMIT),
        Queue("log", kind="stream", delivery_limit=LIMIT),
        Queue("wr.dead"),
    ),
    bindings=(
        Binding("wr.commands", "work", "cmd.work.#"),
        Binding("wr.commands", "single", "cmd.single.*"),
        Binding("wr.commands", "twice", "cmd.#.both"),
        Binding("wr.commands", "twice", "cmd.twice.#"),
        Binding("wr.events", "log", "evt.#"),
        Binding("wr.dead", "wr.dead", "#"),
    ),
    logins=(
        Login("writer", {"wr.commands": r"^cmd\.", "wr.events": r"^evt\."}),
        Login("worker", {"wr.dead": r"^dead\.worker\.hub$"}, ("work", "single", "twice", "log")),
        Login("spare", {"wr.dead": r"^dead\.spare\.hub$"}, ("work", "single", "log")),
        Login("reader", {}, ("log",)),
        Login("undertaker", {}, ("wr.dead",)),
    ),
)


class BusWorld(Protocol):
    """A broker that holds `TOPOLOGY` and no message yet."""

    async def connect(self, login: str) -> Bus:
        """A new connection, which the world closes at the end. Raises `ForbiddenError`."""

    async def disconnect(self, login: str) -> None:
        """Cut the login's connections and keep them cut."""

    async def reconnect(self, login: str) -> None:
        """Let them come back; returns when they have."""

    async def stop(self) -> None: ...

    async def start(self) -> None: ...

    async def depth(self, queue: str) -> int:
        """Messages in the queue, those delivered and not acknowledged included."""

    async def settle(self) -> None:
        """Long enough for whatever is on its way to arrive."""


async def wait_for(condition: Callable[[], bool], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the condition may be anything
            await asyncio.sleep(0.001)


class Inbox:
    """A handler that keeps what it receives."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []

    async def __call__(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)

    @property
    def bodies(self) -> list[bytes]:
        return [delivery.packet.body for delivery in self.deliveries]

    @property
    def dead_letters(self) -> list[DeadLetter]:
        return [DeadLetter.read(delivery.packet) for delivery in self.deliveries]


class MemoryWorld:
    def __init__(self) -> None:
        self._broker = MemoryBroker(TOPOLOGY)

    async def connect(self, login: str) -> Bus:
        return MemoryBus(self._broker, login)

    async def disconnect(self, login: str) -> None:
        self._broker.disconnect(login)

    async def reconnect(self, login: str) -> None:
        self._broker.reconnect(login)

    async def stop(self) -> None:
        self._broker.stop()

    async def start(self) -> None:
        self._broker.start()

    async def depth(self, queue: str) -> int:
        return self._broker.depth(queue)

    async def settle(self) -> None:
        for _ in range(50):
            await asyncio.sleep(0)

    async def close(self) -> None:
        await self._broker.close()


class RabbitWorld:
    """Each login comes through a proxy of its own, whose line is cut and mended."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._proxies: dict[str, Proxy] = {}
        self._buses: list[RabbitBus] = []

    async def connect(self, login: str) -> Bus:
        await self._line(login).mend()
        bus = await self._broker.connect(login, port=self._line(login).port)
        self._buses.append(bus)
        return bus

    def _line(self, login: str) -> Proxy:
        return self._proxies.setdefault(login, Proxy(self._broker.server.port))

    async def disconnect(self, login: str) -> None:
        await self._line(login).cut()
        await self._until_connected(False, login)

    async def reconnect(self, login: str) -> None:
        await self._line(login).mend()
        await self._until_connected(True, login)

    async def stop(self) -> None:
        await self._broker.server.stop()
        await self._until_connected(False)

    async def start(self) -> None:
        await self._broker.server.start()
        await self._until_connected(True)

    async def depth(self, queue: str) -> int:
        return self._broker.depth(queue)

    async def settle(self) -> None:
        await asyncio.sleep(0.2)

    async def _until_connected(self, expected: bool, login: str | None = None) -> None:
        buses = [bus for bus in self._buses if login in (None, bus.login)]
        await wait_for(lambda: all(bus.connected is expected for bus in buses), 20)

    async def close(self) -> None:
        await self._broker.close()
        for proxy in self._proxies.values():
            await proxy.cut()


@asynccontextmanager
async def memory_world() -> AsyncIterator[BusWorld]:
    world = MemoryWorld()
    yield world
    await world.close()


@asynccontextmanager
async def rabbit_world(server: RabbitServer) -> AsyncIterator[BusWorld]:
    async with server.broker(TOPOLOGY, streams={"log": LIMIT}) as broker:
        world = RabbitWorld(broker)
        try:
            yield world
        finally:
            await world.close()
