"""`wardround start`: give a hub an experiment."""

from pathlib import Path
from typing import Annotated

import typer

from wardround.client.cli import watch as watching
from wardround.client.cli.on_hub import AsJson, InsecureLab, OnHub, fork_finder, on_hub, option_of


def start(
    file: Annotated[Path, typer.Argument(help="The experiment file; - reads standard input.")],
    id: Annotated[str | None, typer.Option(help="Another id, for a variant.")] = None,  # noqa: A002
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set a key of the file; may be repeated.")
    ] = None,
    begin_with: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="EXPERIMENT@ROUND",
            help="Begin with that model of another experiment, whatever the file says; also @last and @best.",
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Return when it has ended.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Watch it to its end.")] = False,
    hub: OnHub = None,
    as_json: AsJson = False,
    insecure_lab: InsecureLab = False,
) -> None:
    """Start an experiment at a hub; returns when the hub has accepted it. The same file again changes nothing."""
    from wardround.client.cli.output import show_json
    from wardround.client.experiment_file import read_experiment
    from wardround.metrics.lines import origin_text

    find_fork = fork_finder(hub=hub, insecure_lab=insecure_lab)
    read = read_experiment(file, id=id, overrides=overrides or (), find_fork=find_fork, begin_with=begin_with)
    name, initial = read.manifest.id, read.manifest.model.initial
    started = on_hub(
        lambda reached: reached.start(read.manifest, brought=read.brought),
        hub=hub,
        insecure_lab=insecure_lab,
        left=f"interrupted; whether the hub has it already: wardround status {name}{option_of(hub)}",
    )
    follows = wait or watch
    if as_json and not follows:
        forked = initial.model_dump(include={"experiment", "round", "sha256"}) if initial.kind == "forked" else None
        show_json({"experiment": name, "new": started.new} | ({} if forked is None else {"from": forked}))
    elif not as_json:
        accepted = f"{name} is accepted" if started.new else f"{name} is there already, with this content; nothing new"
        begins = f"; it begins with {text}" if started.new and (text := origin_text(initial)) else ""
        print(
            accepted + begins + ("" if follows else f". Watch it: wardround watch {name}{option_of(hub)}"), flush=True
        )
    if follows:
        watching.follow(name, hub=hub, insecure_lab=insecure_lab, as_json=as_json, silently=not watch)
