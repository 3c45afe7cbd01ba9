"""What starts in which order: broker and store, then the store's logins, the clinics' Airflows, and every service."""

import os
from dataclasses import replace
from pathlib import Path

from wardround.hub.folder import STORE_ROOT, HubFolder
from wardround.hub.logins import apply_store_logins
from wardround.stack.airflow import OVERRIDE as AIRFLOW
from wardround.stack.airflow import AirflowPrograms, airflow_programs, find_airflow, prepare_airflow
from wardround.stack.airflow_home import AIRFLOWS, AirflowHome
from wardround.stack.folder import LOGS, Plan, StackError, airflow_program
from wardround.stack.minio import OVERRIDE as MINIO
from wardround.stack.minio import find_minio, minio
from wardround.stack.ports import LOOPBACK
from wardround.stack.program import Program
from wardround.stack.rabbitmq import SERVER, find_rabbitmq, rabbitmq
from wardround.stack.rabbitmq import WHERE as RABBITMQ
from wardround.stack.services import base_environment, service_programs
from wardround.stack.sites import python_of, spool_of
from wardround.stack.supervisor import Stage

HOW_TO_GET = "`make servers` sets it up; an administrator can also install it"


def stages(folder: Path, plan: Plan, hub: HubFolder) -> tuple[Stage, ...]:
    """The programs of the stack. Raises `StackError` where a server is not installed."""
    missing_servers(airflow=plan.airflow)
    epmd, broker = rabbitmq(
        folder / "servers" / "rabbitmq",
        definitions=hub.definitions(),
        port=plan.ports["broker"],
        dist_port=plan.ports["distribution"],
        epmd_port=plan.ports["epmd"],
        environment=base_environment(folder),
    )
    store = minio(
        folder / "servers" / "minio",
        port=plan.ports["store"],
        root_user=STORE_ROOT,
        root_password=hub.store_secret(STORE_ROOT).read_text(),
        amqp=f"amqp://store:{hub.broker_secret('store').read_text()}@{LOOPBACK}:{plan.ports['broker']}",
        environment=base_environment(folder),
    )
    epmd, broker, store = (_logged(folder, program, program.name) for program in (epmd, broker, store))
    services = tuple(service_programs(folder, plan, hub).values())
    return (
        Stage((epmd,)),
        Stage((broker, store), after=lambda: apply_store_logins(hub)),
        *(_airflow_stages(folder, plan) if plan.airflow else ()),
        Stage(services),
    )


def _airflow_stages(folder: Path, plan: Plan) -> tuple[Stage, Stage]:
    """The web servers of all clinics, then the rest: these stop first, as a task tells its end to the web server."""
    homes = {site: AirflowHome.of(folder, plan, site) for site in plan.sites}

    async def prepare() -> None:
        for home in homes.values():
            await prepare_airflow(home, folder / AIRFLOWS, base_environment(folder))

    def programs(site: str) -> AirflowPrograms:
        made = airflow_programs(
            homes[site],
            spool=spool_of(folder, site),
            python=python_of(folder, plan, site),
            environment=base_environment(folder),
        )
        return AirflowPrograms(*(_logged(folder, each, airflow_program(site, each.name)) for each in made))

    airflows = [programs(site) for site in plan.sites]
    # Each takes a processor for some seconds: all at once, the last would be ready no sooner and none in time.
    at_once = os.cpu_count() or 1
    return (
        Stage([each.api_server for each in airflows], before=prepare, at_once=at_once),
        Stage([each for one in airflows for each in (one.dag_processor, one.scheduler)], at_once=at_once),
    )


def _logged(folder: Path, program: Program, name: str) -> Program:
    """Under that name, also in the folder of the logs."""
    return replace(program, name=name, log=folder / LOGS / f"{name}.log")


def missing_servers(*, airflow: bool = False) -> None:
    """Raises `StackError` where RabbitMQ, MinIO or, where it is wanted, Airflow is not installed."""
    if find_rabbitmq() is None:
        _named_in_vain(RABBITMQ, f"no folder with {SERVER}")
        raise StackError(f"RabbitMQ is not installed here: {HOW_TO_GET} (Debian's package is rabbitmq-server)")
    if find_minio() is None:
        _named_in_vain(MINIO, "no program")
        raise StackError(f"MinIO is not installed here: {HOW_TO_GET}, or name its file in {MINIO}")
    if airflow and find_airflow() is None:
        _named_in_vain(AIRFLOW, "no environment with Airflow")
        raise StackError(
            "Airflow is not installed here: `make servers` installs it into .cache/airflow, or name its environment "
            f"in {AIRFLOW}"
        )


def _named_in_vain(variable: str, missing: str) -> None:
    """Raises `StackError` where a person has said where the server is: nothing is looked for elsewhere then."""
    if named := os.environ.get(variable):
        what = f"which is {missing}" if Path(named).exists() else "which is not there"
        raise StackError(
            f"{variable} names {named}, {what}: correct it, or unset it to have the usual places looked in"
        )
