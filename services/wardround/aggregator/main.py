"""`wardround-aggregator`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from starlette.routing import BaseRoute

from wardround.aggregator.app import Aggregator
from wardround.aggregator.settings import AggregatorSettings
from wardround.runtime import command
from wardround.runtime.clock import wall_clock
from wardround.runtime.hub_settings import Hub
from wardround.runtime.service import Outside, Service, Shell
from wardround.runtime.service_settings import load_settings


class AggregatorShell(Shell[AggregatorSettings]):
    name = "aggregator"

    def load(self, path: str, environ: Mapping[str, str]) -> AggregatorSettings:
        return load_settings(Path(path), AggregatorSettings, service=self.name, environ=environ)

    def hub(self, settings: AggregatorSettings) -> Hub:
        return settings.hub

    def assemble(self, settings: AggregatorSettings, outside: Outside) -> tuple[Service, Sequence[BaseRoute]]:
        aggregator = Aggregator(
            outside.bus, outside.store, clock=wall_clock, workdir=settings.work, slice_size=settings.slice_size
        )
        return aggregator, ()


def run() -> None:
    command.run(AggregatorShell())


if __name__ == "__main__":
    run()
