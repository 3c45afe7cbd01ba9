"""The part of `evolve` that concerns steps: opened, closed, reopened, their models adopted, answers late. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from wardround.coordinator.state import AnswerName, Closing, Measurement, Revoked, Site, State, Step, StepName
from wardround_messages import journal as facts
from wardround_messages.journal import JournalEntry
from wardround_messages.names import Task
from wardround_messages.parts import UNANSWERED, NotCounted


class IllegalTransitionError(Exception):
    """The entry cannot follow the ones before it."""


def require(condition: bool, why: str) -> None:
    if not condition:
        raise IllegalTransitionError(why)


def open_step(state: State, round_: int, task: Task) -> Step:
    step = state.step
    require(step is not None and step.name == (round_, task), f"{task} of round {round_} is not open")
    assert step is not None  # noqa: S101 - for the type checker
    require(step.closing is None, f"{task} of round {round_} has closed")
    return step


def step_opened(state: State, body: facts.StepOpened, entry: JournalEntry) -> State:
    require(state.phase == "running", "enrolment is still open")
    again = state.step is not None and state.step.name == (0, Task.INITIALISE) == (body.round, body.task)
    require(state.step is None or (again and state.step.closing is None), "another step is open")
    require(set(body.asked) <= set(state.sites), "it asks a site outside the cohort")
    require(_is_next(state, body), f"{body.task} of round {body.round} is not the step that follows")
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
    sites = _with_turns(state, body) if body.task is Task.TRAIN else state.sites
    return _account(replace(state, step=step, sites=sites, tried=tried, revoked=revoked), step.name, passed)


def _with_turns(state: State, body: facts.StepOpened) -> Mapping[str, Site]:
    """Whoever is asked has a turn more; who cannot be asked keeps up with the one of the others that has fewest."""
    turns = {name: site.turns + (name in body.asked) for name, site in state.sites.items()}
    can = {name for name, site in state.sites.items() if site.may_be_asked(body.round)}
    fewest = min((turns[name] for name in can), default=0)
    return {
        name: replace(site, turns=turns[name] if name in can else max(turns[name], fewest))
        for name, site in state.sites.items()
    }


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


def step_closed(state: State, body: facts.StepClosed, entry: JournalEntry) -> State:
    step = open_step(state, body.round, body.task)
    members = {member.site for member in body.members}
    require(len(members) == len(body.members), "a site is counted twice")
    require(members <= set(step.asked), "a site is counted that was not asked")
    require(body.quorum_met == (len(members) >= step.quorum), "the quorum is not what the members make")
    aggregated = body.task in (Task.INITIALISE, Task.TRAIN)
    require(body.quorum_met or not aggregated, "the quorum was missed")
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


def step_reopened(state: State, body: facts.StepReopened, entry: JournalEntry) -> State:
    step = state.step
    if step is None or step.closing is None or step.closing.number != body.closing:
        raise IllegalTransitionError(f"entry {body.closing} does not wait for its aggregation")
    attempts = {member.site: member.attempt for member in step.closing.members}
    require({left.site for left in body.left_out} <= set(attempts), "a site is left out that was not a member")
    spoiled = step.spoiled | {(left.site, attempts[left.site]) for left in body.left_out}
    reopened = replace(step, closing=None, since=entry.at, quorum_since=None, spoiled=spoiled)
    return replace(state, step=reopened, revoked=())


def model_adopted(state: State, body: facts.ModelAdopted) -> State:
    require(body.round == state.latest + 1, f"model {state.latest + 1} is missing")
    if body.closing is None:
        require(body.round == 0 and state.step is None and state.initial == body.model, "it was not brought")
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


def answers_late(state: State, body: facts.AnswersLate) -> State:
    for late in body.answers:
        state = _account(state, (late.round, late.task), frozenset({(late.site, late.attempt)}))
    revoked = tuple(Revoked(late.round, late.task, late.site, late.attempt, "stale_round") for late in body.answers)
    return replace(state, revoked=(*(old for old in state.revoked if old.reason != "stale_round"), *revoked))
