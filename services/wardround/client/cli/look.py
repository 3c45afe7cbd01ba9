"""`wardround list`, `sites`, `events`, `fetch`: what is at a hub."""

from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wardround.client.cli.errors import CommandError
from wardround.client.cli.on_hub import AsJson, Experiment, InsecureLab, OnHub, on_hub

if TYPE_CHECKING:
    from wardround.client.hub import Hub
    from wardround.client.models import Which
    from wardround.client.sites import SiteShown
    from wardround.runtime.bus.messaging import Received

SAID_AT_MOST = 120
# What the line says besides, or at too great length.
SAID_BESIDES = frozenset({"experiment", "site", "round", "task", "attempt", "body", "claim", "fact", "at"})


def list_experiments(
    everything: Annotated[bool, typer.Option("--all", help="Checks as well.")] = False,
    hub: OnHub = None,
    as_json: AsJson = False,
    insecure_lab: InsecureLab = False,
) -> None:
    """List the hub's experiments, the one changed last first; without --all no checks."""
    from pydantic import TypeAdapter

    from wardround.client.cli.output import ago, show, show_json, table
    from wardround.metrics.summary import Summary

    async def look(reached: "Hub") -> tuple[Summary, ...]:
        return await reached.experiments()

    found = [each for each in on_hub(look, hub=hub, insecure_lab=insecure_lab) if everything or each.mode == "train"]
    if as_json:
        for each in found:
            show_json(TypeAdapter(Summary).dump_python(each, mode="json"))
    elif not found:
        print("no experiment yet. Start one: wardround start FILE", flush=True)
    else:
        rows = (
            (
                each.experiment,
                each.study,
                f"{each.state}: {each.reason}" if each.reason else each.state,
                "check" if each.mode == "check" else f"{each.round} of {each.rounds}",
                each.requested_by,
                ago(each.changed_at),
            )
            for each in found
        )
        show(table(("experiment", "study", "state", "rounds", "by", "changed"), rows))


def sites(hub: OnHub = None, as_json: AsJson = False, insecure_lab: InsecureLab = False) -> None:
    """List the hub's clinics: what each has installed, what it does, when it was last heard of."""
    from wardround.client.cli.output import show, show_json, table
    from wardround.metrics.wording import span_text

    found = on_hub(lambda reached: reached.sites(), hub=hub, insecure_lab=insecure_lab)
    if as_json:
        for each in found:
            show_json(each.model_dump(mode="json"))
        return
    rows = (
        (
            each.site,
            _condition(each),
            f"{each.free} of {each.slots}",
            ", ".join(f"{task.experiment} r{task.round} {task.task}: {task.phase}" for task in each.tasks),
            ", ".join(f"{trainer.name} {trainer.version}" for trainer in each.trainers),
            ", ".join(each.datasets),
            each.agent_version,
            span_text(each.seen_ago),
        )
        for each in found
    )
    show(table(("clinic", "state", "free", "doing", "trainers", "data sets", "agent", "seen"), rows))


def _condition(site: "SiteShown") -> str:
    state = "quiet" if site.quiet else site.status
    return f"{state}: {site.detail}" if site.detail else state


def events(
    experiment: Annotated[str | None, typer.Argument(help="Only what concerns this experiment.")] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="What is said from now on, until Ctrl-C, not what was said.")
    ] = False,
    hub: OnHub = None,
    as_json: AsJson = False,
    insecure_lab: InsecureLab = False,
) -> None:
    """Print the events that the hub's stream holds, or those to come."""
    from wardround.client.cli.output import show_json
    from wardround.client.errors import unknown_experiment
    from wardround.runtime.logging import printable

    async def print_all(reached: "Hub") -> None:
        any_said = False
        async with aclosing(reached.events(follow=follow, experiment=experiment)) as said:
            async for received in said:
                any_said = True
                if as_json:
                    show_json(_as_json(received))
                else:
                    print(printable(_as_line(received)), flush=True)
        if experiment is not None and not any_said and await reached.view(experiment) is None:
            raise unknown_experiment(experiment)

    on_hub(print_all, hub=hub, insecure_lab=insecure_lab, left="")


def _as_json(received: "Received") -> dict[str, Any]:
    return {
        "offset": received.offset,
        "login": received.login,
        **received.envelope.model_dump(mode="json", exclude_none=True),
        "data": received.message.model_dump(mode="json"),
    }


def _as_line(received: "Received") -> str:
    envelope, message = received.envelope, received.message
    what = ".".join(envelope.type.split(".")[2:-1])
    besides = message.model_dump(mode="json", exclude=set(SAID_BESIDES), exclude_defaults=True)
    said = " ".join(f"{name}={value}" for name, value in besides.items())
    cut = said if len(said) <= SAID_AT_MOST else f"{said[:SAID_AT_MOST]}..."
    return (
        f"{envelope.time.astimezone():%H:%M:%S}  {received.login:<12} {what:<22} {envelope.subject:<28} {cut}".rstrip()
    )


def fetch(
    experiment: Experiment,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The file to write.")],
    which: Annotated[str, typer.Option(metavar="best|last|N", help="Which model: N is that of round N.")] = "last",
    hub: OnHub = None,
    as_json: AsJson = False,
    insecure_lab: InsecureLab = False,
) -> None:
    """Fetch a global model as a file, its digest checked."""
    from wardround.client.cli.output import show_json
    from wardround.metrics.wording import short, size_text

    if out.is_dir():
        raise CommandError(f"--out: {out} is a folder; name the file to write")
    if out.exists() and not out.is_file():
        raise CommandError(f"--out: {out} is no ordinary file; name the file to write")
    if not out.absolute().parent.is_dir():
        raise CommandError(f"--out: there is no folder {out.absolute().parent}")
    wanted = _which(which)
    model = on_hub(
        lambda reached: reached.fetch(experiment, wanted, out),
        hub=hub,
        insecure_lab=insecure_lab,
        left=f"interrupted; what has come is kept beside {out}, and the same command goes on from there",
    )
    if as_json:
        show_json(
            {
                "experiment": experiment,
                "round": model.round,
                "size": model.size,
                "sha256": model.sha256,
                "file": str(out),
            }
        )
    else:
        print(f"model {model.round} · {short(model.sha256)} · {size_text(model.size)}: {out}", flush=True)


def _which(which: str) -> "Which":
    from wardround.client.models import read_which

    if (wanted := read_which(which)) is None:
        raise CommandError(f"--which {which}: must be best, last, or the number of a round")
    return wanted
