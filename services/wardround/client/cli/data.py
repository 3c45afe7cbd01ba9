"""`wardround data`: the example data, written as clinics would hold them."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from wardround.client.cli.errors import CommandError, Exit
from wardround.client.cli.optional import needing
from wardround.client.cli.progress import progress
from wardround.runtime.toml_text import toml_document

app = typer.Typer(no_args_is_help=True, help="Write the example data, divided among clinics, to try things with.")

TASK = "Task01_BrainTumour"
UNFINISHED = "unfinished"

Out = Annotated[Path, typer.Option(metavar="DIR", help="Where to write: an empty or a new folder.")]
Sites = Annotated[int, typer.Option(min=1, max=99, help="How many clinics.")]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same data.")]


class Scanners(StrEnum):
    """How much clinics differ: all have one scanner, or their own, or their own patients as well."""

    NONE = "none"
    MILD = "mild"
    STRONG = "strong"


@app.command("brain-tumour")
def brain_tumour(
    out: Out,
    sites: Sites = 3,
    cases: Annotated[int, typer.Option(min=1, help="Cases at each clinic.")] = 18,
    test: Annotated[int, typer.Option(min=0, help="Test cases that no clinic trains on.")] = 12,
    shift: Annotated[Scanners, typer.Option(help="How much scanners and patients differ.")] = Scanners.MILD,
    shape: Annotated[tuple[int, int, int], typer.Option(metavar="X Y Z", help="Voxels each way.")] = (48, 56, 48),
    spacing: Annotated[float, typer.Option(metavar="MM", help="The side of a voxel.")] = 3.5,
    seed: Seed = 7,
) -> None:
    """Synthetic MRI of brain tumours, in the layout of the Medical Segmentation Decathlon.

    As large as the Decathlon's own: --shape 240 240 155 --spacing 1, half a minute and 1.3 GB of memory a case.
    """
    with needing("data", extra="simulation"):
        from wardround.training.datasets.brain_mri import Cohort, Grid, write_cohort

    names = [*_clinics(sites), "test"]
    with _told(), _whole(out) as folder, progress("cases") as tell:
        cohort = Cohort(cases=cases, test_cases=test, shift=shift.value, grid=Grid(shape, spacing))
        *own, common = (folder / name / TASK for name in names)
        write_cohort(cohort, own, common, seed, progress=tell)
    for name in names[:-1]:
        typer.echo(f"{out / name / TASK}   {cases} cases")
    if test:
        typer.echo(f"{out / 'test' / TASK}   {test} cases, for a common test")
    typer.echo("\nThese scans are synthetic: no patient is in them. They are not for clinical use.")
    held = {"brain-mri": out / names[0] / TASK} | ({"brain-mri-test": out / "test" / TASK} if test else {})
    _say_settings(names[0], held, layout="decathlon")


@app.command("breast-cancer")
def breast_cancer(out: Out, sites: Sites = 3, seed: Seed = 7) -> None:
    """Measurements of 569 real patients, which come with scikit-learn, divided among clinics that differ."""
    with needing("data", extra="simulation"):
        from wardround.training.registry import dataset_writer

    names = _clinics(sites)
    writer = dataset_writer("breast-cancer")
    if writer is None:
        raise CommandError("the example data 'breast-cancer' are not installed here: install wardround again")
    with _told(), needing("data", extra="simulation"), _whole(out) as folder:
        written = writer(folder, names, seed)
        held = {
            site: {name: out / path.relative_to(folder) for name, path in sets.items()}
            for site, sets in written.items()
        }
    for sets in held.values():
        for path in sets.values():
            typer.echo(path)
    typer.echo("\nThese are measurements of real patients, published in 1993. They are not for clinical use.")
    _say_settings(names[0], held[names[0]])


def _clinics(sites: int) -> list[str]:
    return [f"clinic-{number}" for number in range(1, sites + 1)]


def _say_settings(site: str, data: Mapping[str, Path], **more: str) -> None:
    """The lines of `site.toml` that name these data."""
    datasets = {
        name: {"path": path.absolute(), **more, "split_salt": {"file": "secrets/split"}} for name, path in data.items()
    }
    typer.echo(f"For the site.toml of {site}, with a secret of the clinic's own in secrets/split:\n")
    typer.echo(toml_document({"datasets": datasets}), nl=False)


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A folder to write in. Its content moves to `out` when all is written; if that fails, nothing is left.

    Raises:
        CommandError: `out` is not empty.
    """
    unfinished = out / UNFINISHED
    if unfinished.exists():
        raise CommandError(
            f"--out: {unfinished} is left of a run that was cut off: delete {out}, or name another folder"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CommandError(f"--out: {out} is not empty: name an empty or a new folder")
    new = not out.exists()
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        for path in list(unfinished.iterdir()):
            path.rename(out / path.name)
        unfinished.rmdir()
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        if new:
            with suppress(OSError):
                out.rmdir()
        raise


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise CommandError(str(error)) from None
    except KeyboardInterrupt:
        raise CommandError("interrupted: nothing was kept", Exit.INTERRUPTED) from None
