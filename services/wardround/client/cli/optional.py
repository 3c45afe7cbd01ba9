"""Commands that need more than the client does: where it is not installed, they say what to install."""

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
        if (error.name or "").partition(".")[0] == "wardround":
            raise

    def explain() -> None:
        raise CommandError(f"'{command}' needs more than is installed here: install wardround[{extra}]")

    app.command(command, context_settings=WHATEVER_FOLLOWS, help=f"Needs wardround[{extra}], not installed here.")(
        explain
    )
    return None
