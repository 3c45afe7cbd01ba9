"""`wardround simtest`: the real services under faults that a seed draws, and a checker for every promise."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from wardround.client.cli.errors import CommandError, Exit
from wardround.client.cli.optional import needing

if TYPE_CHECKING:
    from wardround.simulation.faults.campaign import Verdict


def simtest(
    seeds: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many schedules to run.")] = 500,
    first: Annotated[int, typer.Option("--from", min=0, help="The first seed.")] = 0,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Run this one alone: the same schedule, step by step.")
    ] = None,
    history: Annotated[bool, typer.Option(help="With --seed, print all that happened.")] = False,
    every_step: Annotated[
        bool, typer.Option("--every-step", help="Cut each service at every step of a small experiment instead.")
    ] = False,
    processes: Annotated[
        int | None, typer.Option(min=1, max=256, help="How many at once; one a processor by default.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Test what is promised under faults: kills, lost mail, outages, frozen services, clocks, flipped bits.

    Coordinator, aggregator, metrics and site-agents are the real ones, on embedded adapters and a clock that jumps.
    """
    with needing("simtest", extra="simulation"):
        from wardround.simulation.faults.campaign import campaign

    if every_step and seed is not None:
        raise CommandError("--every-step knows no --seed: it cuts the same small experiment everywhere")
    if history and seed is None:
        raise CommandError("--history is that of one schedule: add --seed N")
    if every_step:
        raise typer.Exit(_every_step(processes, as_json=as_json))
    if seed is not None:
        raise typer.Exit(_one(seed, with_history=history, as_json=as_json))
    verdicts = campaign(range(first, first + seeds), processes=processes)
    raise typer.Exit(_many(verdicts, seeds, as_json=as_json))


def _one(seed: int, *, with_history: bool, as_json: bool) -> int:
    from wardround.client.cli.output import show, show_json, table
    from wardround.simulation.faults.campaign import Judge
    from wardround.simulation.faults.report import as_object, rows
    from wardround.simulation.faults.workplace import workplace

    with workplace() as place:
        verdict, outcome = Judge(place).run(seed)
    lines = [str(line) for line in outcome.history.lines] if with_history and outcome is not None else []
    failed = len(verdict.violations) > 0
    if as_json:
        figures = as_object(verdict.figures, int(failed))
        show_json(_as_object(verdict) | figures | ({"history": lines} if with_history else {}))
        return Exit.ENDED_BADLY if failed else Exit.DONE
    for line in lines:
        print(line)
    if failed:
        _complain(verdict)
    show(table(("", ""), rows(verdict.figures, int(failed))))
    print(f"seed {seed} is the schedule {verdict.digest}")
    return Exit.ENDED_BADLY if failed else Exit.DONE


def _every_step(processes: int | None, *, as_json: bool) -> int:
    from collections import Counter

    from wardround.client.cli.output import show, show_json, table
    from wardround.client.cli.progress import progress
    from wardround.simulation.faults.every_step import every_cut, try_cuts

    cuts, undisturbed = every_cut()
    tried, failed = Counter[tuple[str, str]](), []
    try:
        with progress("steps") as tell:
            for result in try_cuts(cuts, undisturbed, processes=processes):
                tried[result.cut.what, result.cut.service] += 1
                tell(tried.total(), len(cuts))
                if result.violations:
                    failed.append({"cut": str(result.cut), "violations": [str(each) for each in result.violations]})
                    if not as_json:
                        complaint = [f"{result.cut} breaks a promise:", *map(str, result.violations)]
                        print("\n  ".join(complaint), flush=True)
    except KeyboardInterrupt:
        words = f"interrupted after {tried.total()} of {len(cuts)} steps; {len(failed)} of them broke a promise"
        raise CommandError(words, Exit.INTERRUPTED) from None
    if as_json:
        steps = [{"what": what, "service": service, "steps": steps} for (what, service), steps in sorted(tried.items())]
        show_json({"steps": tried.total(), "by_service": steps, "failed": failed})
    else:
        counted = [(service, what, steps) for (what, service), steps in sorted(tried.items())]
        show(table(("service", "is", "at so many steps"), [*counted, ("all", "", tried.total())]))
        print(f"{len(failed)} of them break a promise")
    return Exit.ENDED_BADLY if failed else Exit.DONE


def _many(verdicts: "Iterable[Verdict]", seeds: int, *, as_json: bool) -> int:
    from wardround.client.cli.output import show, show_json, table
    from wardround.client.cli.progress import progress
    from wardround.simulation.faults.figures import Figures
    from wardround.simulation.faults.report import as_object, rows

    together, failed, interrupted = Figures(), [], False
    try:
        with progress("seeds") as tell:
            for verdict in verdicts:
                together.add(verdict.figures)
                tell(together.runs, seeds)
                if verdict.violations:
                    failed.append(verdict)
                    if not as_json:
                        _complain(verdict)
    except KeyboardInterrupt:
        interrupted = True
    if as_json:
        show_json(as_object(together, len(failed)) | {"failed": [_as_object(verdict) for verdict in failed]})
    else:
        show(table(("", ""), rows(together, len(failed))))
    if interrupted:
        raise CommandError(f"interrupted after {together.runs} of {seeds} seeds", Exit.INTERRUPTED)
    return Exit.ENDED_BADLY if failed else Exit.DONE


def _complain(verdict: "Verdict") -> None:
    print(f"seed {verdict.seed} ({verdict.profile}) breaks a promise:")
    for violation in verdict.violations:
        print(f"  {violation}")
    print(f"  again, with all that happened: wardround simtest --seed {verdict.seed} --history", flush=True)


def _as_object(verdict: "Verdict") -> dict[str, object]:
    violations = [{"promise": each.promise, "evidence": each.evidence} for each in verdict.violations]
    return {
        "seed": verdict.seed,
        "profile": verdict.profile,
        "schedule_sha256": verdict.digest,
        "violations": violations,
    }
