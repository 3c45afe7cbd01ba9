"""`wardround dead`: what nobody could handle, for an operator to look at, send again or let go of."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wardround.client.cli.errors import CommandError, Exit
from wardround.client.cli.on_hub import AsJson, InsecureLab, OnHub, on_hub

if TYPE_CHECKING:
    from wardround.client.dead import Parked
    from wardround.runtime.bus.dead_letters import DeadLetter

app = typer.Typer(no_args_is_help=True, help="An operator's own: the messages that nobody could handle.")

BODY_SHOWN = 4000
Id = Annotated[str, typer.Argument(metavar="ID", help="The dead letter's id, as `dead list` shows it.")]


@app.command("list")
def list_dead(hub: OnHub = None, as_json: AsJson = False, insecure_lab: InsecureLab = False) -> None:
    """List the dead letters. Looking at them loses none."""
    from wardround.client.cli.output import show, show_json, table

    found = on_hub(lambda reached: reached.dead_letters(), hub=hub, insecure_lab=insecure_lab)
    if as_json:
        for each in found:
            show_json(_as_json(each))
    elif not found:
        print("no dead letters", flush=True)
    else:
        rows = (
            (each.id, each.letter.reason, _origin(each.letter), each.letter.queue, each.type, each.letter.detail)
            for each in found
        )
        show(table(("id", "reason", "from", "queue", "type", "detail"), rows))


@app.command()
def show(id: Id, hub: OnHub = None, as_json: AsJson = False, insecure_lab: InsecureLab = False) -> None:  # noqa: A002
    """Show one dead letter with its body."""
    from wardround.client.cli.output import show_json
    from wardround.runtime.logging import printable

    found = on_hub(lambda reached: reached.dead_letters(), hub=hub, insecure_lab=insecure_lab)
    parked = next((each for each in found if each.id == id), None)
    if parked is None:
        raise CommandError(f"there is no dead letter {id}; wardround dead list shows what there is", Exit.REFUSED)
    if as_json:
        show_json(_as_json(parked) | {"body": parked.letter.body.decode(errors="backslashreplace")})
        return
    for name, value in _as_json(parked).items():
        print(f"{name:<12} {printable(str(value))}")
    print(f"\n{_readable(parked.letter.body)}", flush=True)


@app.command()
def replay(id: Id, hub: OnHub = None, as_json: AsJson = False, insecure_lab: InsecureLab = False) -> None:  # noqa: A002
    """Send a dead letter's message again, as its sender. The letter goes when the broker has it."""
    parked = on_hub(lambda reached: reached.replay(id), hub=hub, insecure_lab=insecure_lab)
    _done(parked, "sent again", as_json=as_json)


@app.command()
def drop(id: Id, hub: OnHub = None, as_json: AsJson = False, insecure_lab: InsecureLab = False) -> None:  # noqa: A002
    """Let go of a dead letter, for good."""
    parked = on_hub(lambda reached: reached.drop(id), hub=hub, insecure_lab=insecure_lab)
    _done(parked, "dropped", as_json=as_json)


def _done(parked: "Parked", what: str, *, as_json: bool) -> None:
    from wardround.client.cli.output import show_json
    from wardround.runtime.logging import printable

    if as_json:
        show_json(_as_json(parked) | {"done": what})
    else:
        print(printable(f"{parked.id}: {what} ({parked.type or 'of no known type'})"), flush=True)


def _as_json(parked: "Parked") -> dict[str, Any]:
    letter = parked.letter
    return {
        "id": parked.id,
        "reason": letter.reason,
        "detail": letter.detail,
        "sender": letter.sender,
        "parked_by": letter.parked_by,
        "believed": letter.believed,
        "queue": letter.queue,
        "exchange": letter.exchange,
        "routing_key": letter.routing_key,
        "type": parked.type,
        "message_id": parked.message_id,
        "sha256": letter.sha256,
        "size": len(letter.body),
    }


def _readable(body: bytes) -> str:
    """The body as JSON over several lines where it is that, else as text; never what steers a terminal."""
    from wardround.runtime.logging import printable

    try:
        text = json.dumps(json.loads(body), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        text = body.decode(errors="backslashreplace")
    cut = text if len(text) <= BODY_SHOWN else f"{text[:BODY_SHOWN]}..."
    return "\n".join(printable(line) for line in cut.split("\n"))


def _origin(letter: "DeadLetter") -> str:
    """Who said the message, or that only who parked it says so."""
    return letter.sender if letter.believed else f"{letter.parked_by} (says {letter.sender})"
