"""`wardround hub`: what an operator sets a hub up with."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from wardround.client.cli.errors import CommandError, Exit
from wardround.hub.folder import HubError, HubFolder
from wardround.runtime.roster import Roster
from wardround.runtime.toml_file import SettingsError
from wardround_messages.topology import OPERATOR

app = typer.Typer(no_args_is_help=True, help="An operator's own: make a hub, add clinics and researchers to it.")

Folder = Annotated[Path, typer.Option(help="The hub's folder.")]
InsecureLab = Annotated[bool, typer.Option("--insecure-lab", help="Allow addresses without TLS off this machine.")]


@app.command()
def init(
    broker: Annotated[str, typer.Option(help="Where clinics reach the broker, such as amqps://hub.example.org:443.")],
    store: Annotated[str, typer.Option(help="Where they reach the store, such as https://store.example.org.")],
    metrics: Annotated[str | None, typer.Option(help="Where researchers reach the metrics service.")] = None,
    ca: Annotated[Path | None, typer.Option(help="The certificate of the hub's own authority, a PEM file.")] = None,
    researcher: Annotated[list[str] | None, typer.Option(help="A researcher's login; may be repeated.")] = None,
    folder: Folder = Path("hub"),
) -> None:
    """Make a hub's folder: logins with their secrets, the broker's definitions, the services' settings."""
    if ca is not None and not ca.is_file():
        raise CommandError(f"--ca: there is no file {ca}")
    with _told():
        try:
            roster = Roster(
                broker=broker,
                store=store,
                metrics=metrics,
                ca=None if ca is None else str(ca.absolute()),  # type: ignore[arg-type]
                researchers=tuple(researcher or ()),
            )
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            option = "researcher" if first["loc"][0] == "researchers" else first["loc"][0]
            raise CommandError(f"--{option}: {first['msg'].removeprefix('Value error, ')}") from None
        made = HubFolder.init(folder, roster)
    typer.echo(f"{folder} is a hub's folder now. Keep it to yourself: it holds every secret of the hub.")
    typer.echo(f"  the broker loads {folder / 'definitions.json'}; the services start from {folder}/<service>.toml")
    for name in (*made.roster.researchers, OPERATOR):
        typer.echo(f"  for {name}: {folder / 'people' / name}")
    typer.echo(f"Next: wardround hub add-site clinic-1 --folder {folder}")


@app.command("add-site")
def add_site(
    name: Annotated[str, typer.Argument(help="The clinic's name, such as clinic-1.")], folder: Folder = Path("hub")
) -> None:
    """Add a clinic: its logins and rights, and a folder to hand over to it."""
    with _told(), HubFolder.changing(folder) as hub:
        hub.with_site(name)
    typer.echo(f"{folder / 'sites' / name} is ready to be handed over to {name}, on a way that nobody else reads.")
    _say_apply(folder)


@app.command("add-researcher")
def add_researcher(
    name: Annotated[str, typer.Argument(help="The researcher's login.")], folder: Folder = Path("hub")
) -> None:
    """Add a researcher: logins and rights, and a profile to hand over."""
    with _told(), HubFolder.changing(folder) as hub:
        hub.with_researcher(name)
    typer.echo(f"{folder / 'people' / name} is ready to be handed over to {name}, on a way that nobody else reads.")
    _say_apply(folder)


@app.command("apply")
def apply_(
    folder: Folder = Path("hub"),
    store: Annotated[str | None, typer.Option(help="The store's address from here, where it differs.")] = None,
    insecure_lab: InsecureLab = False,
) -> None:
    """Bring the store's logins and rights to the running store; they replace what is there for these logins."""
    from wardround.hub.logins import apply_store_logins
    from wardround.runtime.encryption import UnencryptedError, refuse_unencrypted
    from wardround.runtime.store.port import StoreError, StoreUnavailableError

    with _told():
        hub = HubFolder.open(folder)
        try:
            refuse_unencrypted([store or hub.roster.store], insecure_lab)
            asyncio.run(apply_store_logins(hub, address=store))
        except UnencryptedError as error:
            raise CommandError(str(error)) from None
        except StoreUnavailableError as error:
            raise CommandError(str(error), Exit.TRY_AGAIN) from None
        except StoreError as error:
            raise CommandError(str(error), Exit.REFUSED) from None
    typer.echo(f"the store at {store or hub.roster.store} knows {len(hub.store_logins)} logins")


def _say_apply(folder: Path) -> None:
    typer.echo("Bring it to the running servers:")
    typer.echo(f"  wardround hub apply --folder {folder}")
    typer.echo(f"  rabbitmqctl import_definitions {folder / 'definitions.json'}")


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except (HubError, SettingsError) as error:
        raise CommandError(str(error)) from None
