"""The page: facts and figures set as one HTML file that needs nothing else, neither a network nor a script."""

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib import resources

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from wardround.client.report import words
from wardround.client.report.facts import Report
from wardround.client.report.results import Spread, over_seeds
from wardround.client.report.taking_part import ABSENCES_SHOWN, OUTCOMES, SITES_SHOWN
from wardround.metrics.wording import size_text

TEMPLATE = "page.html.j2"
STYLE = "page.css"
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True, slots=True)
class Made:
    """When the report was made, by which version, and the name of the folder beside it."""

    at: datetime
    version: str
    figures: str


@dataclass(frozen=True, slots=True)
class Notes:
    """On the overlays: why there are none, and what is to be minded before they are handed on."""

    missing: str = ""
    confidential: str = ""


def page(report: Report, svgs: Mapping[str, str], overlays: bytes | None, notes: Notes, made: Made) -> str:
    """The whole file.

    Args:
        svgs: by the name of a chart its element; they are drawn here and trusted, unlike everything else.
        overlays: a PNG file.
    """
    return (
        _environment()
        .get_template(TEMPLATE)
        .render(
            report=report,
            svgs={name: Markup(svg) for name, svg in svgs.items()},  # noqa: S704
            overlays=None if overlays is None else b64encode(overlays).decode("ascii"),
            notes=notes,
            made=made,
            policy=POLICY,
            style=Markup(_text(STYLE)),  # noqa: S704
            outcomes=OUTCOMES,
            sites_shown=SITES_SHOWN,
            absences_shown=ABSENCES_SHOWN,
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(_text),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        metric=words.metric_text,
        spread=_spread,
        time=words.time_text,
        count=words.count_text,
        amount=words.amount_text,
        size=size_text,
        listed=lambda items: words.listed(list(items)),
        over_seeds=over_seeds,
    )
    return environment


def _text(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _spread(value: Spread | None, cases: int | None = None, *, signed: bool = False) -> str:
    """`0.812`, or `0.812 ± 0.010` over seeds."""
    if value is None:
        return words.NOTHING
    text = words.difference_text if signed else words.metric_text
    return words.spread_text(text(value.mean, cases), value.sd, cases)
