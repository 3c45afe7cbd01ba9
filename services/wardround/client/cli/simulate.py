"""`wardround simulate`: a whole federation in one process, and the same training on pooled data beside it."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from wardround.client.cli.optional import needing


class Store(StrEnum):
    FOLDER = "folder"
    MEMORY = "memory"


class Trainings(StrEnum):
    INLINE = "inline"
    LOCAL = "local"


def simulate(
    file: Annotated[Path, typer.Argument(help="The experiment file; - reads standard input.")],
    sites: Annotated[
        str | None,
        typer.Option(metavar="N|DIR", help="How many clinics to make, or a folder with DIR/<site>/site.toml."),
    ] = None,
    id: Annotated[str | None, typer.Option(help="Another id, for a variant.")] = None,  # noqa: A002
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set a key of the file; may be repeated.")
    ] = None,
    begin_with: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="EXPERIMENT@ROUND",
            help="Begin with that model of an earlier run in OUT, whatever the file says; also @last and @best.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Where results go: OUT/<experiment>/.")] = Path("runs"),
    fresh: Annotated[bool, typer.Option(help="Delete an earlier run's results first.")] = False,
    pooled: Annotated[bool, typer.Option(help="Also train on pooled data, to compare.")] = True,
    store: Annotated[Store, typer.Option(help="Keep the hub's objects as files, or in memory.")] = Store.FOLDER,
    trainings: Annotated[
        Trainings, typer.Option(help="Train in threads of this process, or in child processes.")
    ] = Trainings.INLINE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines; the last one is the outcome.")] = False,
) -> None:
    """Run an experiment with all its clinics on this machine. The same command goes on where an earlier one stopped."""
    with needing("simulate", extra="simulation"):
        from wardround.client.cli.embedded import Wish
        from wardround.client.cli.simulation import carry_out

    wish = Wish(
        file=file,
        sites=sites,
        id=id,
        overrides=tuple(overrides or ()),
        out=out,
        fresh=fresh or store is Store.MEMORY,
        store=store.value,
        trainings=trainings.value,
        begin_with=begin_with,
    )
    raise typer.Exit(carry_out(wish, pooled=pooled, as_json=as_json))
