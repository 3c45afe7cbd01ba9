"""The services of a stack as programs: the real commands, on loopback, each with its settings file."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from wardround.hub.folder import HubFolder
from wardround.runtime.toml_text import value_text
from wardround.simulation.sites import SITE_FILE
from wardround.stack.folder import LOGS, Plan
from wardround.stack.loopback import answers
from wardround.stack.ports import LOOPBACK
from wardround.stack.program import Program
from wardround.stack.sites import SITES, site_tables

STACK_VARIABLE = "WARDROUND_STACK"  # marks every process of a stack, so that none is ever left behind
OWN_VARIABLES = "WARDROUND_"
READY_WITHIN = 120.0
STOPS_WITHIN = 25.0


def service_programs(folder: Path, plan: Plan, hub: HubFolder) -> dict[str, Program]:
    """The program of each service, by name."""
    programs = {}
    for name in plan.services:
        if name in plan.sites:
            programs[name] = _agent(folder, plan, hub, name)
        else:
            programs[name] = _hub_service(folder, plan, hub, name)
    return programs


def base_environment(folder: Path) -> dict[str, str]:
    """The environment of this process without Wardround's own variables, and with the mark of the stack."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OWN_VARIABLES)}
    return kept | {STACK_VARIABLE: str(folder), "PYTHONUNBUFFERED": "1"}


def _hub_service(folder: Path, plan: Plan, hub: HubFolder, name: str) -> Program:
    service = name.partition("-")[0]
    settings: dict[str, object] = {"http.port": plan.ports[name]}
    if service == "aggregator":
        settings["work"] = folder / "work" / name
    return _program(folder, plan, name, service, hub.path / f"{service}.toml", settings)


def _agent(folder: Path, plan: Plan, hub: HubFolder, site: str) -> Program:
    """A clinic's agent. A clinic of the stack has all that it needs in its `site.toml`; of a person's own nothing is
    changed, and the environment says where the hub is, where the agent keeps its things and who runs its trainings."""
    if plan.own_sites is None:
        return _program(folder, plan, site, "site-agent", folder / SITES / site / SITE_FILE, {})
    tables = site_tables(folder, plan, hub, site)
    settings = {f"{table}.{key}": value for table, held in tables.items() for key, value in held.items()}
    return _program(folder, plan, site, "site-agent", plan.own_sites / site / SITE_FILE, settings)


def _program(
    folder: Path, plan: Plan, name: str, service: str, settings: Path, overrides: Mapping[str, object]
) -> Program:
    module = f"wardround.{service.replace('-', '_')}.main"
    prefix = f"WARDROUND_{service.upper().replace('-', '_')}__"
    port = plan.ports[name]

    async def ready() -> bool:
        return await answers(f"http://{LOOPBACK}:{port}/ready")

    return Program(
        name=name,
        command=(sys.executable, "-P", "-m", module, str(settings)),
        environment=base_environment(folder)
        | {f"{prefix}{key.upper().replace('.', '__')}": value_text(value) for key, value in overrides.items()},
        folder=folder,
        log=folder / LOGS / f"{name}.log",
        ready=ready,
        ready_within=READY_WITHIN,
        stops_within=STOPS_WITHIN,
    )
