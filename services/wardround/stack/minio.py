"""MinIO as a child process: an object store on one folder, on the loopback interface."""

import asyncio
import os
import shutil
import ssl
from collections.abc import Mapping
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path

from wardround.stack.ports import LOOPBACK
from wardround.stack.program import Program, ProgramError
from wardround_messages.names import OBJECTSTORE
from wardround_messages.topology import ANNOUNCED_ROUTING_KEY

OVERRIDE = "WARDROUND_MINIO"
BUILT = Path(".cache/minio/minio")
SETTINGS = "config.env"
HEALTH = "/minio/health/cluster"
ANSWERS_WITHIN = 2.0
# What `S3Store` announces to by default names this target.
TARGET = "HUB"


def find_minio() -> Path | None:
    """The program: what `WARDROUND_MINIO` names, or on the PATH, or built into `.cache` of this checkout."""
    named = os.environ.get(OVERRIDE)
    found = shutil.which(named or "minio")
    if named or found:
        return None if found is None else Path(found).absolute()
    checkout = Path(__file__).parents[3]
    built = (folder / BUILT for folder in (Path.cwd(), checkout))
    return next((path for path in built if os.access(path, os.X_OK)), None)


def minio(
    folder: Path,
    *,
    port: int,
    root_user: str,
    root_password: str,
    amqp: str | None = None,
    environment: Mapping[str, str] | None = None,
    certificates: Path | None = None,
) -> Program:
    """MinIO with its objects in `folder/data`; it starts, and stores, also while the broker is away.

    All secrets are written into `folder/config.env`, which only the owner reads, and stand neither in the command nor
    in the environment.

    Args:
        root_user: at least 3 characters; `root_password`: at least 8.
        amqp: `amqp://login:password@host:port`, the broker to announce to; without, there is nothing to announce to.
        environment: variables besides those that are needed.
        certificates: a folder with `public.crt` and `private.key`, for https.

    Raises:
        ProgramError: MinIO is not installed; ValueError: a secret that cannot be written into a settings file;
        OSError: the folder cannot be written.
    """
    program = find_minio()
    if program is None:
        raise ProgramError(f"MinIO is not installed here: build it with `make servers`, or name it in {OVERRIDE}")
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    settings = {"MINIO_ROOT_USER": root_user, "MINIO_ROOT_PASSWORD": root_password}
    _write_settings(folder / SETTINGS, settings | (_announcing(amqp) if amqp else {}))
    none = folder / "no-certificates"  # else it would look into the home folder
    command = [
        str(program),
        "server",
        "--quiet",
        "--json",
        # Without the MD5 of every object: 200 MB are stored in 0.15 s instead of 0.33 s, and SHA-256 is ours.
        "--no-compat",
        *("--address", f"{LOOPBACK}:{port}"),
        *("--certs-dir", str(certificates or none)),
        str(data),
    ]
    return Program(
        name="minio",
        command=tuple(command),
        environment={
            **(environment or {}),
            "HOME": str(folder),
            "MINIO_CONFIG_ENV_FILE": str(folder / SETTINGS),
            "MINIO_BROWSER": "off",
            "MINIO_UPDATE": "off",
        },
        folder=folder,
        log=folder / "minio.log",
        ready=lambda: _is_ready(port, encrypted=certificates is not None),
    )


def _announcing(amqp: str) -> dict[str, str]:
    """Announcements as the topology has them. Without a queue folder, whose replay would delay each by up to 3 s: what
    is stored while the broker is away is not announced, and found by whoever looks."""
    settings = {
        "ENABLE": "on",
        "URL": amqp,
        "EXCHANGE": OBJECTSTORE,
        "EXCHANGE_TYPE": "topic",
        "ROUTING_KEY": ANNOUNCED_ROUTING_KEY,
        "MANDATORY": "off",
        "DURABLE": "on",
        "NO_WAIT": "off",
        "INTERNAL": "off",
        "AUTO_DELETED": "off",
        "DELIVERY_MODE": "2",
        "PUBLISHING_CONFIRMS": "on",
    }
    return {f"MINIO_NOTIFY_AMQP_{name}_{TARGET}": value for name, value in settings.items()}


def _write_settings(file: Path, settings: Mapping[str, str]) -> None:
    for name, value in settings.items():
        if not value.isprintable() or value != value.strip() or any(each in value for each in "\"'"):
            raise ValueError(f"{name} must be printable, without quotes and without spaces around it")
    file.unlink(missing_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as lines:
        lines.writelines(f"{name}={value}\n" for name, value in settings.items())


async def _is_ready(port: int, *, encrypted: bool) -> bool:
    return await asyncio.to_thread(_answers, port, encrypted)


def _answers(port: int, encrypted: bool) -> bool:
    if encrypted:
        # Whose certificate it is does not matter here: nothing is told to the server, and nothing believed.
        trusting = ssl.create_default_context()
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        connection: HTTPConnection = HTTPSConnection(LOOPBACK, port, timeout=ANSWERS_WITHIN, context=trusting)
    else:
        connection = HTTPConnection(LOOPBACK, port, timeout=ANSWERS_WITHIN)
    try:
        connection.request("GET", HEALTH)
        return connection.getresponse().status == HTTPStatus.OK
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
