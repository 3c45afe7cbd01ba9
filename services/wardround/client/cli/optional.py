"""Commands that need more than the client does: where it is not installed, they say what to install."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

import typer

from wardround.client.cli.errors import CommandError

WHATEVER_FOLLOWS = {"ignore_unknown_options": True, "allow_extra_args": True}


def module_of(app: typer.Typer, command: str, *, extra: str) -> ModuleType | None:
    """The module of a command; None where what it needs is not installed, with a command in its place that says so."""
    try:
        return import_module(f"wardround.client.cli.{command}")
    except ModuleNotFoundError as error:
        if _is_our_own(error):
            raise

    def explain() -> None:
        raise _missing(command, extra)

    app.command(command, context_settings=WHATEVER_FOLLOWS, help=f"Needs wardround[{extra}], not installed here.")(
        explain
    )
    return None


@contextmanager
def needing(command: str, *, extra: str) -> Iterator[None]:
    """Imports in here may fail because the extra is not installed; raises `CommandError` then."""
    try:
        yield
    except ModuleNotFoundError as error:
        if _is_our_own(error):
            raise
        raise _missing(command, extra) from None


def _is_our_own(error: ModuleNotFoundError) -> bool:
    return (error.name or "").partition(".")[0] == "wardround"


def _missing(command: str, extra: str) -> CommandError:
    return CommandError(f"'{command}' needs more than is installed here: install wardround[{extra}]")
