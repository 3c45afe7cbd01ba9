"""`wardround compare`: the federation, the pooled data, and each clinic alone."""

from pathlib import Path
from typing import Annotated

import typer

from wardround.client.cli.optional import needing
from wardround.client.cli.simulate import Trainings

MOST_SEEDS = 20


def compare(
    file: Annotated[Path, typer.Argument(help="The experiment file; - reads standard input.")],
    sites: Annotated[
        str | None,
        typer.Option(metavar="N|DIR", help="How many clinics to make, or a folder with DIR/<site>/site.toml."),
    ] = None,
    id: Annotated[str | None, typer.Option(help="Another id, for a variant.")] = None,  # noqa: A002
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set a key of the file; may be repeated.")
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, max=MOST_SEEDS, help="Train all of it so often, the file's seed being the first.")
    ] = 1,
    out: Annotated[Path, typer.Option(help="Where results go: OUT/<experiment>/.")] = Path("runs"),
    fresh: Annotated[bool, typer.Option(help="Delete an earlier run's results first.")] = False,
    trainings: Annotated[
        Trainings, typer.Option(help="Train in threads of this process, or in child processes, several at once.")
    ] = Trainings.LOCAL,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines; the last one is the outcome.")] = False,
) -> None:
    """Train federated, on pooled data, and at each clinic alone, on this machine; same trainer, rounds and epochs.

    What an earlier `simulate` or `compare` has done already is not done again.
    """
    with needing("compare", extra="simulation"):
        from wardround.client.cli.comparing import carry_out
        from wardround.client.cli.embedded import Wish

    wish = Wish(
        file=file,
        sites=sites,
        id=id,
        overrides=tuple(overrides or ()),
        out=out,
        fresh=fresh,
        store="folder",
        trainings=trainings.value,
    )
    raise typer.Exit(carry_out(wish, seeds=seeds, as_json=as_json))
