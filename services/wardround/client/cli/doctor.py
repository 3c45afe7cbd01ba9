"""`wardround doctor`: whether a hub is fit for work, as far as this login may look."""

import asyncio
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wardround.client.cli.errors import CommandError, Exit
from wardround.client.cli.on_hub import AsJson, InsecureLab, OnHub

if TYPE_CHECKING:
    from wardround.client.doctor.findings import Check, Finding

PEOPLE = Path("people/operator/hubs.toml")


def doctor(
    hub: OnHub = None,
    hub_folder: Annotated[
        Path | None,
        typer.Option(
            help="The hub's own folder, on its machine: tries as well what only the hub's services may. "
            "Without --hub it looks as the operator."
        ),
    ] = None,
    as_json: AsJson = False,
    insecure_lab: InsecureLab = False,
) -> None:
    """Look whether a hub is fit for work: what is well, what is wrong, what to do.

    Nothing is changed and nobody disturbed. Exits 1 where something is wrong, 2 where the profile cannot be used.
    """
    from wardround.client.doctor.hub import HubDoctor
    from wardround.client.errors import UnusableError
    from wardround.client.hubs import connections, hubs_file, read_profile
    from wardround.hub.folder import HubError, HubFolder
    from wardround.runtime.encryption import UnencryptedError
    from wardround.runtime.secrets import SecretUnreadableError
    from wardround.runtime.toml_file import SettingsError

    try:
        folder = None if hub_folder is None else HubFolder.open(hub_folder)
        operators = None if folder is None or hub is not None else folder.path / PEOPLE
        profile = read_profile(hub, file=operators or hubs_file())
        to = connections(profile, insecure_lab=insecure_lab)
    except (SettingsError, UnusableError, UnencryptedError, SecretUnreadableError, HubError) as error:
        raise CommandError(str(error)) from None

    async def look() -> "tuple[Finding, ...]":
        doctor = HubDoctor(profile, to, folder)
        try:
            return await examined(doctor.checks(), as_json=as_json)
        finally:
            await doctor.close()

    end(asyncio.run(look()), as_json=as_json)


async def examined(checks: "Sequence[Check]", *, as_json: bool) -> "tuple[Finding, ...]":
    """All findings; a person at a terminal sees meanwhile how many there are."""
    from wardround.client.doctor.findings import examine

    if as_json or not sys.stderr.isatty():
        return await examine(checks)
    from rich.console import Console

    with Console(stderr=True).status("looking") as status:
        found: list[Finding] = []

        def told(finding: "Finding") -> None:
            found.append(finding)
            status.update(f"looking: {len(found)} of {len(checks)}")

        return await examine(checks, told=told)


def end(findings: "Sequence[Finding]", *, as_json: bool, badly: Callable[["Finding"], Exit] | None = None) -> None:
    """Print them, and leave with the exit code that they mean: `badly` says which a wrong one means."""
    from dataclasses import asdict

    from wardround.client.cli.output import show, show_json
    from wardround.client.doctor.show import findings_table, summary

    if as_json:
        for finding in findings:
            show_json(asdict(finding))
    else:
        show(findings_table(findings))
        print(f"\n{summary(findings)}", flush=True)
    codes = [Exit.ENDED_BADLY if badly is None else badly(each) for each in findings if each.state == "wrong"]
    if codes:
        raise typer.Exit(max(codes))
