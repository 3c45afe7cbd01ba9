"""The page: whatever others wrote is text in it, and it needs nothing from anywhere."""

import re
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest
from metrics_story import manifest
from report_material import Told, compared, course, run_of

from wardround.client.report.facts import Report, report_of
from wardround.client.report.material import Compared, Material, Synthetic
from wardround.client.report.page import Made, Notes, page
from wardround_messages import journal as facts
from wardround_messages.manifest import Manifest

MADE = Made(datetime(2026, 12, 1, 8, 0, tzinfo=UTC), "0.1.0", "report-figures")
NO_NOTES = Notes()
EVIL = "</style></code><script>alert(1)</script><img src=x onerror=alert(1)>\"'{{ 7*7 }}{% raw %}"
VOID = {"meta", "img", "br"}


class Parsed(HTMLParser):
    """Its elements, whether they are closed in order, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag in tags]


def rendered(report: Report, overlays: bytes | None = None, notes: Notes = NO_NOTES) -> str:
    svgs = {chart.name: f'<svg role="img" aria-label="{chart.name}"></svg>' for chart in report.charts}
    return page(report, svgs, overlays, notes, MADE)


def evil() -> Manifest:
    return manifest(rounds=1).model_copy(update={"purpose": EVIL})


@pytest.fixture(scope="module")
def whole() -> str:
    seeds = {1: compared(2, seed=1)}
    how = {(2, "clinic-2"): "late"}
    synthetic = Synthetic(("clinic-1", "clinic-2", "clinic-3"), True, "Synthetic scans")
    return rendered(report_of(Material(compared(2, how=how), seeds, synthetic)), b"png")


def test_nothing_that_others_wrote_becomes_an_element() -> None:
    story = Told(evil())
    story.enrol_all()
    story.write(facts.ExperimentFailed(code="quorum_missed", reason=EVIL))
    synthetic = Synthetic(("clinic-1",), True, EVIL)
    text = rendered(report_of(Material(Compared(run_of(story)), synthetic=synthetic)), notes=Notes(EVIL))
    parsed = Parsed(text)
    assert not parsed.all("script", "img")
    assert [
        name
        for attributes in parsed.all(*{tag for tag, _ in parsed.elements})
        for name in attributes
        if name.startswith("on")
    ] == []
    assert parsed.text.count("<script>alert(1)</script>") == 5  # purpose, file, reason, data set and note
    assert "{{ 7*7 }}" in parsed.text
    assert parsed.open == []


def test_a_reason_of_a_clinic_is_text() -> None:
    story = Told(manifest())
    story.write(
        facts.SiteConsented(
            site="clinic-1", consent=1, verdict="declined", rounds=10, offer=0, code="policy", reason=EVIL
        )
    )
    parsed = Parsed(rendered(report_of(Material(Compared(run_of(story))))))
    assert not parsed.all("script", "img")
    assert f"declined: {EVIL}" in parsed.text


def test_the_page_needs_nothing_from_anywhere(whole: str) -> None:
    parsed = Parsed(whole)
    for attributes in (attributes for _, attributes in parsed.elements):
        for name in ("src", "href", "srcset", "action", "poster", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/png;base64,", "#")), (name, value)
    assert not parsed.all("script", "link", "iframe", "object", "embed", "base", "form")
    assert not re.search(r"@import|url\(|https?:|//[a-z]", re.sub(r"base64,[^\"]*", "", whole))


def test_the_page_forbids_everything_but_its_own_style_and_pictures(whole: str) -> None:
    (policy,) = [meta["content"] for meta in Parsed(whole).all("meta") if meta.get("http-equiv")]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def test_the_page_can_be_read_without_being_seen(whole: str) -> None:
    parsed = Parsed(whole)
    assert whole.lstrip().startswith("<!doctype html>")
    assert parsed.all("html") == [{"lang": "en"}]
    assert all(image.get("alt") for image in parsed.all("img"))
    assert all(chart.get("role") == "img" and chart.get("aria-label") for chart in parsed.all("svg"))
    assert all(head.get("scope") in ("col", "row") for head in parsed.all("th"))
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = {attributes["aria-labelledby"] for _, attributes in parsed.elements if "aria-labelledby" in attributes}
    assert named <= set(ids)
    assert [tag for tag, _ in parsed.elements].count("h1") == 1


def test_synthetic_data_are_named_before_anything_else(whole: str) -> None:
    body = whole[whole.index("<body>") :]
    assert body.index("Synthetic data: not of patients, not for clinical use.") < body.index("<h1>")
    assert "ynthetic" not in Parsed(rendered(report_of(Material(Compared(run_of(course(1))))))).text.split("Results")[1]


def test_where_only_some_data_are_synthetic_their_sites_are_named() -> None:
    some = Synthetic(("clinic-1", "clinic-3"), False, "")
    text = Parsed(rendered(report_of(Material(Compared(run_of(course(1))), synthetic=some)))).text
    assert "Some data are synthetic: those of clinic-1 and clinic-3." in text
    assert "not of patients" not in text


def test_scans_that_may_be_of_patients_have_a_note_above_them() -> None:
    report = report_of(Material(Compared(run_of(course(1)))))
    drawn = rendered(report, b"png", Notes(confidential="Keep this."))
    assert drawn.index("Keep this.") < drawn.index("<img")
    assert 'role="note"' not in rendered(report, b"png")


def test_every_number_has_its_setting_by_it(whole: str) -> None:
    text = " ".join(Parsed(whole).text.split())
    assert "Model 2 on the common test: 12 cases" in text
    assert "over 2 seeds: 0 and 1" in text
    assert text.count("2 rounds of 4 epochs, seed 0") >= 4
    assert "clinic-1: 4, clinic-2: 4, clinic-3: 4" in text
    assert "With 12 test cases, one alone" in text


def test_what_happened_can_be_traced(whole: str) -> None:
    run = compared(2, how={(2, "clinic-2"): "late"}).run
    for digest in (run.history.manifest.sha256, run.head.sha256, "c" * 64):
        assert digest in whole
    assert all(model.model.fact.model.sha256 in whole for model in run.history.rounds.values() if model.model)
    assert "Made 2026-12-01 08:00:00 UTC by Wardround 0.1.0" in whole
    assert "id = &#34;brain-tumour&#34;" in whole
