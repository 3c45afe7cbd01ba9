"""A real stack for tests: RabbitMQ, MinIO and every service as a process, with two coordinators and two aggregators."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cached_property
from pathlib import Path

import pytest
from minio import Minio
from urllib3 import PoolManager, Timeout

from servers.airflow import require_airflow
from servers.audit import StoreAudit
from servers.minio import Receiver, receiving
from servers.overhearing import overhear
from servers.recorder import Recording
from wardround.client.hub import Hub
from wardround.client.hubs import connections, read_profile
from wardround.hub.folder import STORE_ROOT, HubFolder
from wardround.stack import control
from wardround.stack.folder import Plan, StackError, read_state
from wardround.stack.ports import LOOPBACK
from wardround.stack.stages import missing_servers
from wardround_messages.manifest import Manifest

SITES = ("clinic-1", "clinic-2", "clinic-3")


def require_servers() -> None:
    """Skip the test where a server is missing, or fail it where CI must not leave it out."""
    try:
        missing_servers()
    except StackError as error:
        pytest.fail(str(error)) if os.environ.get("CI") else pytest.skip(str(error))


class Stack:
    """A stack in a folder, brought up by the command line as a person would. Its store tells what is asked of it to
    the receiver, where there is one: only then can an experiment be recorded."""

    def __init__(self, folder: Path, name: str = "stack", receiver: Receiver | None = None) -> None:
        self.folder = folder / name
        self.name = name
        self.hubs = folder / "hubs.toml"
        self._audit = None if receiver is None else StoreAudit(receiver, lambda: self.root)

    def cli(self, *arguments: str, code: int = 0, within: float = 120) -> str:
        """What a command prints, both streams; it must end with that exit code."""
        ended = subprocess.run(
            [sys.executable, "-c", "from wardround.client.cli import run; run()", *arguments],
            env=os.environ | {"WARDROUND_HUBS": str(self.hubs), "COLUMNS": "120"} | self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=within,
            check=False,
        )
        assert ended.returncode == code, f"exit code {ended.returncode}\n{ended.stdout}"
        return ended.stdout

    def up(self, *options: str) -> str:
        return self.cli("stack", "up", "--name", self.name, "--folder", str(self.folder), *options, within=400)

    def down(self) -> str:
        return self.cli("stack", "down", "--name", self.name, "--folder", str(self.folder))

    @property
    def _environment(self) -> dict[str, str]:
        return {} if self._audit is None else self._audit.environment

    @property
    def plan(self) -> Plan:
        return control.status(self.folder)[0]

    @asynccontextmanager
    async def hub(self, profile: str | None = None) -> AsyncIterator[Hub]:
        async with Hub(connections(read_profile(profile or self.name, file=self.hubs))) as hub:
            yield hub

    @cached_property
    def root(self) -> Minio:
        """The store, with every right; a call fails at once where the store is away."""
        return Minio(
            f"{LOOPBACK}:{self.plan.ports['store']}",
            STORE_ROOT,
            HubFolder.open(self.folder / "hub").store_secret(STORE_ROOT).read_text(),
            secure=False,
            region="us-east-1",
            http_client=PoolManager(timeout=Timeout(5), retries=False, maxsize=4),
        )

    @cached_property
    def _overheard(self) -> str:
        return overhear(self.folder, self.plan)

    @asynccontextmanager
    async def recording(self, manifest: Manifest) -> AsyncIterator[Recording]:
        """All that happens in the experiment, which is not started yet, is recorded meanwhile."""
        assert self._audit is not None
        recording = Recording(self.folder, self.plan, manifest, self.root)
        async with recording.at_work(self._audit, self._overheard):
            yield recording

    def pid(self, program: str) -> int:
        state = read_state(self.folder)
        assert state is not None
        (pid,) = [each.pid for each in state.programs if each.name == program]
        assert pid is not None
        return pid

    def kill(self, program: str, number: signal.Signals = signal.SIGKILL) -> None:
        """A signal to the program and all its descendants."""
        os.killpg(self.pid(program), number)

    def is_running(self, program: str) -> bool:
        state = read_state(self.folder)
        assert state is not None
        return any(each.name == program and each.state == "running" for each in state.programs)

    def restarts(self, program: str) -> int:
        state = read_state(self.folder)
        assert state is not None
        return next(each.restarts for each in state.programs if each.name == program)

    async def until_running(self, program: str, *, restarts: int, within: float = 60) -> None:
        """Wait until the program was started again so many times in all, and is ready."""
        async with asyncio.timeout(within):
            while True:
                state = read_state(self.folder)
                assert state is not None
                known = next(each for each in state.programs if each.name == program)
                if known.restarts >= restarts and known.state == "running":
                    return
                await asyncio.sleep(0.1)


@contextmanager
def running(folder: Path, name: str, *options: str) -> Iterator[Stack]:
    with receiving() as receiver:
        stack = Stack(folder, name, receiver)
        stack.up(*options)
        try:
            yield stack
        finally:
            stack.down()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    require_servers()
    folder = tmp_path_factory.mktemp("stack")
    with running(folder, "stack", "--sites", "3", "--coordinators", "2", "--aggregators", "2") as stack:
        yield stack


@pytest.fixture(scope="session")
def airflow_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Three clinics, each with an Airflow of its own."""
    require_servers()
    require_airflow()
    folder = tmp_path_factory.mktemp("airflow-stack")
    with running(folder, "with-airflow", "--sites", "3", "--airflow") as stack:
        yield stack
