"""What starts in which order: broker and store, then the store's logins, then every service."""

from dataclasses import replace
from pathlib import Path

from wardround.hub.folder import STORE_ROOT, HubFolder
from wardround.hub.logins import apply_store_logins
from wardround.stack.folder import LOGS, Plan, StackError
from wardround.stack.minio import find_minio, minio
from wardround.stack.ports import LOOPBACK
from wardround.stack.rabbitmq import find_rabbitmq, rabbitmq
from wardround.stack.services import base_environment, service_programs
from wardround.stack.supervisor import Stage

HOW_TO_GET = "`make servers` sets it up; an administrator can also install it"


def stages(folder: Path, plan: Plan, hub: HubFolder) -> tuple[Stage, ...]:
    """The programs of the stack. Raises `StackError` where a server is not installed."""
    missing_servers()
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
    epmd, broker, store = (
        replace(program, log=folder / LOGS / f"{program.name}.log") for program in (epmd, broker, store)
    )
    services = tuple(service_programs(folder, plan, hub).values())
    return Stage((epmd,)), Stage((broker, store), after=lambda: apply_store_logins(hub)), Stage(services)


def missing_servers() -> None:
    """Raises `StackError` where RabbitMQ or MinIO is not installed."""
    if find_rabbitmq() is None:
        raise StackError(f"RabbitMQ is not installed here: {HOW_TO_GET} (Debian's package is rabbitmq-server)")
    if find_minio() is None:
        raise StackError(f"MinIO is not installed here: {HOW_TO_GET}, or name its file in WARDROUND_MINIO")
