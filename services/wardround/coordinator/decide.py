"""What is to be written into the journal next: `decide(state, observed, now)`, pure.

It returns the entries that follow at once, in order; the caller appends them, folds them in, and asks again until
there are none.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from wardround.coordinator.plan import consent_closes, eligible, next_step
from wardround.coordinator.proposed import Proposed, on_missed
from wardround.coordinator.state import MISSES_UNTIL_SET_ASIDE, Closing, State, Step
from wardround.coordinator.steps import Answers, Tally, closing_reason, judge, missed, tally, why_not_done
from wardround_messages import journal as facts
from wardround_messages.base import MetricValues
from wardround_messages.journal import Fact
from wardround_messages.manifest import share_of
from wardround_messages.names import AnswerKey, ResultKey, Task
from wardround_messages.objects import Consent, Result
from wardround_messages.parts import UNANSWERED, WITHDRAWN, LateAnswer, Member, NotCounted, mean_of

LATE_AT_ONCE = 1000
KEPT_ROUNDS = 2
REASON_AT_MOST = 400  # characters of a text in an entry


@dataclass(frozen=True, slots=True)
class Observed:
    """What the store holds: consents not yet recorded, answers of the open step and any others, its result."""

    consents: tuple[tuple[str, Consent], ...] = ()
    answers: Answers = field(default_factory=dict)
    result: Result | None = None


def decide(state: State, observed: Observed, now: datetime) -> list[Proposed]:
    """The next entries; none when there is nothing to decide."""
    late = _late_answers(state, observed.answers)
    if state.ended:
        return late
    return (
        _consents(state, observed)
        or late
        or _adoption(state, observed)
        or ([] if state.paused is not None else _progress(state, observed, now))
    )


def _progress(state: State, observed: Observed, now: datetime) -> list[Proposed]:
    if state.phase == "enrolling":
        return _enrolment(state, now)
    step = state.step
    if step is None:
        return _set_aside(state) or _prune(state) or next_step(state, now)
    if step.closing is not None:
        return _aggregation(state, step, observed, now)
    return _open_step(state, step, observed, now)


# --- at any time -------------------------------------------------------------------------------------------------


def _consents(state: State, observed: Observed) -> list[Proposed]:
    return [
        Proposed(_consent(consent), key)
        for key, consent in observed.consents
        if consent.number > state.sites[consent.site].consent
    ]


def _consent(consent: Consent) -> Fact:
    if consent.verdict == "withdrawn":
        return facts.SiteWithdrew(site=consent.site, consent=consent.number, reason=consent.reason)
    return facts.SiteConsented(
        site=consent.site,
        consent=consent.number,
        verdict=consent.verdict,
        rounds=consent.rounds,
        offer=consent.offer,
        code=consent.code,
        reason=consent.reason,
    )


def _late_answers(state: State, answers: Answers) -> list[Proposed]:
    """Every answer that no entry names and that the open step does not wait for."""
    late = tuple(
        LateAnswer(round=key.round, task=key.task, site=key.site, attempt=key.attempt, why=why)
        for key in sorted(answers)
        if (why := _why_late(state, key)) is not None
    )
    batches = (late[start : start + LATE_AT_ONCE] for start in range(0, len(late), LATE_AT_ONCE))
    return [Proposed(facts.AnswersLate(answers=batch)) for batch in batches]


def _why_late(state: State, key: AnswerKey) -> str | None:
    step_name = (key.round, key.task)
    if (key.site, key.attempt) in state.accounted.get(step_name, frozenset()):
        return None
    if key.site not in state.sites:
        return "not_in_cohort"
    step = state.step
    if step is not None and step.name == step_name:
        return None if key.site in step.asked else "not_asked"
    return "stale_round"


def _adoption(state: State, observed: Observed) -> list[Proposed]:
    """A model that the aggregator made is adopted, also while paused."""
    step, result = state.step, observed.result
    if step is None or step.closing is None or result is None or not _answers_the_closing(step.closing, result):
        return []
    if result.model is None or len(result.used) < step.quorum:
        return []
    adopted = facts.ModelAdopted(
        round=step.round,
        model=result.model,
        closing=step.closing.number,
        used=result.used,
        left_out=result.left_out,
    )
    return [Proposed(adopted, str(ResultKey(step.closing.number)))]


# --- enrolment ---------------------------------------------------------------------------------------------------


def _enrolment(state: State, now: datetime) -> list[Proposed]:
    cohort = state.manifest.cohort
    granted = tuple(name for name, site in state.sites.items() if site.granted)
    # Nobody is waited for who would have to decide on a check: that a person must is the site's answer to it.
    open_verdicts = (None,) if state.manifest.mode == "check" else (None, "pending")
    undecided = [
        name
        for name, site in state.sites.items()
        if not site.granted and (site.verdict in open_verdicts or site.offer < state.offered)
    ]
    quorum = share_of(cohort.quorum, len(cohort.sites))
    time_over = now >= consent_closes(state)
    if len(granted) >= quorum and (not undecided or time_over):
        others = tuple(name for name in state.sites if name not in granted)
        return [Proposed(facts.EnrolmentClosed(granted=granted, others=others))]
    if len(granted) + len(undecided) < quorum:
        return on_missed(state, "enrolment_out_of_reach", f"{len(granted)} of {quorum} sites granted, others declined")
    if time_over:
        return on_missed(state, "enrolment_timed_out", f"{len(granted)} of {quorum} sites granted in time")
    return []


# --- the open step -----------------------------------------------------------------------------------------------


def _open_step(state: State, step: Step, observed: Observed, now: datetime) -> list[Proposed]:
    rounds = state.manifest.rounds
    count = tally(state, step, observed.answers)
    why = closing_reason(step, count, rounds, now)
    if why is not None:
        return [Proposed(_closed(state, step, count, observed.answers, why, quorum_met=True))]
    missed_why = missed(step, count, rounds, now)
    if missed_why is not None:
        if step.task in (Task.EVALUATE, Task.TEST, Task.CHECK):
            return [Proposed(_closed(state, step, count, observed.answers, missed_why, quorum_met=False))]
        if step.task is Task.INITIALISE:
            return _ask_another(state, step, count, observed.answers)
        reason = f"{len(count.done)} of {step.quorum} sites done in round {step.round}{why_not_done(count)}"
        return on_missed(state, f"quorum_{missed_why}", reason[:REASON_AT_MOST])
    if step.quorum_since is None and len(count.done) >= step.quorum:
        done = tuple(standing.site for standing in count.done)
        return [Proposed(facts.QuorumReached(round=step.round, task=step.task, done=done))]
    return []


def _ask_another(state: State, step: Step, count: Tally, answers: Answers) -> list[Proposed]:
    """The next site in sorted order makes the first model."""
    site = next((site for site in eligible(state, 0) if site not in state.tried), None)
    if site is None:
        return on_missed(state, "nobody_initialised", "no site could make the first model")
    passed = tuple(_not_counted(state, step, count, answers))
    opened = facts.StepOpened(round=0, task=Task.INITIALISE, asked=(site,), quorum=1, built_on=None, passed=passed)
    return [Proposed(opened)]


def _closed(state: State, step: Step, count: Tally, answers: Answers, why: str, *, quorum_met: bool) -> Fact:
    members = tuple(_member(step, standing.site, standing.attempt, answers) for standing in count.done)
    return facts.StepClosed.model_validate(
        {
            "round": step.round,
            "task": step.task,
            "why": why,
            "quorum_met": quorum_met,
            "members": members,
            "others": tuple(_not_counted(state, step, count, answers)),
            "received": _mean_received(members, step, answers),
        }
    )


def _member(step: Step, site: str, attempt: int, answers: Answers) -> Member:
    stored = answers[AnswerKey(step.round, step.task, site, attempt)]
    answer = stored.answer
    assert answer is not None  # noqa: S101 - it was judged to be done
    return Member(site=site, attempt=attempt, answer_sha256=stored.sha256, cases=answer.cases, update=answer.update)


def _not_counted(state: State, step: Step, count: Tally, answers: Answers) -> Iterator[NotCounted]:
    """All other answers to this step with the reason why each is not counted, then who is still waited for."""
    counted = {(standing.site, standing.attempt) for standing in count.done}
    asked = {standing.site: standing for standing in count.standings}
    for key in sorted(answers):
        if (key.round, key.task) != step.name or key.site not in asked or (key.site, key.attempt) in counted:
            continue
        verdict, why = judge(state, step, key.site, key.attempt, answers[key])
        if asked[key.site].why == WITHDRAWN:
            why = WITHDRAWN
        elif verdict == "done":
            why = "not_asked" if key.attempt > asked[key.site].attempt else "superseded"
        yield NotCounted(site=key.site, attempt=key.attempt, why=why or verdict)
    for standing in count.waiting:
        yield NotCounted(site=standing.site, attempt=standing.attempt, why=UNANSWERED)


def _mean_received(members: tuple[Member, ...], step: Step, answers: Answers) -> MetricValues:
    """The mean over the members of each metric of the received model, weighted by validation cases where all
    members give them; a site without a finite value for a metric does not take part in its mean."""
    measured = []
    for member in members:
        answer = answers[AnswerKey(step.round, step.task, member.site, member.attempt)].answer
        if answer is not None and answer.received is not None:
            measured.append(answer.received)
    names = sorted({name for one in measured for name in one.values})[:64]
    return {name: mean_of(name, measured) for name in names}


# --- after the step ----------------------------------------------------------------------------------------------


def _aggregation(state: State, step: Step, observed: Observed, now: datetime) -> list[Proposed]:
    """The closing entry waits for its result: too few used reopens the step, none in time pauses."""
    closing, result = step.closing, observed.result
    assert closing is not None  # noqa: S101 - asked for such a step alone
    if result is not None and _answers_the_closing(closing, result):
        reopened = facts.StepReopened(
            round=step.round, task=step.task, closing=closing.number, left_out=result.left_out
        )
        return [Proposed(reopened, str(ResultKey(closing.number)))]
    if now >= closing.since + timedelta(seconds=state.manifest.rounds.deadline):
        reason = f"no result for entry {closing.number} within the round's deadline"
        return [Proposed(facts.ExperimentPaused(code="aggregation", reason=reason))]
    return []


def _answers_the_closing(closing: Closing, result: Result) -> bool:
    """Whether the result is one of this closing entry and speaks of its members alone, each of them once."""
    members = {member.site for member in closing.members}
    used, left_out = set(result.used), {left.site for left in result.left_out}
    return result.closing_sha256 == closing.sha256 and used | left_out <= members and not used & left_out


def _set_aside(state: State) -> list[Proposed]:
    return [
        Proposed(facts.SiteSetAside(site=name, code="missed_three_steps"))
        for name, site in state.sites.items()
        if site.misses >= MISSES_UNTIL_SET_ASIDE and not site.set_aside
    ]


def _prune(state: State) -> list[Proposed]:
    """Updates of the last two rounds stay, and the global models that the manifest says."""
    if state.latest < KEPT_ROUNDS:
        return []
    updates_to = state.latest - KEPT_ROUNDS
    keep = state.manifest.model.keep
    models: tuple[int, ...] = ()
    if keep != "all":
        models = tuple(
            round_
            for round_, model in enumerate(state.models[: max(len(state.models) - keep, 0)])
            if model is not None and round_ != state.best
        )
    if updates_to <= state.updates_pruned_to and not models:
        return []
    return [Proposed(facts.Pruned(updates_to=updates_to, models=models))]


def next_moment(state: State, now: datetime) -> datetime | None:
    """When time alone may next change what is decided: the nearest end of an enrolment, a deadline or a grace."""
    return min((moment for moment in _moments(state) if moment > now), default=None)


def _moments(state: State) -> Iterator[datetime]:
    if state.ended or state.paused is not None:
        return
    step, rounds = state.step, state.manifest.rounds
    if step is None:
        yield consent_closes(state)
        return
    deadline = timedelta(seconds=rounds.deadline)
    if step.closing is not None:
        yield step.closing.since + deadline
        return
    yield step.since + deadline
    if step.quorum_since is not None:
        yield step.quorum_since + timedelta(seconds=rounds.grace)
