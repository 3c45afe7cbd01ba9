"""What `wardround compare` does: a module of its own, as it imports all the services."""

import asyncio
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import RenderableType

from wardround.client.cli.embedded import Ready, Wish, exit_code, ready, until_interrupted
from wardround.client.cli.errors import Exit
from wardround.client.cli.following import Following, View, Watch
from wardround.client.cli.simulation import complain
from wardround.client.comparison import (
    FEDERATED,
    Comparison,
    comparison_json,
    comparison_table,
    setting,
    side_by_side,
)
from wardround.metrics.view import Metrics
from wardround.runtime.clock import wall_clock
from wardround.runtime.together import together
from wardround.simulation.references import Reference, alone_references, pooled_reference, reference_manifest
from wardround.simulation.run import Run, Watcher, run_federation, run_reference
from wardround.simulation.sites import beside
from wardround_messages.manifest import Manifest

SEEDS = "seeds"
Runs = dict[str, Run]
"""How each way of training ended, in the order they are shown in; the references only where the federation finished."""


def carry_out(wish: Wish, *, seeds: int, as_json: bool) -> Exit:
    """Train all of it for each seed, and show what it came to; the exit code is that of the first that failed."""
    following = Following(as_json=as_json)
    with ready(wish, following.say) as first:
        of_seeds = until_interrupted(_all(first, seeds, following))
    _show(following, wish.out / first.manifest.id, first.manifest, of_seeds)
    failed = [
        (f"{first.manifest.id} ({way}, seed {seed})", run)
        for seed, runs in of_seeds.items()
        for way, run in runs.items()
        if run.ending.state != "finished"
    ]
    for what, run in failed:
        complain(what, run)
    return exit_code(failed[0][1]) if failed else Exit.DONE


async def _all(first: Ready, seeds: int, following: Following) -> dict[int, Runs]:
    """Stops after the first seed under which a way of training did not finish."""
    of_seeds: dict[int, Runs] = {}
    for seed in range(first.manifest.seed, first.manifest.seed + seeds):
        it = first if seed == first.manifest.seed else _under(first, seed)
        runs = of_seeds[seed] = await _one_seed(it, following, called=f" (seed {seed})" if seeds > 1 else "")
        if any(run.ending.state != "finished" for run in runs.values()):
            break
    return of_seeds


def _under(first: Ready, seed: int) -> Ready:
    """The same clinics with the same data, in a folder of its own, under another seed."""
    folder = first.folder / SEEDS / str(seed)
    return replace(
        first,
        manifest=first.manifest.model_copy(update={"seed": seed}),
        clinics=[beside(clinic, folder / "sites" / clinic.name) for clinic in first.clinics],
        folder=folder,
    )


async def _one_seed(it: Ready, following: Following, *, called: str) -> Runs:
    following.say(f"Federated{called}:")
    with following.following() as watch:
        run = await run_federation(it.manifest, it.clinics, it.folder, it.embedding, brought=it.brought, watch=watch)
    if run.ending.state != "finished":
        return {FEDERATED: run}
    references = [pooled_reference(it.manifest), *alone_references(it.manifest)]
    following.say(f"Pooled, and each clinic alone{called}:")
    with _following_all(following, it.manifest, references) as watch:
        others = await _at_once(it, references, watch)
    return {FEDERATED: run} | {reference.label: other for reference, other in zip(references, others, strict=True)}


async def _at_once(it: Ready, references: Sequence[Reference], watch: Watcher) -> list[Run]:
    """As many as there are processors, as each trains in one place; those in this process take turns."""
    room = asyncio.Semaphore(len(os.sched_getaffinity(0)) if it.embedding.scheduler == "local" else 1)

    async def one(reference: Reference) -> Run:
        async with room:
            return await run_reference(
                it.manifest, it.clinics, it.folder, it.embedding, reference, brought=it.brought, watch=watch
            )

    return list(await together(*(one(reference) for reference in references)))


@contextmanager
def _following_all(following: Following, manifest: Manifest, references: Sequence[Reference]) -> Iterator[Watch]:
    """On a terminal a line for each that changes in place."""
    if not following.on_a_terminal:
        with following.following(briefly=True) as watch:
            yield watch
        return
    names = {reference_manifest(manifest, reference).id: reference.label for reference in references}
    views: dict[str, View] = {}

    def render() -> RenderableType:
        seen = {name: views[experiment]() if experiment in views else None for experiment, name in names.items()}
        return side_by_side(seen, now=wall_clock().astimezone(), width=following.console.width)

    with following.live(render):
        yield lambda experiment, view: views.update({experiment: view})


def _comparison(manifest: Manifest, of_seeds: Mapping[int, Runs]) -> Comparison:
    ways = dict.fromkeys(way for runs in of_seeds.values() for way in runs)
    test = manifest.evaluation.test is not None
    tested_on = [run.tested_on for runs in of_seeds.values() for run in runs.values() if run.tested_on is not None]
    return Comparison(
        experiment=manifest.id,
        metric=None if manifest.model.best is None else manifest.model.best.metric,
        rounds=manifest.rounds.count,
        epochs=manifest.training.epochs,
        tested_on=tested_on[0] if tested_on else None,
        seeds=tuple(of_seeds),
        scores={way: [_scores(runs.get(way), test=test) for runs in of_seeds.values()] for way in ways},
    )


def _scores(run: Run | None, *, test: bool) -> Metrics:
    """Of all ways the same: a common test that one missed is not made up for by its validation cases."""
    if run is None or run.view is None:
        return {}
    return run.view.tested if test else run.view.evaluated


def _show(following: Following, folder: Path, manifest: Manifest, of_seeds: Mapping[int, Runs]) -> None:
    comparison = _comparison(manifest, of_seeds)
    if following.as_json:
        states = {
            way: [runs[way].ending.state for runs in of_seeds.values() if way in runs] for way in comparison.scores
        }
        print(json.dumps({**comparison_json(comparison), "states": states, "folder": str(folder)}), flush=True)
        return
    if comparison.metrics:
        following.console.print()
        following.console.print(comparison_table(comparison))
        following.console.print(setting(comparison), markup=False)
    following.console.print(f"Results: {folder}", markup=False)
