"""RabbitMQ as child processes that share nothing with another broker of this machine: names, ports, cookie, folders."""

import asyncio
import json
import os
import secrets
import shutil
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from wardround.hub.rabbitmq_conf import Tls, rabbitmq_conf
from wardround.stack.ports import LOOPBACK, free_ports
from wardround.stack.program import Program

WHERE = "WARDROUND_RABBITMQ"
# Debian's and the generic package's. What lies in /usr/sbin changes to another user first.
USUAL_FOLDERS = (
    Path("/usr/lib/rabbitmq/bin"),
    Path("/opt/rabbitmq/sbin"),
    Path("/opt/homebrew/opt/rabbitmq/sbin"),
    Path("/usr/local/opt/rabbitmq/sbin"),
)
SERVER = "rabbitmq-server"
NODE = "wardround@localhost"  # the name of the data on disk too, so it must be the same at every start
OF_OTHER_BROKERS = ("RABBITMQ_", "ERL_")
PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
METHOD_FRAME = b"\x01"
PROBE_WITHIN = 2.0
# Two threads that do not spin while they wait: a hub's broker has little to do, and its neighbours share the machine.
ERLANG_ARGUMENTS = "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none"


def find_rabbitmq() -> Path | None:
    """The folder with `rabbitmq-server`: `$WARDROUND_RABBITMQ`, else where packages put it; None if nowhere."""
    named = os.environ.get(WHERE)
    folders = [Path(named)] if named else [*USUAL_FOLDERS, *_on_path()]
    return next((folder for folder in folders if os.access(folder / SERVER, os.X_OK)), None)


def _on_path() -> list[Path]:
    found = shutil.which(SERVER)
    return [] if found is None else [Path(found).resolve().parent]


def rabbitmq(
    folder: Path,
    *,
    definitions: Mapping[str, Any],
    port: int,
    dist_port: int | None = None,
    epmd_port: int | None = None,
    tls: Tls | None = None,
    environment: Mapping[str, str] | None = None,
    disk_free: str = "200MB",
) -> tuple[Program, Program]:
    """The port mapper and the broker, to be started in this order; both listen on the loopback interface alone.

    All that they need and leave lies in `folder`: a later start on it, on whatever ports, has everything again.

    Args:
        port: where clients connect without TLS.
        dist_port: where the broker's own tools connect, and `epmd_port` where they ask for it; free ones by default.
        environment: what both inherit, but for what other brokers of this machine are set up by.

    Raises:
        FileNotFoundError: no RabbitMQ, or no Erlang, is installed.
    """
    server = find_rabbitmq()
    epmd = shutil.which("epmd")
    if server is None or epmd is None:
        raise FileNotFoundError(f"RabbitMQ is not installed; or name the folder of its {SERVER} in {WHERE}")
    folder = folder.absolute()
    free_dist_port, free_epmd_port = free_ports(2)
    dist_port, epmd_port = dist_port or free_dist_port, epmd_port or free_epmd_port
    _write(
        folder, definitions, rabbitmq_conf(definitions=_definitions(folder), port=port, tls=tls, disk_free=disk_free)
    )
    inherited = {name: value for name, value in (environment or {}).items() if not name.startswith(OF_OTHER_BROKERS)}
    private = {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        **inherited,
        **_environment(folder, dist_port=dist_port, epmd_port=epmd_port),
    }
    return (
        Program(
            name="epmd",
            command=(epmd, "-port", str(epmd_port), "-address", LOOPBACK),
            environment=private,
            folder=folder,
            log=folder / "log" / "epmd.log",
            ready=_listening(epmd_port),
            ready_within=10,
            stops_within=5,
        ),
        Program(
            name="rabbitmq",
            command=(str(server / SERVER),),
            environment=private,
            folder=folder,
            log=folder / "log" / "console.log",
            ready=lambda: speaks_amqp(port),
            ready_within=90,
            stops_within=30,
        ),
    )


async def speaks_amqp(port: int) -> bool:
    """Whether a broker on this machine takes clients: it answers AMQP's first bytes only when it does."""
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(PROBE_WITHIN):
            reader, writer = await asyncio.open_connection(LOOPBACK, port)
            try:
                writer.write(PROTOCOL_HEADER)
                return await reader.read(1) == METHOD_FRAME
            finally:
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()
    return False


def _listening(port: int) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        with suppress(OSError):
            _, writer = await asyncio.open_connection(LOOPBACK, port)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
            return True
        return False

    return look


def _definitions(folder: Path) -> Path:
    return folder / "conf" / "definitions.json"


def _write(folder: Path, definitions: Mapping[str, Any], conf: str) -> None:
    """The files it starts from. Hashes of passwords and the cookie are their owner's alone."""
    for name in ("", "conf", "data", "home", "log"):
        (folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    _write_private(_definitions(folder), json.dumps(definitions))
    (folder / "conf" / "rabbitmq.conf").write_text(conf)
    (folder / "conf" / "rabbitmq-env.conf").touch()
    (folder / "conf" / "enabled_plugins").write_text("[].\n")
    cookie = folder / "home" / ".erlang.cookie"
    if not cookie.exists():
        _write_private(cookie, secrets.token_hex(16))


def _write_private(file: Path, text: str) -> None:
    with open(file, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as opened:
        opened.write(text)


def _environment(folder: Path, *, dist_port: int, epmd_port: int) -> dict[str, str]:
    """Every place that RabbitMQ's scripts would otherwise take from the machine, and Erlang's from its user."""
    conf, data = folder / "conf", folder / "data"
    return {
        "HOME": str(folder / "home"),
        "RABBITMQ_CONF_ENV_FILE": str(conf / "rabbitmq-env.conf"),
        "RABBITMQ_CONFIG_FILE": str(conf / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(conf / "advanced.config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(conf / "enabled_plugins"),
        "RABBITMQ_GENERATED_CONFIG_DIR": str(data / "config"),
        "RABBITMQ_SCHEMA_DIR": str(data / "schema"),
        "RABBITMQ_MNESIA_BASE": str(data),
        "RABBITMQ_MNESIA_DIR": str(data / "node"),
        "RABBITMQ_QUORUM_DIR": str(data / "quorum"),
        "RABBITMQ_STREAM_DIR": str(data / "stream"),
        "RABBITMQ_PLUGINS_EXPAND_DIR": str(data / "plugins"),
        "RABBITMQ_FEATURE_FLAGS_FILE": str(data / "feature_flags"),
        "RABBITMQ_PID_FILE": str(data / "pid"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_NODENAME": NODE,
        "RABBITMQ_NODE_IP_ADDRESS": LOOPBACK,
        "RABBITMQ_DIST_PORT": str(dist_port),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"{ERLANG_ARGUMENTS} -kernel inet_dist_use_interface {{127,0,0,1}}",
        "ERL_EPMD_PORT": str(epmd_port),
        "ERL_EPMD_ADDRESS": LOOPBACK,
        "ERL_CRASH_DUMP": "/dev/null",
    }
