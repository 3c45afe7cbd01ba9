"""The command line of a service: its arguments, and the exit code and the one line with which it ends."""

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from enum import IntEnum
from typing import TypeVar

import structlog

from wardround import __version__
from wardround.runtime.bus.port import BusError
from wardround.runtime.encryption import UnencryptedError, refuse_unencrypted
from wardround.runtime.http import EndpointError
from wardround.runtime.http_settings import ExposedError, refuse_exposed
from wardround.runtime.logging import configure_logging, printable
from wardround.runtime.secrets import SecretUnreadableError
from wardround.runtime.service import Connections, Settings, Shell, UnconfigurableError
from wardround.runtime.store.port import StoreError, StoreUnavailableError
from wardround.runtime.toml_file import SettingsError

CHECK_WITHIN = 20.0  # seconds for each of the connections

CANNOT_START = (
    SettingsError,
    SecretUnreadableError,
    UnconfigurableError,
    UnencryptedError,
    ExposedError,
    EndpointError,
    StoreError,
    BusError,
)

S = TypeVar("S", bound=Settings)
log = structlog.get_logger()


class Exit(IntEnum):
    """75 is said by `--check` alone: a service itself waits for what is away."""

    STOPPED = 0
    FAULT = 1
    TRY_AGAIN = 75
    CONFIGURATION = 78
    INTERRUPTED = 130


def run(shell: Shell[S], arguments: Sequence[str] | None = None) -> None:
    """The console script of a service; leaves with its exit code."""
    given = _parser(shell.name).parse_args(arguments)
    try:
        settings = shell.load(given.settings, os.environ)
        configure_logging(style=settings.log.style, level=settings.log.level)
        structlog.contextvars.bind_contextvars(service=shell.name, **shell.bound(settings))
        if given.check:
            code = asyncio.run(_check(shell, settings, insecure_lab=given.insecure_lab))
        else:
            asyncio.run(shell.serve(settings, insecure_lab=given.insecure_lab))
            code = Exit.STOPPED
    except KeyboardInterrupt:
        code = Exit.INTERRUPTED
    except Exception as fault:
        error = _only(fault)
        if isinstance(error, CANNOT_START):
            print(f"wardround-{shell.name}: {printable(' '.join(str(error).split()))}", file=sys.stderr)
            code = Exit.CONFIGURATION
        else:
            log.exception("service_faulted")
            code = Exit.FAULT
    sys.exit(code)


def _only(error: Exception) -> Exception:
    """What a task group raised, where it is one error alone."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _parser(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"wardround-{name}",
        description=f"Wardround's {name}. Any key of the settings can be set by an environment variable: "
        f"WARDROUND_{name.upper().replace('-', '_')}__HTTP__PORT=8080 stands for http.port.",
    )
    default = "site.toml" if name == "site-agent" else f"{name}.toml"
    parser.add_argument("settings", nargs="?", default=default, help=f"the settings file (default: {default})")
    parser.add_argument("--check", action="store_true", help="look whether it could start and work here, and leave")
    parser.add_argument(
        "--insecure-lab", action="store_true", help="allow unencrypted connections to and from other machines"
    )
    parser.add_argument("--version", action="version", version=__version__)
    return parser


async def _check(shell: Shell[S], settings: S, *, insecure_lab: bool) -> Exit:
    """Print a line for each thing looked at."""
    refuse_exposed(settings.http, insecure_lab=insecure_lab)
    refuse_unencrypted(shell.addresses(settings), insecure_lab=insecure_lab)
    print("ok    settings")
    worst = Exit.STOPPED
    async for what, trouble in _connections(shell, settings, insecure_lab=insecure_lab):
        print(f"{'ok   ' if trouble is None else 'WRONG'} {what}{'' if trouble is None else f': {trouble}'}")
        if trouble is not None:
            worst = max(worst, trouble.code)
    return worst


class _Trouble(str):
    """What is wrong, in words, and the exit code that it means."""

    code: Exit

    @classmethod
    def of(cls, error: Exception) -> "_Trouble":
        away = isinstance(error, StoreUnavailableError | BusError | TimeoutError)
        trouble = cls(printable(" ".join(str(error).split())) or "no answer")
        trouble.code = Exit.TRY_AGAIN if away else Exit.CONFIGURATION
        return trouble


async def _connections(
    shell: Shell[S], settings: S, *, insecure_lab: bool
) -> AsyncIterator[tuple[str, _Trouble | None]]:
    hub = shell.hub(settings)
    connections = Connections(hub, insecure_lab=insecure_lab, client=f"wardround-{shell.name}-check")
    try:
        async with asyncio.timeout(CHECK_WITHIN):
            bus = await connections.bus()
            await bus.close()
        yield f"broker {hub.broker}, as {hub.username}", None
    except (*CANNOT_START, TimeoutError) as error:
        yield f"broker {hub.broker}, as {hub.username}", _Trouble.of(error)
    store = connections.store()
    try:
        async with asyncio.timeout(CHECK_WITHIN):
            await shell.check_store(settings, store)
        yield f"store {hub.store}, as {hub.store_key.id}", None
    except (*CANNOT_START, TimeoutError) as error:
        yield f"store {hub.store}, as {hub.store_key.id}", _Trouble.of(error)
    finally:
        await store.close()
