"""The command `wardround`: every way it can end is an exit code and, at worst, one line."""

import errno
import os
import sys
from typing import Annotated

import typer

from wardround import __version__
from wardround.client.cli import (
    check,
    compare,
    data,
    dead,
    doctor,
    hub,
    look,
    report,
    simtest,
    simulate,
    stack,
    start,
    steer,
    watch,
)
from wardround.client.cli.errors import CommandError, Exit
from wardround.client.cli.optional import module_of
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
app.command("simtest")(simtest.simtest)
app.command("compare")(compare.compare)
app.command("check")(check.check)
app.command("start")(start.start)
app.command("watch")(watch.watch)
app.command("status")(watch.status)
app.command("list")(look.list_experiments)
app.command("sites")(look.sites)
app.command("events")(look.events)
app.command("fetch")(look.fetch)
app.command("report")(report.report)
app.command("doctor")(doctor.doctor)
for steering in (steer.pause, steer.resume, steer.abort, steer.extend, steer.readmit):
    app.command(steering.__name__)(steering)
app.add_typer(data.app, name="data")
app.add_typer(dead.app, name="dead")
app.add_typer(hub.app, name="hub")
app.add_typer(stack.app, name="stack")
for command, extra in (("trainer", "training"), ("site", "site-agent")):
    if (group := module_of(app, command, extra=extra)) is not None:
        app.add_typer(group.app, name=command)


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
    except ModuleNotFoundError as error:
        return _told(
            f"{error.name} is not installed here: this command needs another extra of wardround", Exit.BAD_INPUT
        )
    except OSError as error:
        code = Exit.TRY_AGAIN if error.errno == errno.EBUSY else Exit.BAD_INPUT
        return _told(f"{error.filename or 'a file'}: {error.strerror or error}", code)
    except Exception as error:  # the last line of defence: a person is owed a sentence, not a traceback
        if DEBUG in os.environ:
            raise
        return _told(f"unexpected {type(error).__name__}: {error} ({DEBUG}=1 shows where)", Exit.ENDED_BADLY)
    if code == Exit.INTERRUPTED:  # typer has made it of Ctrl-C, without a word
        return _told("interrupted", Exit.INTERRUPTED)
    return int(code or Exit.DONE)


def _told(message: str, code: int) -> int:
    if message:  # the help that stands in for missing arguments is printed already
        text = printable(" ".join(message.split()))
        print(f"wardround: {text[:LONGEST]}{'...' if len(text) > LONGEST else ''}", file=sys.stderr)
    return code
