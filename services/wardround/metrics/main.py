"""`wardround-metrics`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from starlette.routing import BaseRoute

from wardround.metrics.exposition import BoardCollector
from wardround.metrics.service import MetricsService
from wardround.metrics.settings import MetricsSettings
from wardround.metrics.web import routes
from wardround.runtime import command
from wardround.runtime.clock import wall_clock
from wardround.runtime.hub_settings import Hub
from wardround.runtime.service import Outside, Service, Shell
from wardround.runtime.service_settings import load_settings


class MetricsShell(Shell[MetricsSettings]):
    name = "metrics"

    def load(self, path: str, environ: Mapping[str, str]) -> MetricsSettings:
        return load_settings(Path(path), MetricsSettings, service=self.name, environ=environ)

    def hub(self, settings: MetricsSettings) -> Hub:
        return settings.hub

    def assemble(self, settings: MetricsSettings, outside: Outside) -> tuple[Service, Sequence[BaseRoute]]:
        service = MetricsService(outside.bus, outside.store, clock=wall_clock, keep_ended=settings.keep_ended)
        outside.registry.register(BoardCollector(service.board, clock=wall_clock))
        return service, routes(service)


def run() -> None:
    command.run(MetricsShell())


if __name__ == "__main__":
    run()
