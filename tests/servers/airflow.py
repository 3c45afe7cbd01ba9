"""A real Airflow for tests: one clinic's, with the repository's DAGs, on a spool of its own.

Where none is installed the tests are skipped; where `CI` is set they fail.
"""

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from wardround.runtime.secrets import Secret
from wardround.site_agent.settings import Airflow
from wardround.stack.airflow import airflow_programs, find_airflow, prepare_airflow
from wardround.stack.airflow_home import AGENT, PERSON, AirflowHome
from wardround.stack.ports import free_ports
from wardround.stack.program import Child

COMPONENTS = ("api-server", "dag-processor", "scheduler")


def require_airflow() -> None:
    """Skip the test where Airflow is missing, or fail it where CI must not leave it out."""
    if find_airflow() is None:
        reason = (
            "Airflow is not installed here: `make servers` installs it, or name its environment in WARDROUND_AIRFLOW"
        )
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)


class AirflowServer:
    """An Airflow whose components (`COMPONENTS`) are killed and started again, always at the same address."""

    def __init__(self, folder: Path) -> None:
        (port,) = free_ports(1)
        self.spool = folder / "spool"
        self.home = AirflowHome(folder / "airflow", port)
        self._folder = folder
        self._children: dict[str, Child] = {}

    @property
    def url(self) -> str:
        return self.home.url

    @property
    def username(self) -> str:
        """The agent's login."""
        return AGENT

    @property
    def password(self) -> str:
        return self.home.password_file(AGENT).read_text()

    @property
    def admin(self) -> tuple[str, str]:
        """The login of a person, with the right to everything, and its password."""
        return PERSON, self.home.password_file(PERSON).read_text()

    def settings(self) -> Airflow:
        """As they stand in `site.toml`."""
        return Airflow(
            kind="airflow",
            url=self.url,
            username=self.username,
            password=Secret.model_validate({"file": str(self.home.password_file(AGENT))}),
        )

    async def open(self) -> None:
        """Make its folder and start all of it."""
        self.spool.mkdir(parents=True)
        await prepare_airflow(self.home, self._folder)
        programs = airflow_programs(self.home, spool=self.spool, python=sys.executable)
        self._children = {program.name: Child(program) for program in programs}
        for component in COMPONENTS:
            await self.start(component)

    async def start(self, component: str) -> None:
        """Start it, where it does not run; it is ready when this returns."""
        if not self._children[component].running:
            await self._children[component].start()

    def kill(self, component: str) -> None:
        """SIGKILL, in the middle of whatever it does. A training that a killed scheduler had begun goes on."""
        self._children[component].kill()

    async def close(self) -> None:
        for child in reversed(self._children.values()):
            await child.stop()

    def log(self, component: str) -> str:
        return self._children[component].program.log.read_text(errors="replace")


@pytest.fixture(scope="session")
def airflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowServer]:
    require_airflow()
    server = AirflowServer(tmp_path_factory.mktemp("airflow"))
    try:
        asyncio.run(server.open())
        yield server
    finally:
        asyncio.run(server.close())
