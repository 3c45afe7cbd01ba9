"""A queue of the tests' own at a stack's broker, to which a copy of every command goes."""

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from wardround.hub.definitions import VHOST, password_hash
from wardround.hub.folder import write_private
from wardround.runtime.bus.port import Delivery
from wardround.runtime.bus.rabbit import RabbitBus
from wardround.runtime.patience import patiently
from wardround.stack.folder import Plan
from wardround.stack.ports import LOOPBACK
from wardround.stack.rabbitmq import NODE
from wardround_messages.names import COMMANDS

NAME = "recorder"  # of the login and of its queue
IMPORT = (
    '{ok, Held} = file:read_file(os:getenv("HELD")), '
    'io:format("~0p", [rpc:call(list_to_atom(os:getenv("NODE")), rabbit_definitions, import_raw, [Held])]), halt().'
)


def overhear(folder: Path, plan: Plan) -> str:
    """Have the stack's broker hold the queue, now and after it was wiped; the password to read it with."""
    password = secrets.token_urlsafe(16)
    broker = folder / "servers" / "rabbitmq"
    held = broker / "conf" / "definitions.json"
    definitions = json.loads(held.read_text())
    for kind, added in _added(password).items():
        definitions[kind] = [*definitions[kind], added]
    write_private(held, json.dumps(definitions))
    erl = shutil.which("erl")
    assert erl is not None
    said = subprocess.run(
        [erl, "-noshell", "-sname", f"{NAME}{os.getpid()}@localhost", "-eval", IMPORT],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(broker / "home"),  # of the cookie
            "ERL_EPMD_PORT": str(plan.ports["epmd"]),
            "HELD": str(held),
            "NODE": NODE,
        },
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stdout
    assert said == "ok", said
    return password


def _added(password: str) -> dict[str, dict[str, Any]]:
    """One of each kind."""
    user = {"name": NAME, "password_hash": password_hash(password), "tags": [], "limits": {}}
    return {
        "users": user | {"hashing_algorithm": "rabbit_password_hashing_sha256"},
        "permissions": {"user": NAME, "vhost": VHOST, "configure": "^$", "write": "^$", "read": f"^{NAME}$"},
        "queues": {"name": NAME, "vhost": VHOST, "durable": True, "auto_delete": False, "arguments": {}},
        "bindings": {
            "source": COMMANDS,
            "vhost": VHOST,
            "destination": NAME,
            "destination_type": "queue",
            "routing_key": "#",
            "arguments": {},
        },
    }


@asynccontextmanager
async def overhearing(plan: Plan, password: str, heard: Callable[[Delivery], Awaitable[None]]) -> AsyncIterator[None]:
    """`heard` is given each command, those included that were said while nobody listened."""

    async def connect() -> RabbitBus:
        return await RabbitBus.connect(f"amqp://{LOOPBACK}:{plan.ports['broker']}", login=NAME, password=password)

    bus = await patiently(connect, longest=0.5)
    try:
        await bus.subscribe(NAME, heard, dead_key=NAME, prefetch=100)
        yield
    finally:
        await bus.close()
