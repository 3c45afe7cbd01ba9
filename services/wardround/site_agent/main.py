"""`wardround-site-agent`."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from starlette.routing import BaseRoute

from wardround.runtime import command
from wardround.runtime.clock import wall_clock
from wardround.runtime.http_settings import HttpSettings
from wardround.runtime.hub_settings import Hub
from wardround.runtime.service import Outside, Service, Shell, UnconfigurableError
from wardround.runtime.service_settings import LogSettings, load_settings
from wardround.site_agent.agent_socket import socket_of
from wardround.site_agent.app import SiteAgent
from wardround.site_agent.control import Control
from wardround.site_agent.scheduler.airflow.scheduler import AirflowScheduler
from wardround.site_agent.scheduler.local import LocalScheduler
from wardround.site_agent.scheduler.port import Scheduler
from wardround.site_agent.settings import POLICY_FILE, Airflow, AnyScheduler, Local, SiteSettings
from wardround.site_agent.trainers import describe_with


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """`site.toml`, and the policy that lies beside it."""

    site: SiteSettings
    policy: Path

    @property
    def http(self) -> HttpSettings:
        return self.site.http

    @property
    def log(self) -> LogSettings:
        return self.site.log


class AgentShell(Shell[AgentSettings]):
    name = "site-agent"

    def load(self, path: str, environ: Mapping[str, str]) -> AgentSettings:
        """Of the settings file, or of the `site.toml` in the folder that is named."""
        file = Path(path, "site.toml") if Path(path).is_dir() else Path(path)
        site = load_settings(file, SiteSettings, service=self.name, environ=environ)
        return AgentSettings(site, file.parent / POLICY_FILE)

    def hub(self, settings: AgentSettings) -> Hub:
        if settings.site.hub is None:
            raise UnconfigurableError("hub: is missing: the hub's operator hands over what belongs there")
        return settings.site.hub

    def addresses(self, settings: AgentSettings) -> Sequence[str]:
        scheduler = settings.site.scheduler
        return (scheduler.url,) if isinstance(scheduler, Airflow) else ()

    def bound(self, settings: AgentSettings) -> Mapping[str, str]:
        return {"site": settings.site.site}

    def assemble(self, settings: AgentSettings, outside: Outside) -> tuple[Service, Sequence[BaseRoute]]:
        site = settings.site
        scheduler = scheduler_of(site.scheduler, site.paths.spool)
        outside.closing.push_async_callback(scheduler.close)
        agent = SiteAgent(
            site,
            settings.policy,
            bus=outside.bus,
            store=outside.store,
            scheduler=scheduler,
            catalogue=describe_with(site.scheduler.python or sys.executable),
            clock=wall_clock,
            limit=site.transfers.at_most,
            door=Control(socket_of(site.paths.inbox)),
        )
        outside.concerns["clinic"] = lambda: agent.trouble
        return agent, ()


def scheduler_of(settings: AnyScheduler, spool: Path) -> Scheduler:
    """Raises `UnconfigurableError`."""
    match settings:
        case Airflow():
            return AirflowScheduler(settings, spool)
        case Local():
            return LocalScheduler(spool, python=settings.python)
    raise UnconfigurableError("scheduler.kind: an agent that is a process of its own trains by 'airflow' or 'local'")


def run() -> None:
    command.run(AgentShell())


if __name__ == "__main__":
    run()
