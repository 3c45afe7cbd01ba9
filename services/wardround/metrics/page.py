"""One plain page for people: experiments and sites, drawn anew when something is said."""

from collections.abc import Iterable, Sequence
from html import escape

from wardround.metrics.site_row import SiteRow
from wardround.metrics.summary import Summary
from wardround.metrics.wording import span_text

PAGE_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

# The page is fetched and its body put in place: nothing that is said is ever put together to HTML here.
SCRIPT = """\
"use strict";
let waiting = false;
async function draw() {
  waiting = false;
  const answer = await fetch("/", {cache: "no-store"});
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  document.querySelector("main").replaceWith(fresh.querySelector("main"));
}
function soon() {
  if (!waiting) { waiting = true; setTimeout(draw, 1000); }
}
const events = new EventSource("/events");
events.onmessage = soon;
events.onopen = soon;
"""

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}"
    "table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.3rem .8rem .3rem 0;"
    "border-bottom:1px solid #ccc}.quiet,.failed,.broken,.degraded{color:#a00}.running{color:#060}"
)


def page(experiments: Sequence[Summary], sites: Sequence[SiteRow]) -> str:
    """The page as HTML; whatever anybody said in it is escaped."""
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Wardround</title>"
        f"<style>{_STYLE}</style><script src=/page.js defer></script><main>"
        f"<h1>Experiments</h1>{_experiments(experiments)}<h1>Sites</h1>{_sites(sites)}</main></html>"
    )


def _experiments(experiments: Sequence[Summary]) -> str:
    if not experiments:
        return "<p>There is none at hand. <a href=/experiments>All</a></p>"
    return _table(
        ("experiment", "study", "state", "round", "metric", "value", "started"),
        (
            (
                f'<a href="/experiments/{escape(each.experiment)}">{escape(each.experiment)}</a>',
                escape(each.study or ""),
                f'<span class="{escape(each.state)}" title="{escape(each.reason)}">{escape(each.state)}</span>',
                f"{each.round} of {each.rounds}",
                escape(each.metric or ""),
                "" if each.value is None else f"{each.value:.4g}",
                "" if each.started_at is None else f"{each.started_at:%Y-%m-%d %H:%M} UTC",
            )
            for each in experiments
        ),
    )


def _sites(sites: Sequence[SiteRow]) -> str:
    if not sites:
        return "<p>None has said anything yet.</p>"
    return _table(
        ("site", "status", "last seen", "agent", "free slots", "tasks", "detail"),
        (
            (
                escape(each.site),
                f'<span class="{"quiet" if each.quiet else escape(each.status)}">'
                f"{'quiet' if each.quiet else escape(each.status)}</span>",
                f"{span_text(each.seen_ago)} ago",
                escape(each.agent_version),
                f"{each.free} of {each.slots}",
                str(len(each.tasks)),
                escape(each.detail),
            )
            for each in sites
        ),
    )


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """The cells are HTML already."""
    head = "".join(f"<th>{each}" for each in heads)
    return f"<table><tr>{head}" + "".join("<tr>" + "".join(f"<td>{cell}" for cell in row) for row in rows) + "</table>"
