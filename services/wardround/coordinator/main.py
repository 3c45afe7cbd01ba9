"""`wardround-coordinator`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog
from starlette.routing import BaseRoute

from wardround.coordinator.app import Coordinator
from wardround.coordinator.settings import CoordinatorSettings
from wardround.runtime import command
from wardround.runtime.clock import wall_clock
from wardround.runtime.hub_settings import Hub
from wardround.runtime.roster import load_roster
from wardround.runtime.service import Outside, Service, Shell
from wardround.runtime.service_settings import load_settings
from wardround.runtime.store.port import ObjectStore
from wardround.runtime.store.s3_probe import prove_create_only
from wardround.runtime.toml_file import SettingsError

log = structlog.get_logger()


class CoordinatorShell(Shell[CoordinatorSettings]):
    name = "coordinator"

    def load(self, path: str, environ: Mapping[str, str]) -> CoordinatorSettings:
        settings = load_settings(Path(path), CoordinatorSettings, service=self.name, environ=environ)
        load_roster(settings.roster)
        return settings

    def hub(self, settings: CoordinatorSettings) -> Hub:
        return settings.hub

    async def check_store(self, settings: CoordinatorSettings, store: ObjectStore) -> None:
        """The conditional create is the only lock in the system: without it the coordinator does not start."""
        await prove_create_only(store)

    def assemble(self, settings: CoordinatorSettings, outside: Outside) -> tuple[Service, Sequence[BaseRoute]]:
        roster = CurrentRoster(settings.roster)
        coordinator = Coordinator(
            outside.bus, outside.store, clock=wall_clock, sites=roster.sites, interval=settings.interval
        )
        return coordinator, ()


class CurrentRoster:
    """The hub's sites as its file has them now: one that was added needs no restart."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._sites = frozenset(load_roster(file).sites)

    def sites(self) -> frozenset[str]:
        """As they were last, while somebody writes the file wrongly."""
        try:
            self._sites = frozenset(load_roster(self._file).sites)
        except SettingsError as error:
            log.error("roster_unreadable", error=str(error))
        return self._sites


def run() -> None:
    command.run(CoordinatorShell())


if __name__ == "__main__":
    run()
