"""An experiment's state is the fold of its journal: `evolve(state, entry) -> state`, pure, for every kind of entry."""

from dataclasses import replace

from wardround.coordinator.evolve_steps import (
    IllegalTransitionError,
    answers_late,
    model_adopted,
    open_step,
    require,
    step_closed,
    step_opened,
    step_reopened,
)
from wardround.coordinator.state import Phase, Revoked, Site, State
from wardround_messages import journal as facts
from wardround_messages.journal import JournalEntry
from wardround_messages.names import Task

__all__ = ["IllegalTransitionError", "evolve"]


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
    require(body.manifest.sha256 == body.manifest_sha256, "the manifest is not the one its digest names")
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
            return answers_late(state, body)
        case facts.ExperimentExtended():
            return _extended(state, body, entry)
    require(not state.ended, f"the experiment has {state.phase}")
    match body:
        case facts.SiteConsented():
            return _consented(state, body)
        case facts.SiteWithdrew():
            return _withdrew(state, body)
        case facts.ModelAdopted():
            return model_adopted(state, body)
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
    require(state.paused is None, f"the experiment is paused ({state.paused})")
    match body:
        case facts.EnrolmentClosed():
            require(state.phase == "enrolling", "enrolment is over")
            return replace(state, phase="running")
        case facts.StepOpened():
            return step_opened(state, body, entry)
        case facts.QuorumReached():
            step = open_step(state, body.round, body.task)
            return replace(state, step=replace(step, quorum_since=entry.at))
        case facts.StepClosed():
            return step_closed(state, body, entry)
        case facts.StepReopened():
            return step_reopened(state, body, entry)
        case facts.ExperimentFinished():
            require(state.phase == "running" and state.step is None, "a step is open")
            return replace(_ended(state, "finished"), revoked=state.revoked)
    raise IllegalTransitionError(f"{type(body).__name__} is not known here")


# --- sites -------------------------------------------------------------------------------------------------------


def _site(state: State, name: str, **changes: object) -> State:
    require(name in state.sites, f"'{name}' is not in the cohort")
    changed = replace(state.sites[name], **changes)  # type: ignore[arg-type]
    return replace(state, sites={**state.sites, name: changed})


def _consented(state: State, body: facts.SiteConsented) -> State:
    require(body.site in state.sites, f"'{body.site}' is not in the cohort")
    site = state.sites[body.site]
    require(body.consent > site.consent, "a later consent is recorded already")
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


# --- the whole ---------------------------------------------------------------------------------------------------


def _resumed(state: State, body: facts.ExperimentResumed, entry: JournalEntry) -> State:
    require(state.paused is not None, "it is not paused")
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
    require(state.phase not in ("failed", "aborted"), f"the experiment has {state.phase}")
    require(body.rounds > state.rounds, f"it has {state.rounds} rounds already")
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
