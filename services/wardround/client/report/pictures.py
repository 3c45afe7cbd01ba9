"""Overlays drawn: a row for each case, a column for the scan, the truth, and each model."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from numpy.typing import NDArray

from wardround.client.report import look
from wardround.client.report.look import MUTED, SMALL, Key

if TYPE_CHECKING:
    from wardround.training.pictures import Picture

PANEL = 112.0
GAP = 5.0
OPACITY = 0.55
# Okabe and Ito's palette again: sky, vermillion, yellow and so on stand out from grey, and from each other.
CLASS_COLOURS = ("#56B4E9", "#D55E00", "#F0E442", "#009E73", "#CC79A7", "#E69F00", "#0072B2")


def draw_pictures(by_model: Mapping[str, Sequence["Picture"]]) -> Figure:
    """Of the first model the cases, scans and truth; of every model what it predicts for these cases, in their order.

    Where a model's picture of a case is of another slice than the first's, that slice's name, the end of its title,
    stands above it.
    """
    cases = next(iter(by_model.values()))
    columns = ["scan", "truth", *by_model]
    classes = cases[0].classes
    keys = [Key(name, _colour(nth)) for nth, name in enumerate(classes)]
    top, foot = 16.0, look.LINE + 8
    row = PANEL + 18
    sheet = look.figure(len(columns) * (PANEL + GAP) - GAP, top + len(cases) * row + foot)
    for column, name in enumerate(columns):
        look.write(sheet, column * (PANEL + GAP), sheet.bbox.height - 11, name, weight="bold")
    for nth, case in enumerate(cases):
        bottom = sheet.bbox.height - top - (nth + 1) * row + 2
        look.write(sheet, 0, bottom + PANEL + 4, case.title, size=SMALL, color=MUTED)
        drawn = [pictures[nth] if nth < len(pictures) else None for pictures in by_model.values()]
        panels = [(case.image, None), (case.image, case.truth)]
        panels += [(case.image, None) if each is None else (each.image, each.predicted) for each in drawn]
        for column, (image, mask) in enumerate(panels):
            _panel(sheet, column * (PANEL + GAP), bottom, image, mask, len(classes))
        for column, each in enumerate(drawn, 2):
            if each is not None and each.title != case.title:
                end = each.title.rpartition(", ")[2]
                look.write(sheet, column * (PANEL + GAP), bottom + PANEL + 4, end, size=SMALL, color=MUTED)
    look.legend(sheet, keys, look.LINE - 6)
    return sheet


def _panel(
    sheet: Figure, left: float, bottom: float, image: NDArray[np.float32], mask: NDArray[np.uint8] | None, classes: int
) -> None:
    width, height = sheet.bbox.width, sheet.bbox.height
    made = sheet.add_axes((left / width, bottom / height, PANEL / width, PANEL / height))
    made.set_xticks([])
    made.set_yticks([])
    made.spines[:].set_visible(False)
    made.set_facecolor("black")
    made.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="bilinear")
    if mask is not None:
        made.imshow(_painted(mask, classes), interpolation="nearest")
    made.set_aspect("equal", adjustable="datalim")


def _painted(mask: NDArray[np.uint8], classes: int) -> NDArray[np.float64]:
    """Class k, from 1 on, in the k-th colour; what is none is left clear."""
    painted: NDArray[np.float64] = np.zeros((*mask.shape, 4))
    for nth in range(classes):
        painted[mask == nth + 1] = to_rgba(_colour(nth), OPACITY)
    return painted


def _colour(nth: int) -> Any:
    return CLASS_COLOURS[nth % len(CLASS_COLOURS)]
