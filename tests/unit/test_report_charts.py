"""Charts drawn: the same bytes each time, ids of their own, and labels that do not lie upon each other."""

import re
from itertools import pairwise
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.client.report import look
from wardround.client.report.chart_kinds import BarChart, Chart, GridChart, Line, LineChart, Part
from wardround.client.report.charts import KEYS, draw
from wardround.client.report.pictures import draw_pictures
from wardround.client.report.sheets import png_of, svg_of
from wardround.client.report.taking_part import OUTCOMES
from wardround.training.pictures import Picture


def lines(rounds: int = 5, **parts: object) -> LineChart:
    points = tuple((number, 0.5 + number / 100) for number in range(rounds))
    chart = LineChart(
        name="model-dice",
        title="dice",
        subtitle="of the received model",
        x_label="round",
        lines=(Line("clinic-1", "site", points, 0), Line("mean of 1 clinic", "whole", points)),
        cohort=1,
        caption="",
        alt='from "a" to <b>',
    )
    return LineChart(**{**{name: getattr(chart, name) for name in LineChart.__slots__}, **parts})  # type: ignore[attr-defined]


def bars(rounds: int = 5) -> BarChart:
    return BarChart(
        name="sent",
        title="sent",
        subtitle="MB",
        bars=tuple(range(1, rounds + 1)),
        parts=(Part("clinic-1", (1.0,) * rounds, 0), Part("clinic-2", (2.0,) * rounds, 1)),
        caption="",
        alt="sent",
        x_label="round",
    )


def grid(rounds: int = 3) -> GridChart:
    row = tuple("counted" if number % 7 else "late" for number in range(rounds))
    return GridChart(
        name="grid",
        title="outcome",
        subtitle="of each step",
        sites=("clinic-1",),
        columns=tuple(f"{number}" for number in range(1, rounds + 1)),
        cells=(row,),  # type: ignore[arg-type]
        caption="",
        alt="grid",
    )


def lying() -> BarChart:
    return BarChart("t", "time", "s", ("clinic-1", "clinic-2"), (Part("train", (1.0, 2.0)),), "", "time")


def svg(chart: Chart, name: str = "c0") -> str:
    with mpl.rc_context(look.STYLE):
        return svg_of(draw(chart), name, chart.alt)


@pytest.mark.parametrize("chart", [lines(), bars(), grid(), lying()], ids=["lines", "bars", "grid", "lying"])
def test_a_chart_is_the_same_element_each_time(chart: Chart) -> None:
    drawn = svg(chart)
    assert drawn == svg(chart)
    root = ET.fromstring(drawn)
    assert root.tag == "svg" or root.tag.endswith("}svg")
    assert root.get("role") == "img"
    assert root.get("aria-label") == chart.alt
    assert not re.search(r"<!--|<metadata|<style|https?://|<text", drawn)


def test_no_two_charts_of_a_page_share_an_id() -> None:
    first, second = (set(re.findall(r'id="([^"]+)"', svg(lines(), name))) for name in ("c1", "c2"))
    assert first
    assert first.isdisjoint(second)
    drawn = svg(lines(), "c1")
    assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', drawn)) <= {
        pair for name in first for pair in ((name, ""), ("", name))
    }


def test_no_colour_map_or_setting_is_left_changed() -> None:
    before = dict(mpl.rcParams)
    svg(lines())
    assert dict(mpl.rcParams) == before


def test_a_png_is_two_hundred_dots_an_inch_and_the_same_each_time() -> None:
    with mpl.rc_context(look.STYLE):
        png = png_of(draw(lines()))
        assert png == png_of(draw(lines()))
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(png[16:20], "big") == look.WIDTH / 72 * 200


@pytest.mark.slow
def test_five_hundred_rounds_stay_small() -> None:
    for chart in (lines(500), bars(500), grid(500)):
        assert len(svg(chart)) < 120_000


def test_a_line_with_a_gap_is_not_drawn_across_it() -> None:
    whole = lines(lines=(Line("a", "site", ((1, 1.0), (2, 2.0), (4, 4.0), (5, 5.0)), 0),))
    moves = [
        path.count("M") for path in re.findall(r'<path d="([^"]+)" clip-path[^>]*stroke: #E69F00', svg(whole), re.I)
    ]
    assert moves == [2]


@pytest.mark.parametrize(
    "chart", [lines(lines=()), lines(1), lines(lines=(Line("a", "whole", ((3, 0.0),)),), level=1.0)]
)
def test_what_has_hardly_any_points_is_drawn_all_the_same(chart: LineChart) -> None:
    assert svg(chart)


def test_a_large_cohort_is_grey_whoever_of_it_has_values() -> None:
    points = ((1, 0.5), (2, 0.6))
    seven = tuple(Line(f"clinic-{nth + 1}", "site", points, nth) for nth in range(1, 8))
    drawn = svg(lines(lines=seven, cohort=8))  # clinic-1 declined
    assert drawn.count("stroke: #9aa5b1") == 7
    assert look.SITE_COLOURS[1].lower() not in drawn.lower()


def test_every_outcome_has_a_symbol_of_its_own() -> None:
    assert KEYS.keys() == OUTCOMES.keys()
    shapes = [(key.marker, key.filled) for key in KEYS.values()]
    assert len(set(shapes)) == len(shapes)  # without their colours, too


@given(st.lists(st.floats(0, 100), min_size=1, max_size=8))
def test_labels_keep_their_order_and_their_distance(wanted: list[float]) -> None:
    placed = look.spread_out(wanted, 10, 0, 100)
    pairs = sorted(zip(wanted, placed, strict=True))
    assert all(0 <= place <= 100 for place in placed)
    assert all(after - before >= 10 - 1e-6 for before, after in pairwise(sorted(placed)))
    assert all(first[1] <= second[1] + 1e-6 for first, second in pairwise(pairs) if first[0] < second[0])


def test_labels_that_are_far_apart_stay_where_they_are() -> None:
    assert look.spread_out([50, 10, 90], 10, 0, 100) == [50, 10, 90]
    assert look.spread_out([50, 50], 10, 0, 100) == [45, 55]


def test_pictures_stand_case_by_case_and_model_by_model() -> None:
    image = np.zeros((6, 4), np.float32)
    mask = np.ones((6, 4), np.uint8)
    case = Picture("case $x^", image, mask, mask, ("oedema", "core"))
    with mpl.rc_context(look.STYLE):
        sheet = draw_pictures({"federated": [case, case], "pooled data": [case]})
        png_of(sheet)
    words = {text.get_text() for text in sheet.texts}
    assert words >= {"scan", "truth", "federated", "pooled data", "case $x^", "oedema", "core"}
    assert len(sheet.axes) == 2 * 4


def test_a_model_whose_picture_is_of_another_slice_has_its_own_scan_and_says_which() -> None:
    mask = np.ones((6, 4), np.uint8)
    one = Picture("case 1, slice 3", np.zeros((6, 4), np.float32), mask, mask, ("core",))
    other = Picture("case 1, slice 5", np.ones((6, 4), np.float32), mask, mask, ("core",))
    with mpl.rc_context(look.STYLE):
        sheet = draw_pictures({"federated": [one], "pooled data": [other]})
    assert {"case 1, slice 3", "slice 5"} <= {text.get_text() for text in sheet.texts}
    scans = [np.asarray(made.images[0].get_array()).max() for made in sheet.axes]
    assert scans == [0, 0, 0, 1]
