"""A report written: the HTML file, and the figures as PNG files in a folder beside it."""

import asyncio
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import matplotlib as mpl

from wardround import __version__
from wardround.client.report import charts, look
from wardround.client.report.at_hand import SITES, declared_metrics, sites_in, synthetic_data
from wardround.client.report.facts import Report, report_of
from wardround.client.report.material import Compared, Material, RunRead
from wardround.client.report.overlays import NONE, Overlays, draw_overlays
from wardround.client.report.page import Made, Notes, page
from wardround.client.report.pictures import draw_pictures
from wardround.client.report.reading import read_folder, read_seeds
from wardround.client.report.sheets import png_of, svg_of
from wardround.runtime.clock import wall_clock

NAME = "report.html"
CONFIDENTIAL = "These are scans of the cases named; this file is as confidential as the data"
PICTURES = "pictures"
# Only files of our own names are ever deleted from the folder of figures.
_OURS = re.compile(r"[0-9]{2}-[a-z0-9-]+\.png")


@dataclass(frozen=True, slots=True)
class Written:
    """The files of a report: the page and the figures, in the order of the page.

    `notices` are for whoever made it, and not for the page: case names and paths may be in them.
    """

    page: Path
    figures: tuple[Path, ...]
    report: Report
    notices: tuple[str, ...] = ()


def write_report(
    folder: Path, out: Path | None = None, *, sites: Path | None = None, made_at: datetime | None = None
) -> Written:
    """Write the report on the run in a folder, which is read and never changed but for the report in it.

    Args:
        folder: of a run, with what it is held against below it.
        out: the HTML file; `report.html` in the folder by default.
        sites: where the sites' own `site.toml` lie, if not in the folder's `sites/`.

    Raises:
        UnusableError: it is no folder of a run; JournalBrokenError, IllegalEntryError: its journal cannot be believed.
        OSError: a file cannot be written.
    """
    main, seeds = asyncio.run(_read(folder))
    manifest = main.run.history.manifest
    here = sites_in(sites or folder / SITES, manifest)
    material = Material(main, seeds, synthetic_data(here, manifest), declared_metrics(manifest.training.trainer))
    overlays = draw_overlays(folder, here, main)
    written = _written(material, overlays, out or folder / NAME, made_at)
    faults = [f"{fault}" for fault in here.faults.values() if f"{fault}" not in overlays.cause]
    return replace(written, notices=(*faults, *_notices(overlays, written.page)))


def _notices(overlays: Overlays, page: Path) -> Iterator[str]:
    if overlays.cause:
        yield f"no pictures of cases: {overlays.cause}"
    if overlays.confidential:
        yield f"{page} and its figures show scans of the cases named in it: they are as confidential as the data"


async def _read(folder: Path) -> tuple[Compared, Mapping[int, Compared]]:
    return await read_folder(folder), await read_seeds(folder)


def write_report_of(run: RunRead, out: Path | None = None, *, made_at: datetime | None = None) -> Written:
    """Write the report on an experiment that was read from a hub; `<experiment>-report.html` here by default.

    Raises:
        OSError: a file cannot be written.
    """
    manifest = run.history.manifest
    material = Material(Compared(run), declared=declared_metrics(manifest.training.trainer))
    return _written(material, NONE, out or Path(f"{manifest.id}-{NAME}"), made_at)


def _written(material: Material, overlays: Overlays, out: Path, made_at: datetime | None) -> Written:
    report = report_of(material)
    figures = out.with_name(f"{out.stem}-figures")
    svgs, pngs = {}, {}
    with mpl.rc_context(look.STYLE):
        drawn = draw_pictures(overlays.by_model) if overlays.by_model else None
        pictures = None if drawn is None else png_of(drawn)
        for number, chart in enumerate(report.charts):
            sheet = charts.draw(chart)
            svgs[chart.name] = svg_of(sheet, f"c{number}", chart.alt)
            pngs[chart.name] = png_of(sheet)
    if pictures is not None:
        pngs[PICTURES] = pictures
    made = Made(made_at or wall_clock(), __version__, figures.name)
    notes = Notes(overlays.note, CONFIDENTIAL if overlays.confidential else "")
    text = page(report, svgs, pictures, notes, made)
    files = tuple(_write_figures(figures, pngs))
    _write(out, text.encode())
    return Written(out, files, report)


def _write_figures(folder: Path, pngs: Mapping[str, bytes]) -> Iterator[Path]:
    if pngs:
        folder.mkdir(exist_ok=True)
    for file in folder.iterdir() if folder.is_dir() else ():
        if _OURS.fullmatch(file.name):
            file.unlink()
    for number, (name, png) in enumerate(pngs.items(), 1):
        file = folder / f"{number:02d}-{_stem(name)}.png"
        _write(file, png)
        yield file


def _stem(name: str) -> str:
    return re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")


def _write(file: Path, data: bytes) -> None:
    """The file appears whole or not at all."""
    part = file.with_name(f".{file.name}.part")
    try:
        part.write_bytes(data)
        os.replace(part, file)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
