"""What `wardround simulate` does: a module of its own, as it imports all the services."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from wardround.client.cli.embedded import Ready, Wish, exit_code, ready, until_interrupted
from wardround.client.cli.errors import Exit
from wardround.client.cli.following import Following
from wardround.client.display import final_table
from wardround.simulation.references import pooled_reference
from wardround.simulation.run import Run, run_federation, run_reference
from wardround_messages.manifest import Manifest


def carry_out(wish: Wish, *, pooled: bool, as_json: bool) -> Exit:
    """Run the federation, then the pooled training, and show both; the exit code."""
    following = Following(as_json=as_json)
    with ready(wish, following.say) as all_of_it:
        run, beside = until_interrupted(_run(all_of_it, following, pooled=pooled))
    _show(following, all_of_it.manifest, wish.out / all_of_it.manifest.id, run, beside)
    return exit_code(run)


async def _run(it: Ready, following: Following, *, pooled: bool) -> tuple[Run, Run | None]:
    with following.following() as watch:
        run = await run_federation(it.manifest, it.clinics, it.folder, it.embedding, brought=it.brought, watch=watch)
    if run.ending.state != "finished" or not pooled:
        return run, None
    following.say("The same training on pooled data, to compare:")
    with following.following(briefly=True) as watch:
        reference = pooled_reference(it.manifest)
        return run, await run_reference(
            it.manifest, it.clinics, it.folder, it.embedding, reference, brought=it.brought, watch=watch
        )


def _show(following: Following, manifest: Manifest, folder: Path, run: Run, pooled: Run | None) -> None:
    """The outcome: a table, or one JSON object."""
    beside = None if pooled is None else {k: v for k, v in pooled.metrics.items() if v is not None}
    if following.as_json:
        print(json.dumps(summary(manifest, folder, run, beside)), flush=True)
        return
    if run.view is not None and run.view.rounds_done:
        following.console.print()
        following.console.print(final_table(run.view, beside))
    if run.ending.state == "finished":
        model = _model_file(folder, run)
        where = "" if model is None else f"  (the model: {model})"
        following.console.print(f"Results: {folder}{where}", markup=False)
    else:
        complain(manifest.id, run)


def complain(what: str, run: Run) -> None:
    """Say on standard error how a run ended that did not finish."""
    why = ": ".join(part for part in (run.ending.code, run.ending.reason) if part)
    print(f"wardround: {what} is {run.ending.state}{f' ({why})' if why else ''}", file=sys.stderr)


def _model_file(folder: Path, run: Run) -> Path | None:
    """Where the last model lies, as the person spelt the folder."""
    return None if run.model_file is None else folder / run.model_file.name


def summary(manifest: Manifest, folder: Path, run: Run, pooled: Mapping[str, float] | None) -> dict[str, object]:
    """What a program wants to know of a run."""
    view = run.view
    model = None if view is None else view.model
    return {
        "experiment": manifest.id,
        "state": run.ending.state,
        "code": run.ending.code,
        "reason": run.ending.reason,
        "round": view.rounds_done if view is not None else 0,
        "rounds": view.rounds_planned if view is not None else manifest.rounds.count,
        "model": None
        if model is None
        else {"round": model.round, "sha256": model.sha256, "file": str(_model_file(folder, run))},
        "metrics": dict(run.metrics),
        "evaluated": dict(view.evaluated) if view is not None else {},
        "tested": dict(view.tested) if view is not None else {},
        "pooled": None if pooled is None else dict(pooled),
        "folder": str(folder),
    }
