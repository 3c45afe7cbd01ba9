"""Brings about faults on a real stack, each noted in the recording with when it began and when it was over."""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

from servers.proxy import Proxy
from servers.recorder import Recording
from servers.stack import Stack
from wardround.simulation.faults.history import Injected
from wardround.simulation.sites import SITE_FILE
from wardround.stack.folder import read_state
from wardround.stack.loopback import answers
from wardround.stack.ports import LOOPBACK
from wardround.stack.sites import SITES

READY_WITHIN = 120.0


class Disturber:
    """Every fault is over when its method returns or its context ends."""

    def __init__(self, stack: Stack, recording: Recording) -> None:
        self._stack = stack
        self._recording = recording
        self._history = recording.history

    async def kill(self, *programs: str) -> None:
        """SIGKILL to all of them at once; they are ready again when this returns."""
        before = {program: self._stack.restarts(program) for program in programs}
        for program in programs:
            self._history.inject("killed", program)
            self._stack.kill(program)
        await self._back(before)

    async def wipe_broker(self) -> None:
        """A new node stands in its place, with nothing but its definitions."""
        before = {"rabbitmq": self._stack.restarts("rabbitmq")}
        with self._unsupervised():
            self._history.inject("wiped", "rabbitmq")
            self._stack.kill("rabbitmq")
            data = self._stack.folder / "servers" / "rabbitmq" / "data"
            await asyncio.to_thread(shutil.rmtree, data)
            data.mkdir(mode=0o700)
        await self._back(before)

    async def take_away(self, program: str, seconds: float) -> None:
        """Dead, and nobody starts it again for a while."""
        before = {program: self._stack.restarts(program)}
        with self._unsupervised():
            self._history.inject("away", program)
            self._stack.kill(program)
            await asyncio.sleep(seconds)
        await self._back(before)

    async def freeze(self, program: str, seconds: float) -> None:
        """It stands still, with every connection open, and goes on as if nothing had been."""
        async with self.during("frozen", program):
            pid = self._stack.pid(program)
            os.killpg(pid, signal.SIGSTOP)
            try:
                await asyncio.sleep(seconds)
            finally:
                os.killpg(pid, signal.SIGCONT)

    @asynccontextmanager
    async def during(self, kind: str, target: str) -> AsyncIterator[None]:
        """The fault that the caller brings about; what it leaves behind is over at the end."""
        place = len(self._history.injected)
        self._history.inject(kind, target)
        try:
            yield
        finally:
            begun = self._history.injected[place]
            self._history.faults_over = self._history.clock()
            self._history.injected[place] = Injected(begun.at, kind, target, self._history.faults_over)

    async def _back(self, restarts: dict[str, int]) -> None:
        """All that were killed together work again."""
        for program, before in restarts.items():
            await self._stack.until_running(program, restarts=before + 1, within=READY_WITHIN)
        for program in restarts:
            self._history.note(program, "started")
        self._history.faults_over = self._history.clock()

    @contextmanager
    def _unsupervised(self) -> Iterator[None]:
        state = read_state(self._stack.folder)
        assert state is not None
        os.kill(state.supervisor, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(state.supervisor, signal.SIGCONT)


class Line:
    """What a clinic reaches the hub by: one proxy to the broker, one to the store."""

    def __init__(self, broker: Proxy, store: Proxy) -> None:
        self.broker = broker
        self.store = store
        self.both = (broker, store)

    async def mend(self) -> None:
        for each in self.both:
            await each.mend()

    async def cut(self) -> None:
        for each in self.both:
            await each.cut()

    async def flap(self, seconds: float, *, every: float) -> None:
        """Cut and mended again and again."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while loop.time() < until:
            await self.cut()
            await asyncio.sleep(every)
            await self.mend()
            await asyncio.sleep(every)

    def worsen(self, **how: object) -> None:
        """Both ways to the hub are as bad; see `Proxy`."""
        for each in self.both:
            for name, value in how.items():
                setattr(each, name, value)


@asynccontextmanager
async def line_to(stack: Stack, site: str) -> AsyncIterator[Line]:
    """The clinic of the stack reaches the hub by this line alone; as before at the end."""
    ports = stack.plan.ports
    line = Line(Proxy(ports["broker"]), Proxy(ports["store"]))
    await line.mend()
    changed = {ports["broker"]: line.broker.port, ports["store"]: line.store.port}
    try:
        async with resettled(stack, site, {f"{LOOPBACK}:{old}": f"{LOOPBACK}:{new}" for old, new in changed.items()}):
            yield line
    finally:
        await line.cut()


@asynccontextmanager
async def resettled(stack: Stack, site: str, changes: dict[str, str]) -> AsyncIterator[None]:
    """The clinic's agent works with other words in its `site.toml`."""
    file = stack.folder / SITES / site / SITE_FILE
    before = file.read_text()
    text = before
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    try:
        file.write_text(text)
        await _start_anew(stack, site)
        yield
    finally:
        file.write_text(before)
        await _start_anew(stack, site)


async def _start_anew(stack: Stack, site: str) -> None:
    restarts = stack.restarts(site)
    with suppress(ProcessLookupError):
        stack.kill(site, signal.SIGTERM)
    await stack.until_running(site, restarts=restarts + 1, within=READY_WITHIN)
    assert await answers(f"http://{LOOPBACK}:{stack.plan.ports[site]}/ready")
