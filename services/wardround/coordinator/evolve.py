"""An experiment's state is the fold of its journal: `evolve(state, entry) -> state`, pure, for every kind of entry."""

from collections.abc import Iterable
from dataclasses import replace

from wardround.coordinator.state import (
    AnswerName,
    Closing,
    Measurement,
    Phase,
    Revoked,
    Site,
    State,
    Step,
    StepName,
)
from wardround_messages import journal as facts
from wardround_messages.journal import JournalEntry
from wardround_messages.names import Task
from wardround_messages.parts import UNANSWERED, NotCounted


class IllegalTransitionError(Exception):
    """The entry cannot follow the ones before it."""


def evolve(state: State | None, entry: JournalEntry) -> State:
    """The state after the entry.

    Raises:
        IllegalTransitionError: the entry cannot follow.
    """
    body = entry.body
    if state is None:
        if not isinstance(body, facts.ExperimentAccepted) or entry.number != 0:
            raise IllegalTransitionError("the first entry is not ExperimentAccepted")
        return _accepted(body, entry)
    if entry.number != state.entries:
        raise IllegalTransitionError(f"entry {state.entries} is missing")
    after = _apply(state, body, entry)
    return replace(after, entries=entry.number + 1, commands_done=after.commands_done | _commanded(body, entry))


def _accepted(body: facts.ExperimentAccepted, entry: JournalEntry) -> State:
    _require(body.manifest.sha256 == body.manifest_sha256, "the manifest is not the one its digest names")
    return State(
        manifest=body.manifest,
        manifest_sha256=body.manifest_sha256,
        requested_by=body.requested_by,
        initial=body.initial,
        rounds=body.manifest.rounds.count,
        offered_at=entry.at,
        sites={site: Site() for site in sorted(body.manifest.cohort.sites)},
        commands_done=frozenset({entry.cause}),
    )


_COMMANDED = (
    facts.ExperimentPaused,
    facts.ExperimentResumed,
    facts.ExperimentAborted,
    facts.ExperimentExtended,
    facts.SiteReadmitted,
)


def _commanded(body: facts.Fact, entry: JournalEntry) -> frozenset[str]:
    return frozenset({entry.cause}) if isinstance(body, _COMMANDED) and entry.cause else frozenset()


def _apply(state: State, body: facts.Fact, entry: JournalEntry) -> State:
    match body:
        case facts.AnswersLate():
            return _answers_late(state, body)
        case facts.ExperimentExtended():
            return _extended(state, body, entry)
    _require(not state.ended, f"the experiment has {state.phase}")
    match body:
        case facts.SiteConsented():
            return _consented(state, body)
        case facts.SiteWithdrew():
            return _withdrew(state, body)
        case facts.ModelAdopted():
            return _model_adopted(state, body)
        case facts.ExperimentPaused():
            return replace(state, paused=body.code)
        case facts.ExperimentResumed():
            return _resumed(state, body, entry)
        case facts.ExperimentAborted():
            return _ended(state, "aborted")
        case facts.ExperimentFailed():
            return _ended(state, "failed")
        case facts.SiteSetAside():
            return _site(state, body.site, set_aside=True)
        case facts.SiteReadmitted():
            return _site(state, body.site, set_aside=False, misses=0)
        case facts.Pruned():
            return _pruned(state, body)
    _require(state.paused is None, f"the experiment is paused ({state.paused})")
    match body:
        case facts.EnrolmentClosed():
            _require(state.phase == "enrolling", "enrolment is over")
            return replace(state, phase="running")
        case facts.StepOpened():
            return _step_opened(state, body, entry)
        case facts.QuorumReached():
            step = _open_step(state, body.round, body.task)
            return replace(state, step=replace(step, quorum_since=entry.at))
        case facts.StepClosed():
            return _step_closed(state, body, entry)
        case facts.StepReopened():
            return _step_reopened(state, body, entry)
        case facts.ExperimentFinished():
            _require(state.phase == "running" and state.step is None, "a step is open")
            return replace(_ended(state, "finished"), revoked=state.revoked)
    raise IllegalTransitionError(f"{type(body).__name__} is not known here")


# --- sites -------------------------------------------------------------------------------------------------------


def _site(state: State, name: str, **changes: object) -> State:
    _require(name in state.sites, f"'{name}' is not in the cohort")
    changed = replace(state.sites[name], **changes)  # type: ignore[arg-type]
    return replace(state, sites={**state.sites, name: changed})


def _consented(state: State, body: facts.SiteConsented) -> State:
    _require(body.site in state.sites, f"'{body.site}' is not in the cohort")
    site = state.sites[body.site]
    _require(body.consent > site.consent, "a later consent is recorded already")
    if site.granted and body.verdict != "granted":  # about more rounds: what was granted stands
        considered = site.offer if body.verdict == "pending" else body.offer
        return _site(state, body.site, consent=body.consent, offer=considered)
    return _site(state, body.site, verdict=body.verdict, rounds=body.rounds, consent=body.consent, offer=body.offer)


def _withdrew(state: State, body: facts.SiteWithdrew) -> State:
    after = _site(state, body.site, verdict="withdrawn", rounds=0, consent=body.consent)
    step = after.step
    if step is None or step.closing is not None or body.site not in step.asked:
        return after
    return replace(after, step=replace(step, withdrew=step.withdrew | {body.site}))


# --- steps -------------------------------------------------------------------------------------------------------


def _open_step(state: State, round_: int, task: Task) -> Step:
    step = state.step
    _require(step is not None and step.name == (round_, task), f"{task} of round {round_} is not open")
    assert step is not None  # noqa: S101 - for the type checker
    _require(step.closing is None, f"{task} of round {round_} has closed")
    return step


def _step_opened(state: State, body: facts.StepOpened, entry: JournalEntry) -> State:
    _require(state.phase == "running", "enrolment is still open")
    again = state.step is not None and state.step.name == (0, Task.INITIALISE) == (body.round, body.task)
    _require(state.step is None or (again and state.step.closing is None), "another step is open")
    _require(set(body.asked) <= set(state.sites), "it asks a site outside the cohort")
    _require(_is_next(state, body), f"{body.task} of round {body.round} is not the step that follows")
    step = Step(
        round=body.round,
        task=body.task,
        asked=body.asked,
        quorum=body.quorum,
        built_on=body.built_on,
        since=entry.at,
        first_attempt=_attempts_used(state, body),
    )
    passed = frozenset((answer.site, answer.attempt) for answer in body.passed if answer.why != UNANSWERED)
    tried = (*state.tried, *body.asked) if body.task is Task.INITIALISE else ()
    revoked = (*state.revoked, *_stragglers(step, body.passed))
    return _account(replace(state, step=step, tried=tried, revoked=revoked), step.name, passed)


def _is_next(state: State, body: facts.StepOpened) -> bool:
    match body.task:
        case Task.INITIALISE:
            return body.round == 0 and not state.models and body.built_on is None
        case Task.CHECK:
            return body.round == 0 and body.built_on is None
        case Task.TRAIN:
            return body.round == len(state.models) and body.built_on == state.models[-1]
        case Task.EVALUATE | Task.TEST:
            return body.round == state.latest and body.built_on == state.models[-1]


def _attempts_used(state: State, body: facts.StepOpened) -> dict[str, int]:
    """A site that answered this step before, too late or while it was asked earlier, goes on with its next attempt."""
    used = state.accounted.get((body.round, body.task), frozenset())
    return {site: attempt + 1 for site, attempt in sorted(used) if site in body.asked}


def _stragglers(step: Step, others: tuple[NotCounted, ...]) -> tuple[Revoked, ...]:
    return tuple(
        Revoked(step.round, step.task, answer.site, answer.attempt, "step_closed")
        for answer in others
        if answer.why == UNANSWERED
    )


def _step_closed(state: State, body: facts.StepClosed, entry: JournalEntry) -> State:
    step = _open_step(state, body.round, body.task)
    members = {member.site for member in body.members}
    _require(len(members) == len(body.members), "a site is counted twice")
    _require(members <= set(step.asked), "a site is counted that was not asked")
    _require(body.quorum_met == (len(members) >= step.quorum), "the quorum is not what the members make")
    aggregated = body.task in (Task.INITIALISE, Task.TRAIN)
    _require(body.quorum_met or not aggregated, "the quorum was missed")
    named = frozenset((member.site, member.attempt) for member in body.members) | frozenset(
        (answer.site, answer.attempt) for answer in body.others if answer.why != UNANSWERED
    )
    revoked = _stragglers(step, body.others)
    after = _measured(_account(state, step.name, named), step, body)
    missed = _missed(step, body, members)
    if aggregated:
        closing = Closing(entry.number, entry.sha256, entry.at, body.members, missed)
        return replace(after, step=replace(step, closing=closing), revoked=revoked)
    after = _count_misses(after, done=members, missed=missed)
    return replace(after, step=None, done_steps=after.done_steps | {step.name}, revoked=revoked)


def _measured(state: State, step: Step, body: facts.StepClosed) -> State:
    """Keep what was measured of a model on the sites' own cases, the first time that it was."""
    if not body.received or body.task not in (Task.TRAIN, Task.EVALUATE):
        return state
    describes = body.round - 1 if body.task is Task.TRAIN else body.round
    first = state.received.get(describes)
    if first is not None and first.step != step.name:  # a step that was reopened measures anew
        return state
    return replace(state, received={**state.received, describes: Measurement(step.name, dict(body.received))})


def _missed(step: Step, body: facts.StepClosed, members: set[str]) -> frozenset[str]:
    """Who failed, refused, or was unanswered at the deadline; being unanswered when the grace ended is excused."""
    excused = {answer.site for answer in body.others if answer.why == UNANSWERED and body.why == "grace"}
    return frozenset(site for site in step.asked if site not in members and site not in excused)


def _count_misses(state: State, *, done: Iterable[str], missed: Iterable[str]) -> State:
    """Whoever is done starts from none again; a miss is one more."""
    changed = {name: replace(state.sites[name], misses=0) for name in done}
    changed |= {name: replace(state.sites[name], misses=state.sites[name].misses + 1) for name in missed}
    return replace(state, sites={**state.sites, **changed})


def _step_reopened(state: State, body: facts.StepReopened, entry: JournalEntry) -> State:
    step = state.step
    if step is None or step.closing is None or step.closing.number != body.closing:
        raise IllegalTransitionError(f"entry {body.closing} does not wait for its aggregation")
    attempts = {member.site: member.attempt for member in step.closing.members}
    _require({left.site for left in body.left_out} <= set(attempts), "a site is left out that was not a member")
    spoiled = step.spoiled | {(left.site, attempts[left.site]) for left in body.left_out}
    reopened = replace(step, closing=None, since=entry.at, quorum_since=None, spoiled=spoiled)
    return replace(state, step=reopened, revoked=())


def _model_adopted(state: State, body: facts.ModelAdopted) -> State:
    _require(body.round == state.latest + 1, f"model {state.latest + 1} is missing")
    if body.closing is None:
        _require(body.round == 0 and state.step is None and state.initial == body.model, "it was not brought")
        return replace(state, models=(body.model,))
    step = state.step
    if step is None or step.closing is None or step.closing.number != body.closing or step.round != body.round:
        raise IllegalTransitionError(f"entry {body.closing} does not wait for its aggregation")
    left_out = {left.site for left in body.left_out} & {member.site for member in step.closing.members}
    counted = _count_misses(state, done=body.used, missed=step.closing.missed | left_out)
    return replace(counted, models=(*state.models, body.model), step=None, tried=())


def _account(state: State, name: StepName, named: frozenset[AnswerName]) -> State:
    before = state.accounted.get(name, frozenset())
    return replace(state, accounted={**state.accounted, name: before | named})


def _answers_late(state: State, body: facts.AnswersLate) -> State:
    for late in body.answers:
        state = _account(state, (late.round, late.task), frozenset({(late.site, late.attempt)}))
    revoked = tuple(Revoked(late.round, late.task, late.site, late.attempt, "stale_round") for late in body.answers)
    return replace(state, revoked=(*(old for old in state.revoked if old.reason != "stale_round"), *revoked))


# --- the whole ---------------------------------------------------------------------------------------------------


def _resumed(state: State, body: facts.ExperimentResumed, entry: JournalEntry) -> State:
    _require(state.paused is not None, "it is not paused")
    state = replace(state, paused=None)
    step = state.step
    if step is None:
        return replace(state, tried=(), offered_at=entry.at, offered=entry.number)
    if step.closing is not None:
        return replace(state, step=replace(step, closing=replace(step.closing, since=entry.at)))
    first = {**step.first_attempt, **{known.site: known.attempt for known in body.attempts}}
    quorum_since = None if step.quorum_since is None else entry.at
    withdrew = frozenset(site for site in step.withdrew if not state.sites[site].granted)
    resumed = replace(step, since=entry.at, quorum_since=quorum_since, first_attempt=first, withdrew=withdrew)
    return replace(state, step=resumed, tried=step.asked if step.task is Task.INITIALISE else ())


def _extended(state: State, body: facts.ExperimentExtended, entry: JournalEntry) -> State:
    _require(state.phase not in ("failed", "aborted"), f"the experiment has {state.phase}")
    _require(body.rounds > state.rounds, f"it has {state.rounds} rounds already")
    phase: Phase = "running" if state.phase == "finished" else state.phase
    return replace(state, rounds=body.rounds, phase=phase, offered=entry.number, offered_at=entry.at)


def _ended(state: State, phase: Phase) -> State:
    """The open step is over: whoever was asked may stop."""
    step = state.step
    revoked: tuple[Revoked, ...] = ()
    if step is not None:
        revoked = tuple(
            Revoked(step.round, step.task, site, step.first_attempt.get(site, 1), "experiment_ended")
            for site in step.asked
        )
    return replace(state, phase=phase, paused=None, step=None, revoked=revoked)


def _pruned(state: State, body: facts.Pruned) -> State:
    models = tuple(None if round_ in body.models else model for round_, model in enumerate(state.models))
    return replace(state, updates_pruned_to=body.updates_to, models=models)


def _require(condition: bool, why: str) -> None:
    if not condition:
        raise IllegalTransitionError(why)
