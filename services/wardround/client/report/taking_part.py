"""Who took part: what became of every site in every step, and why where nothing counted."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from wardround.client.report.chart_kinds import GridChart, Outcome
from wardround.client.report.curves import sites_of
from wardround.client.report.material import RunRead
from wardround.client.report.words import count_text, listed
from wardround.metrics.history import StepName
from wardround.metrics.lines import step_text
from wardround_messages.figures import Figures, SiteFigures
from wardround_messages.names import AnswerKey, Task

SITES_SHOWN = 40
ABSENCES_SHOWN = 200
RANGES_SHOWN = 8
OF_ALL_SITES = (Task.TRAIN, Task.EVALUATE, Task.CHECK)

OUTCOMES: Mapping[Outcome, str] = {
    "counted": "counted",
    "left_out": "left out",
    "late": "late",
    "failed": "failed",
    "refused": "refused",
    "cancelled": "cancelled",
    "withdrawn": "withdrew",
    "declined": "declined",
    "set_aside": "set aside",
    "not_asked": "not asked",
    "open": "not yet answered",
}
# These take up no place in the list of absences: nobody failed anybody.
NO_FAULT: frozenset[Outcome] = frozenset({"counted", "not_asked", "open"})
# Whoever was not asked, or may still answer, owes no answer.
NOT_DUE: frozenset[Outcome] = frozenset({"not_asked", "open", "declined", "set_aside", "withdrawn"})


@dataclass(frozen=True, slots=True)
class Share:
    """A site's part: how often each outcome came about in the steps that concern all sites, and how many updates of
    how many bytes in all it sent. `consent` is its word on the experiment, in words."""

    site: str
    consent: str
    counts: Mapping[Outcome, int]
    updates: int
    sent: int

    @property
    def due(self) -> int:
        """How many answers it was asked for and had its time to give."""
        return sum(number for outcome, number in self.counts.items() if outcome not in NOT_DUE)


@dataclass(frozen=True, slots=True)
class Absence:
    """A site that did not count in some steps, all for the same reason: `why` is a code, or what the site said."""

    site: str
    steps: str
    outcome: Outcome
    why: str


def participation(run: RunRead) -> GridChart | None:
    """The grid of sites and steps; None before the first step that concerns all sites."""
    steps = [(number, task) for number, task, _ in _rows_by_step(run)]
    if not steps:
        return None
    sites = sites_of(run)
    outcomes = {
        (site.site, number, task): outcome_of(site) for number, task, rows in _rows_by_step(run) for site in rows
    }
    totals = Counter(outcomes.values())
    shown = sites[:SITES_SHOWN]
    said = listed([f"{totals[outcome]:,} {word}" for outcome, word in OUTCOMES.items() if totals[outcome]])
    return GridChart(
        name="taking-part",
        title="outcome of each step",
        subtitle="every clinic in every round, and in the final evaluation",
        sites=shown,
        columns=tuple(_column(number, task) for number, task in steps),
        cells=tuple(tuple(outcomes.get((site, *step)) for step in steps) for site in shown),
        caption=f"The first {len(shown)} of {len(sites):,} clinics." if len(shown) < len(sites) else "",
        alt=f"{count_text(len(sites), 'clinic')} in {count_text(len(steps), 'step')}: {said}",
    )


def shares(run: RunRead) -> tuple[Share, ...]:
    counts: dict[str, Counter[Outcome]] = {site: Counter() for site in sites_of(run)}
    for _, _, rows in _rows_by_step(run):
        for site in rows:
            counts[site.site][outcome_of(site)] += 1
    sizes: dict[str, list[int]] = {site: [] for site in sites_of(run)}
    for figures in run.figures.values():
        for site in (site for step in figures.steps for site in step.sites):
            if site.update is not None:
                sizes[site.site].append(site.update.size)
    return tuple(
        Share(site, _consent(run, site), found, len(sizes[site]), sum(sizes[site])) for site, found in counts.items()
    )


def _consent(run: RunRead, site: str) -> str:
    standing = run.history.sites[site]
    if standing.verdict is None:
        return "not yet answered"
    said = "a person must decide" if standing.verdict == "pending" else standing.verdict
    return said if standing.verdict == "granted" or not standing.reason else f"{said}: {standing.reason}"


def absences(run: RunRead) -> tuple[Absence, ...]:
    """Every answer that did not count or never came, with its reason, in the order of the rounds."""
    rows = [
        (site.site, (number, task), outcome_of(site), _why(run, number, task, site))
        for number, figures in sorted(run.figures.items())
        for task, sites in ((step.task, step.sites) for step in figures.steps)
        for site in sites
        if outcome_of(site) not in NO_FAULT
    ]
    found: dict[tuple[str, Outcome, str], list[StepName]] = {}
    for site, step, outcome, why in rows:
        found.setdefault((site, outcome, why), []).append(step)
    return tuple(Absence(site, _steps(steps), outcome, why) for (site, outcome, why), steps in found.items())


def outcome_of(site: SiteFigures) -> Outcome:
    if site.outcome == "answered":
        return "counted" if site.counted else "left_out"
    return site.outcome


def _rows_by_step(run: RunRead) -> Iterator[tuple[int, Task, tuple[SiteFigures, ...]]]:
    """The steps that concern all sites, in order."""
    for number, figures in sorted(run.figures.items()):
        for step in figures.steps:
            if step.task in OF_ALL_SITES:
                yield number, step.task, step.sites


def _column(number: int, task: Task) -> str:
    return {Task.EVALUATE: "final", Task.CHECK: "check"}.get(task, f"{number}")


def _steps(steps: list[StepName]) -> str:
    """`rounds 3 to 5, 9`, and whatever is no round by its name."""
    rounds = [number for number, task in steps if task is Task.TRAIN]
    named = [step_text(step) for step in steps if step[1] is not Task.TRAIN]
    if rounds:
        named.insert(0, f"round{'s' if len(rounds) > 1 else ''} {_ranges(rounds)}")
    return ", ".join(named)


def _ranges(numbers: list[int]) -> str:
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and ranges[-1][-1] == number - 1:
            ranges[-1].append(number)
        else:
            ranges.append([number])
    shown = [f"{each[0]}" if len(each) == 1 else f"{each[0]} to {each[-1]}" for each in ranges[:RANGES_SHOWN]]
    rest = sum(len(each) for each in ranges[RANGES_SHOWN:])
    return ", ".join(shown) + (f" and {rest} more" if rest else "")


def _why(run: RunRead, number: int, task: Task, site: SiteFigures) -> str:
    """What is known of the reason: the code, and the words that a clinic let out."""
    standing = run.history.sites[site.site]
    if site.outcome in ("withdrawn", "declined"):
        return standing.reason or (site.why or "")
    code = site.why or (standing.set_aside or "" if site.outcome == "set_aside" else "")
    failure = run.failures.get(AnswerKey(number, task, site.site, site.attempts)) if site.attempts else None
    words = failure.hint if failure is not None else _left_out_detail(run.figures[number], site.site)
    during = f" in phase {failure.phase}" if failure is not None else ""
    return ": ".join(part for part in (f"{code}{during}".strip(), words) if part)


def _left_out_detail(figures: Figures, site: str) -> str:
    left_out = () if figures.model is None else figures.model.left_out
    return next((left.detail for left in left_out if left.site == site), "")
