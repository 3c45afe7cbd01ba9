"""What the commands to a hub have in common: their options, and how each of a hub's errors ends a command."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from wardround.client.cli.errors import CommandError, Exit
from wardround.runtime.logging import UNPRINTABLE
from wardround_messages.names import EXPERIMENT_MAX, SITE_MAX, is_id

if TYPE_CHECKING:
    from wardround.client.hub import Hub
    from wardround.client.models import GlobalModel, Which

T = TypeVar("T")
TEXT_AT_MOST = 400
ID_WORDS = "must be lower-case letters and digits, with single dashes between them"


def _known_hubs() -> list[str]:
    from wardround.client.hubs import profile_names

    return list(profile_names())


def _experiment(value: str) -> str:
    if not is_id(value, EXPERIMENT_MAX):
        raise typer.BadParameter(f"{ID_WORDS}, at most {EXPERIMENT_MAX}")
    return value


def _site(value: str) -> str:
    if not is_id(value, SITE_MAX):
        raise typer.BadParameter(f"{ID_WORDS}, at most {SITE_MAX}")
    return value


def one_line(value: str) -> str:
    if len(value) > TEXT_AT_MOST or UNPRINTABLE.search(value):
        raise typer.BadParameter(f"must be at most {TEXT_AT_MOST} characters in one line")
    return value


Experiment = Annotated[str, typer.Argument(callback=_experiment, help="The experiment's id.")]
Site = Annotated[str, typer.Argument(callback=_site, help="The clinic's name.")]
Reason = Annotated[str, typer.Option("--reason", callback=one_line, help="Why, for those who watch.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
OnHub = Annotated[
    str | None,
    typer.Option(
        "--hub", metavar="NAME", autocompletion=_known_hubs, help="A profile of hubs.toml. Without it: the default one."
    ),
]
InsecureLab = Annotated[
    bool, typer.Option("--insecure-lab", help="Allow addresses without TLS off this machine, in a lab.")
]


def on_hub(
    work: Callable[["Hub"], Awaitable[T]], *, hub: str | None, insecure_lab: bool, left: str = "interrupted"
) -> T:
    """What `work` makes of the hub. Connections are closed whatever happens.

    Args:
        left: what a person who presses Ctrl-C is told.

    Raises:
        CommandError: for whatever a hub, or the way to it, can raise.
    """
    from wardround.client.hub import connect

    async def carry_out() -> T:
        async with connect(hub, insecure_lab=insecure_lab) as reached:
            return await work(reached)

    try:
        return asyncio.run(carry_out())
    except KeyboardInterrupt:
        raise CommandError(left, Exit.INTERRUPTED) from None
    except Exception as error:
        told = _told(error)
        if told is None:
            raise
        raise told from None


def option_of(hub: str | None) -> str:
    """What a command that is shown to a person needs to go to the same hub."""
    return "" if hub is None else f" --hub {hub}"


def fork_finder(*, hub: str | None, insecure_lab: bool) -> Callable[[str, "Which"], "GlobalModel"]:
    """Finds the global model of another experiment that a new one begins with."""
    return lambda experiment, which: on_hub(
        lambda reached: reached.model(experiment, which), hub=hub, insecure_lab=insecure_lab
    )


def _told(error: Exception) -> CommandError | None:
    """The line and the exit code for an error of a hub; None for any other."""
    from wardround.client.errors import NoAnswerError, NotThereError, RefusedError, UnusableError
    from wardround.client.sites import MetricsAwayError
    from wardround.metrics.evolve import IllegalEntryError
    from wardround.runtime.bus.port import BusUnavailableError, ForbiddenError, UnroutableError
    from wardround.runtime.encryption import UnencryptedError
    from wardround.runtime.journal import JournalBrokenError
    from wardround.runtime.secrets import SecretUnreadableError
    from wardround.runtime.store.port import AccessDeniedError, StoreUnavailableError
    from wardround.runtime.store.transfer import DigestMismatchError
    from wardround.runtime.toml_file import SettingsError
    from wardround_messages.codec import MalformedError

    match error:
        case RefusedError():
            return CommandError(f"refused ({error.code}): {error.reason}", Exit.REFUSED)
        case NotThereError():
            return CommandError(str(error), Exit.REFUSED)
        case ForbiddenError() | AccessDeniedError():
            return CommandError(f"this login may not do that: {error}; use another --hub profile", Exit.REFUSED)
        case NoAnswerError() | MetricsAwayError():
            return CommandError(str(error), Exit.TRY_AGAIN)
        case BusUnavailableError():
            return CommandError(f"the broker is away: {error}; try again later", Exit.TRY_AGAIN)
        case StoreUnavailableError():
            return CommandError(f"the object store is away: {error}", Exit.TRY_AGAIN)
        case SettingsError() | UnusableError() | UnencryptedError() | SecretUnreadableError() | MalformedError():
            return CommandError(str(error), Exit.BAD_INPUT)
        case JournalBrokenError() | IllegalEntryError() | DigestMismatchError():
            return CommandError(f"{error}; tell the hub's operator", Exit.ENDED_BADLY)
        case UnroutableError():
            return CommandError(f"the hub is not set up for this: {error}", Exit.ENDED_BADLY)
    return None
