"""`wardround check`: could every clinic take part in an experiment? Nothing is trained, nothing but codes leaves."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wardround.client.cli.errors import CommandError, Exit
from wardround.client.cli.on_hub import ID_WORDS, AsJson, InsecureLab, OnHub, fork_finder, on_hub, option_of
from wardround_messages.names import EXPERIMENT_MAX, is_id

if TYPE_CHECKING:
    from wardround.client.checked import Checked, SiteChecked
    from wardround.client.hub import Hub
    from wardround.metrics.view import ExperimentView

WITHIN_AT_MOST = 86_400
MARKS = {"ready": "✔", "pending": "?", "silent": "?", "late": "?", "unanswered": "?"}
COLUMNS = ("", "clinic", "answer", "why", "who acts", "what to do")
DOING = {
    "": "",
    "asked": "its agent has not taken it up",
    **dict.fromkeys(("received", "fetching", "queued"), "it waits for the clinic's scheduler"),
}
REDRAWN_A_SECOND = 4


def _within(value: str) -> str:
    _seconds(value)
    return value


def _seconds(value: str) -> int:
    from wardround.client.check import WITHIN_AT_LEAST
    from wardround.runtime.durations import seconds_of

    try:
        seconds = seconds_of(value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if not WITHIN_AT_LEAST <= seconds <= WITHIN_AT_MOST:
        raise typer.BadParameter(f'must be from "{WITHIN_AT_LEAST}s" to "24h"')
    return seconds


def _id(value: str | None) -> str | None:
    if value is not None and not is_id(value, EXPERIMENT_MAX):
        raise typer.BadParameter(f"{ID_WORDS}, at most {EXPERIMENT_MAX}")
    return value


def check(
    file: Annotated[Path, typer.Argument(help="The experiment file; - reads standard input.")],
    within: Annotated[
        str, typer.Option(callback=_within, metavar="DURATION", help="How long the clinics have to answer.")
    ] = "2m",
    id: Annotated[  # noqa: A002
        str | None, typer.Option(callback=_id, help="The id of the check itself; another one each time by default.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set a key of the file; may be repeated.")
    ] = None,
    hub: OnHub = None,
    as_json: AsJson = False,
    insecure_lab: InsecureLab = False,
) -> None:
    """Ask every clinic whether it could take part, before anything starts: policy, trainer, data set, parameters, and
    a try on two cases. Nothing but codes leaves a clinic, and nobody is asked for approval."""
    from wardround.client.check import Check, check_id, check_of
    from wardround.client.experiment_file import read_experiment

    find_fork = fork_finder(hub=hub, insecure_lab=insecure_lab)
    manifest = read_experiment(file, overrides=overrides or (), find_fork=find_fork).manifest
    asked = check_of(manifest, id=id or check_id(manifest.id), within=_seconds(within))

    async def ask(reached: "Hub") -> "Checked":
        if not as_json:
            clinics = ", ".join(manifest.cohort.sites[:3]) + (" and others" if len(manifest.cohort.sites) > 3 else "")
            print(f"{manifest.id}: asking {clinics}, for at most {within} ({asked.id})", flush=True)
        checking = Check(reached, manifest, asked)
        try:
            with _seeing(as_json=as_json) as see:
                return await checking.carry_out(see)
        except asyncio.CancelledError:
            aborted = await checking.abort()
            raise CommandError(_interrupted(asked.id, aborted), Exit.INTERRUPTED) from None

    checked = on_hub(ask, hub=hub, insecure_lab=insecure_lab, left=_interrupted(asked.id, False))
    _show(checked, file, hub, as_json=as_json)


def _interrupted(check: str, aborted: bool) -> str:
    if aborted:
        return f"interrupted; the check {check} is aborted"
    return f"interrupted; the check {check} ends by itself, or at once: wardround abort {check}"


# --- while it goes on ------------------------------------------------------------------------------------------------


@contextmanager
def _seeing(*, as_json: bool) -> Iterator[Callable[["ExperimentView"], None]]:
    """On a terminal what each clinic does right now, gone when all have answered."""
    if as_json or not sys.stdout.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.live import Live

    from wardround.client.site_cells import site_cells
    from wardround.runtime.clock import wall_clock

    with Live(console=Console(highlight=False), transient=True, refresh_per_second=REDRAWN_A_SECOND) as live:

        def see(view: "ExperimentView") -> None:
            from rich.table import Table

            if view.ended:
                return
            doing = Table.grid(padding=(0, 2))
            now = wall_clock().astimezone()
            for site in view.sites[: max(live.console.height - 2, 1)]:
                doing.add_row(*site_cells(site, view, now, wide=False)[:2])
            live.update(doing)

        yield see


# --- the outcome -----------------------------------------------------------------------------------------------------


def _show(checked: "Checked", file: Path, hub: str | None, *, as_json: bool) -> None:
    from wardround.client.cli.output import show, show_json, table
    from wardround.runtime.logging import printable

    if as_json:
        show_json(_as_json(checked))
    else:
        shown = 4 if len(checked.of("ready")) == len(checked.sites) else len(COLUMNS)
        show(table(COLUMNS[:shown], (_row(site)[:shown] for site in checked.sites)))
        for warning in checked.warnings:
            print(printable(f"! {warning}"), flush=True)
    match checked.outcome:
        case "ready":
            if not as_json:
                print(printable(_ready(checked, file, hub)), flush=True)
            return
        case "refused":
            code = Exit.REFUSED
        case "failed":
            code = Exit.ENDED_BADLY
    if as_json:
        raise typer.Exit(code)
    raise CommandError(_amiss(checked), code)


def _row(site: "SiteChecked") -> tuple[str, ...]:
    from wardround.client.advice import advice_on

    advice = advice_on(site)
    who = ("", "") if advice is None else (advice.who, advice.what)
    return (MARKS.get(site.result, "✘"), site.site, _answer(site), _why(site), *who)


def _answer(site: "SiteChecked") -> str:
    match site.result:
        case "pending":
            return "a person must agree"
        case "late":
            return "agreed too late"
        case "unanswered":
            return "not done in time"
        case _:
            return site.result


def _why(site: "SiteChecked") -> str:
    from wardround.client.checked import trainer_text

    match site.result:
        case "ready":
            return "" if site.trainer is None else trainer_text(site.trainer)
        case "silent":
            return "stopped by its people" if site.code else "it said nothing"
        case "unanswered":
            return DOING.get(site.phase, "it has begun")
        case "declined" | "pending":
            return site.reason or site.code.replace("_", " ")
        case _:
            what = f"{site.phase}: {site.code.replace('_', ' ')}"
            return f"{what} ({site.reason})" if site.reason else what


def _ready(checked: "Checked", file: Path, hub: str | None) -> str:
    waiting = checked.of("pending")
    at_all = "every clinic" if not waiting else f"{len(checked.of('ready'))} of {len(checked.sites)} clinics"
    people = f", and people agree at {', '.join(waiting)} once it is started" if waiting else ""
    return f"{checked.experiment}: {at_all} could begin{people}. Start it: wardround start {file}{option_of(hub)}"


def _amiss(checked: "Checked") -> str:
    refusing = checked.of("declined", "refused")
    ready = f"{len(checked.of('ready'))} of {len(checked.sites)} clinics could begin, the quorum is {checked.quorum}"
    if checked.outcome == "refused":
        return f"{checked.experiment} would not reach its quorum: {', '.join(refusing)} refused; {ready}"
    others = [site.site for site in checked.sites if site.result not in ("ready", "pending")]
    return f"{checked.experiment}: something is amiss at {', '.join(others)}; {ready}"


def _as_json(checked: "Checked") -> dict[str, object]:
    from wardround.client.advice import advice_on

    def one(site: "SiteChecked") -> dict[str, object]:
        advice = advice_on(site)
        return {
            "site": site.site,
            "result": site.result,
            "phase": site.phase,
            "code": site.code,
            "reason": site.reason,
            "rule": site.rule,
            "trainer": None if site.trainer is None else site.trainer.model_dump(mode="json"),
            "who": None if advice is None else advice.who,
            "what": None if advice is None else advice.what,
        }

    return {
        "experiment": checked.experiment,
        "check": checked.check,
        "outcome": checked.outcome,
        "quorum": checked.quorum,
        "ready": len(checked.of("ready")),
        "sites": [one(site) for site in checked.sites],
        "warnings": list(checked.warnings),
    }
