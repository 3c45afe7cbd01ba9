"""What the commands about a clinic have in common: whose settings they read, and how a person is asked and named."""

import getpass
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from wardround.client.cli.errors import CommandError, Exit
from wardround.client.cli.on_hub import one_line
from wardround.runtime.service_settings import load_settings
from wardround.site_agent.settings import SettingsError, SiteSettings

SITE_FILE = "site.toml"
SERVICE = "site-agent"


def _name(value: str | None) -> str | None:
    return None if value is None else one_line(value)


OnSite = Annotated[
    Path | None, typer.Option("--site", help="The clinic's folder, or its site.toml. Without it: this folder.")
]
By = Annotated[str | None, typer.Option("--by", metavar="NAME", callback=_name, help="Who says so. Without it: you.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking first.")]


def site_settings(given: Path | None) -> tuple[SiteSettings, Path]:
    """The settings as the clinic's agent has them, those in its environment included, and the folder they lie in.

    Raises:
        CommandError: they cannot be used.
    """
    file = site_file(given)
    if not file.exists():
        place = (given or Path()).absolute()
        raise CommandError(f"there is no {SITE_FILE} at {place}: run this in a clinic's folder, or name it with --site")
    try:
        return load_settings(file, SiteSettings, service=SERVICE, environ=os.environ), file.parent
    except SettingsError as error:
        raise CommandError(str(error)) from None


def site_file(given: Path | None) -> Path:
    """Where the settings of the clinic should lie that a person named by its folder, or by the file, or not at all."""
    path = given or Path()
    return path / SITE_FILE if path.is_dir() else path


def who(by: str | None) -> str:
    """The person: the name that was given, or the user at this machine, also behind sudo."""
    if by:
        return by
    if os.geteuid() == 0 and (behind := os.environ.get("SUDO_USER")):
        return behind
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def _at_a_terminal() -> bool:
    return sys.stdin.isatty()


def confirm(question: str, *, yes: bool) -> None:
    """Ask a person at a terminal; raises `CommandError` where the answer is no."""
    if not yes and _at_a_terminal() and not typer.confirm(question, err=True):
        raise CommandError("nothing was done", Exit.INTERRUPTED)
