"""`wardround pause`, `resume`, `abort`, `extend`, `readmit`: what a researcher may have a hub do with an experiment."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated

import typer

from wardround.client.cli.on_hub import AsJson, Experiment, InsecureLab, OnHub, Reason, Site, on_hub

if TYPE_CHECKING:
    from wardround.client.hub import CarriedOut, Hub

ROUNDS_AT_MOST = 10_000


def pause(
    experiment: Experiment,
    reason: Reason = "",
    hub: OnHub = None,
    as_json: AsJson = False,
    insecure_lab: InsecureLab = False,
) -> None:
    """Hold an experiment: nothing is opened, asked or closed until it is resumed; trainings in hand run on."""
    _carry_out(lambda reached: reached.pause(experiment, reason), "paused", hub, as_json, insecure_lab)


def resume(
    experiment: Experiment, hub: OnHub = None, as_json: AsJson = False, insecure_lab: InsecureLab = False
) -> None:
    """Go on with a paused experiment: the open round's time starts anew."""
    _carry_out(lambda reached: reached.resume(experiment), "resumed", hub, as_json, insecure_lab)


def abort(
    experiment: Experiment,
    reason: Reason = "",
    hub: OnHub = None,
    as_json: AsJson = False,
    insecure_lab: InsecureLab = False,
) -> None:
    """End an experiment now, for good. Models made so far stay."""
    _carry_out(lambda reached: reached.abort(experiment, reason), "aborted", hub, as_json, insecure_lab)


def extend(
    experiment: Experiment,
    to: Annotated[int, typer.Option("--to", min=1, max=ROUNDS_AT_MOST, metavar="N", help="How many rounds in all.")],
    hub: OnHub = None,
    as_json: AsJson = False,
    insecure_lab: InsecureLab = False,
) -> None:
    """Add rounds, also to an experiment that has finished. Clinics that consented to fewer are asked again."""
    _carry_out(lambda reached: reached.extend(experiment, to), f"extended to {to} rounds", hub, as_json, insecure_lab)


def readmit(
    experiment: Experiment,
    site: Site,
    hub: OnHub = None,
    as_json: AsJson = False,
    insecure_lab: InsecureLab = False,
) -> None:
    """Ask a clinic again that was set aside, from the next step on."""
    _carry_out(lambda reached: reached.readmit(experiment, site), f"{site} readmitted", hub, as_json, insecure_lab)


def _carry_out(
    command: "Callable[[Hub], Awaitable[CarriedOut]]", done: str, hub: str | None, as_json: bool, insecure_lab: bool
) -> None:
    from wardround.client.cli.output import show_json

    left = "interrupted; the command may still be carried out: wardround status shows it"
    carried_out = on_hub(command, hub=hub, insecure_lab=insecure_lab, left=left)
    if as_json:
        show_json(
            {
                "experiment": carried_out.experiment,
                "changed": carried_out.entry is not None,
                "entry": carried_out.entry,
            }
        )
    elif carried_out.entry is None:
        print(f"{carried_out.experiment}: {done} already; nothing new", flush=True)
    else:
        print(f"{carried_out.experiment}: {done} (journal entry {carried_out.entry})", flush=True)
