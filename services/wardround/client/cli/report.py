"""`wardround report`: a run as one HTML file, with its figures beside it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wardround.client.cli.errors import CommandError, Exit
from wardround.client.cli.on_hub import ID_WORDS, AsJson, InsecureLab, OnHub, on_hub
from wardround.client.cli.optional import needing
from wardround_messages.names import EXPERIMENT_MAX, is_id

if TYPE_CHECKING:
    from wardround.client.report.write import Written


def report(
    target: Annotated[
        str,
        typer.Argument(
            help="The folder of a run, as runs/brain-tumour, or else, and always with --hub, an experiment at the hub."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="The HTML file. Without it: report.html in the run's folder, or EXPERIMENT-report.html here.",
        ),
    ] = None,
    sites: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where a simulation's own clinics lie, to draw scans: DIR/<site>/site.toml."),
    ] = None,
    hub: OnHub = None,
    as_json: AsJson = False,
    insecure_lab: InsecureLab = False,
) -> None:
    """Write the report on a run: one HTML file that opens anywhere, its figures as PNG files in a folder beside it."""
    with needing("report", extra="report"):
        from wardround.client.report import write as writing

    _check_out(out)
    folder = Path(target)
    if hub is None and folder.exists():
        written = _on_folder(folder, out, sites)
    else:
        _check_experiment(target, sites, on_hub=hub is not None)
        run = on_hub(lambda reached: reached.read_run(target), hub=hub, insecure_lab=insecure_lab)
        written = writing.write_report_of(run, out)
    _tell(written, as_json=as_json)


def _on_folder(folder: Path, out: Path | None, sites: Path | None) -> "Written":
    from wardround.client.errors import HubError
    from wardround.client.report.write import write_report
    from wardround.metrics.evolve import IllegalEntryError
    from wardround.runtime.journal import JournalBrokenError
    from wardround.runtime.store.port import StoreError

    try:
        return write_report(folder, out, sites=sites)
    except (HubError, StoreError) as error:
        raise CommandError(str(error)) from None
    except (JournalBrokenError, IllegalEntryError) as error:
        raise CommandError(str(error), Exit.ENDED_BADLY) from None


def _check_experiment(target: str, sites: Path | None, *, on_hub: bool) -> None:
    if not is_id(target, EXPERIMENT_MAX):
        if on_hub:
            raise CommandError(f"{target} is no experiment: with --hub, its id is wanted, which {ID_WORDS}")
        raise CommandError(f"there is no folder {target}, and the id of an experiment {ID_WORDS}")
    if sites is not None:
        raise CommandError("--sites: goes with the folder of a run; the data of a hub's clinics stay there")


def _check_out(out: Path | None) -> None:
    if out is None:
        return
    if out.is_dir():
        raise CommandError(f"--out: {out} is a folder; name the file to write")
    if not out.absolute().parent.is_dir():
        raise CommandError(f"--out: there is no folder {out.absolute().parent}")


def _tell(written: "Written", *, as_json: bool) -> None:
    from wardround.client.cli.output import show_json
    from wardround.runtime.logging import printable

    for notice in written.notices:
        typer.echo(f"wardround: {printable(' '.join(notice.split()))}", err=True)
    report, figures = written.report, written.figures
    if as_json:
        show_json(
            {
                "experiment": report.experiment,
                "state": report.state,
                "file": str(written.page),
                "figures": [str(figure) for figure in figures],
            }
        )
        return
    beside = f" ({len(figures)} figures in {figures[0].parent})" if figures else ""
    print(f"Report: {written.page}{beside}", flush=True)
