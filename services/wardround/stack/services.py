"""The services of a stack as programs: the real commands, on loopback, each with its settings file."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx

from wardround.hub.folder import HubFolder
from wardround.stack.folder import LOGS, Plan
from wardround.stack.ports import LOOPBACK
from wardround.stack.program import Program

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
        settings["work"] = _path(folder / "work" / name)
    return _program(folder, plan, name, service, hub.path / f"{service}.toml", settings)


def _agent(folder: Path, plan: Plan, hub: HubFolder, site: str) -> Program:
    """A clinic's agent. Where the hub is and where the agent keeps its things does not stand in a person's own
    `site.toml`: the environment says it."""
    home = folder / "sites" / site
    settings = {
        "http.port": plan.ports[site],
        "hub.broker": hub.roster.broker,
        "hub.store": hub.roster.store,
        "hub.username": site,
        "hub.password.file": _path(hub.broker_secret(site)),
        "hub.store_key.id": site,
        "hub.store_key.file": _path(hub.store_secret(site)),
        "paths.inbox": _path(home / "inbox.sqlite"),
        "paths.log": _path(home / "audit.jsonl"),
        "paths.spool": _path(home / "spool"),
    }
    file = (plan.own_sites or folder / "sites") / site / "site.toml"
    return _program(folder, plan, site, "site-agent", file, settings)


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
        | {f"{prefix}{key.upper().replace('.', '__')}": str(value) for key, value in overrides.items()},
        folder=folder,
        log=folder / LOGS / f"{name}.log",
        ready=ready,
        ready_within=READY_WITHIN,
        stops_within=STOPS_WITHIN,
    )


def _path(path: Path) -> str:
    """As a TOML string: a path of digits alone must not be read as a number."""
    return f"'{path}'"


async def answers(url: str) -> bool:
    """Whether the address answers with success."""
    async with httpx.AsyncClient(trust_env=False, timeout=2) as client:
        try:
            return (await client.get(url)).is_success
        except httpx.HTTPError:
            return False
