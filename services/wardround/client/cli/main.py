"""The command `wardround`: every way it can end is an exit code and, at worst, one line."""

import os
import sys
from typing import Annotated

import typer

from wardround import __version__
from wardround.client.cli import simulate, site, trainer
from wardround.client.cli.errors import CommandError, Exit
from wardround.runtime.logging import configure_logging, printable

DEBUG = "WARDROUND_DEBUG"
LONGEST = 1000
USAGE_ERROR: type[Exception] = typer.BadParameter.__bases__[0]  # typer brings a click of its own, without a public name

app = typer.Typer(
    name="wardround",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    help="Federated learning for hospitals: the model travels, patient data never does.",
)
app.command("simulate")(simulate.simulate)
app.add_typer(trainer.app, name="trainer")
app.add_typer(site.app, name="site")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def main(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what the services do, to stderr.")] = False,
) -> None:
    configure_logging(level="info" if verbose else "critical")
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def ended() -> int:
    """Run the command; the exit code, when the one line that a person may need is printed."""
    try:
        code = app(standalone_mode=False)
    except CommandError as error:
        return _told(str(error), error.code)
    except USAGE_ERROR as error:
        return _told(error.format_message(), Exit.BAD_INPUT)  # type: ignore[attr-defined]
    except (typer.Abort, KeyboardInterrupt):
        return _told("interrupted", Exit.INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at exit complains again
        return Exit.INTERRUPTED
    except OSError as error:
        return _told(f"{error.filename or 'a file'}: {error.strerror or error}", Exit.BAD_INPUT)
    except Exception as error:  # the last line of defence: a person is owed a sentence, not a traceback
        if DEBUG in os.environ:
            raise
        return _told(f"unexpected {type(error).__name__}: {error} ({DEBUG}=1 shows where)", Exit.ENDED_BADLY)
    return int(code or Exit.DONE)


def _told(message: str, code: int) -> int:
    if message:  # the help that stands in for missing arguments is printed already
        text = printable(" ".join(message.split()))
        print(f"wardround: {text[:LONGEST]}{'...' if len(text) > LONGEST else ''}", file=sys.stderr)
    return code
