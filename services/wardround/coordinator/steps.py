"""When does a round close? `closing_reason` says it; the rest of this page is where the sites of the open step stand.

All pure: the open step, the answers found in the store, and the time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from wardround.coordinator.state import State, Step
from wardround_messages.manifest import Rounds
from wardround_messages.names import ATTEMPT_MAX, AnswerKey, Task
from wardround_messages.objects import Answer
from wardround_messages.parts import WITHDRAWN

REASONS_TOLD = 3


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """An answer object and its digest; `answer` is None where its bytes are no answer."""

    sha256: str
    answer: Answer | None


Answers = Mapping[AnswerKey, StoredAnswer]


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a site stands in a step. `attempt` is the one that counted, failed last, or is being waited for."""

    site: str
    status: Literal["done", "waiting", "refused", "failed"]
    attempt: int
    why: str = ""


@dataclass(frozen=True, slots=True)
class Tally:
    standings: tuple[Standing, ...]

    @property
    def done(self) -> tuple[Standing, ...]:
        return tuple(standing for standing in self.standings if standing.status == "done")

    @property
    def waiting(self) -> tuple[Standing, ...]:
        return tuple(standing for standing in self.standings if standing.status == "waiting")


def closing_reason(
    step: Step, tally: Tally, rounds: Rounds, now: datetime
) -> Literal["complete", "grace", "deadline"] | None:
    """Why the step closes now, or None while it stays open.

    With the quorum met it closes when everybody asked has answered, or the grace after the quorum is over, or the
    deadline has come. Without the quorum it never closes: see `missed`.
    """
    if len(tally.done) < step.quorum:
        return None
    if not tally.waiting:
        return "complete"
    if step.quorum_since is not None and now >= step.quorum_since + timedelta(seconds=rounds.grace):
        return "grace"
    if now >= step.since + timedelta(seconds=rounds.deadline):
        return "deadline"
    return None


def missed(step: Step, tally: Tally, rounds: Rounds, now: datetime) -> Literal["deadline", "out_of_reach"] | None:
    """Why the quorum was missed, or None while it can still be met.

    A step that only measures is not given up while a site may still answer: each figure is worth having.
    """
    measures = step.task in (Task.EVALUATE, Task.TEST, Task.CHECK)
    if len(tally.done) + len(tally.waiting) < step.quorum and not (measures and tally.waiting):
        return "out_of_reach"
    if len(tally.done) < step.quorum and now >= step.since + timedelta(seconds=rounds.deadline):
        return "deadline"
    return None


def why_not_done(tally: Tally) -> str:
    """The codes of those who failed or refused, with some of the sites for each; empty where nobody did."""
    sites: dict[str, list[str]] = {}
    for standing in tally.standings:
        if standing.status in ("failed", "refused"):
            sites.setdefault(standing.why or standing.status, []).append(standing.site)
    return "".join(f"; {why} at {some_of(names)}" for why, names in list(sites.items())[:REASONS_TOLD])


def some_of(sites: Sequence[str]) -> str:
    """The first three by name, and how many more."""
    return ", ".join(sites[:3]) + (f" and {len(sites) - 3} more" if len(sites) > 3 else "")


def tally(state: State, step: Step, answers: Answers) -> Tally:
    return Tally(tuple(standing(state, step, site, answers) for site in step.asked))


def standing(state: State, step: Step, site: str, answers: Answers) -> Standing:
    """Walk the site's attempts in order: done stays done, refused ends it, failed is asked again within the budget.

    An attempt that does not follow from the one before it was never asked for and is not looked at.
    """
    if site in step.withdrew:
        return Standing(site, "refused", next_attempt(step, site, answers), WITHDRAWN)
    budget_from = step.first_attempt.get(site, 1)
    failures, latest = 0, None
    for attempt in range(1, ATTEMPT_MAX + 1):
        stored = answers.get(AnswerKey(step.round, step.task, site, attempt))
        if stored is None:
            return latest or Standing(site, "waiting", attempt)
        outcome, why = judge(state, step, site, attempt, stored)
        if outcome == "done":
            latest = Standing(site, "done", attempt)
        elif latest is None and attempt >= budget_from:
            if outcome == "refused":
                return Standing(site, "refused", attempt, why)
            failures += outcome == "failed"
            if failures >= state.manifest.rounds.attempts:
                return Standing(site, "failed", attempt, why)
    return latest or Standing(site, "failed", ATTEMPT_MAX, "attempts_used_up")


def next_attempt(step: Step, site: str, answers: Answers) -> int:
    """The site's lowest attempt without an answer."""
    for attempt in range(1, ATTEMPT_MAX):
        if AnswerKey(step.round, step.task, site, attempt) not in answers:
            return attempt
    return ATTEMPT_MAX


def judge(
    state: State, step: Step, site: str, attempt: int, stored: StoredAnswer
) -> tuple[Literal["done", "refused", "failed", "cancelled_by_hub"], str]:
    """What an answer amounts to, and the code that says why it is not `done`."""
    answer = stored.answer
    if answer is None:
        return "failed", "answer_unreadable"
    if (site, attempt) in step.spoiled:
        return "failed", "left_out"
    why = answer.failure.code if answer.failure is not None else ""
    match answer.outcome:
        case "done":
            wrong = why_not_usable(state, step, answer)
            return ("failed", wrong) if wrong else ("done", "")
        case "cancelled" if answer.by_hub:
            return "cancelled_by_hub", why
        case "refused" | "cancelled":
            return "refused", why
        case "failed":
            return "failed", why


def why_not_usable(state: State, step: Step, answer: Answer) -> str:
    """The code of what disqualifies an answer that says `done`; empty when nothing does."""
    if answer.manifest_sha256 != state.manifest_sha256:
        return "wrong_manifest"
    if answer.built_on != (None if step.built_on is None else step.built_on.sha256):
        return "wrong_base"
    if step.task is Task.TRAIN and state.manifest.strategy.weight == "cases" and answer.cases is None:
        return "no_cases"
    return ""
