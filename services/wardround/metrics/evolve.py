"""The history is the fold of the journal: `evolve(history, entry) -> History`, pure, for every kind of entry."""

from dataclasses import replace

from wardround.metrics.history import Adopted, Closing, Entry, History, Phase, Round, Score, Standing, Step, describes
from wardround_messages import journal as facts
from wardround_messages.names import Task
from wardround_messages.parts import UNANSWERED

MISSES_TOLD = 3


class IllegalEntryError(Exception):
    """The entry cannot follow the ones before it."""


def evolve(history: History | None, entry: Entry) -> History:
    """The history after the entry.

    Raises:
        IllegalEntryError: the entry cannot follow.
    """
    if history is None:
        return _accepted(entry)
    if entry.number != history.next:
        raise IllegalEntryError(f"entry {history.next} is missing")
    return replace(_apply(history, entry), next=entry.number + 1, changed_at=entry.at)


def _accepted(entry: Entry) -> History:
    fact = entry.fact
    if not isinstance(fact, facts.ExperimentAccepted) or entry.number != 0:
        raise IllegalEntryError("the first entry is not ExperimentAccepted")
    return History(
        manifest=fact.manifest,
        requested_by=fact.requested_by,
        rounds_planned=fact.manifest.rounds.count,
        started_at=entry.at,
        waits_since=entry.at,
        changed_at=entry.at,
        sites={site: Standing() for site in sorted(fact.manifest.cohort.sites)},
    )


def _apply(history: History, entry: Entry) -> History:
    match entry.fact:
        case facts.SiteConsented() as fact:
            return _consented(history, fact)
        case facts.SiteWithdrew() as fact:
            return _withdrew(history, fact)
        case facts.EnrolmentClosed():
            return replace(history, phase="running")
        case facts.StepOpened() as fact:
            return _step_opened(history, fact, entry)
        case facts.QuorumReached() as fact:
            return _step(history, fact, quorum_at=entry.at, quorum_since=entry.at)
        case facts.StepClosed() as fact:
            return _step_closed(history, fact, entry)
        case facts.StepReopened() as fact:
            return _step_reopened(history, fact, entry)
        case facts.ModelAdopted() as fact:
            return _model_adopted(history, fact, entry)
        case facts.AnswersLate() as fact:
            return _answers_late(history, fact)
        case facts.ExperimentPaused() as fact:
            return replace(history, paused=fact.code, reason=fact.reason)
        case facts.ExperimentResumed() as fact:
            return _resumed(history, fact, entry)
        case facts.ExperimentExtended() as fact:
            return replace(history, rounds_planned=fact.rounds, phase=_extended(history.phase))
        case facts.ExperimentAborted() as fact:
            return replace(history, phase="aborted", paused=None, reason=fact.reason)
        case facts.ExperimentFinished():
            return replace(history, phase="finished", paused=None)
        case facts.ExperimentFailed() as fact:
            return replace(history, phase="failed", paused=None, reason=fact.reason or fact.code)
        case facts.SiteSetAside() as fact:
            return _site(history, fact.site, set_aside=fact.code, missed=_missed(history, fact.site))
        case facts.SiteReadmitted() as fact:
            return _site(history, fact.site, set_aside=None, missed=())
        case facts.Pruned():
            return history
    raise IllegalEntryError(f"{type(entry.fact).__name__} cannot come here")


# --- sites -------------------------------------------------------------------------------------------------------


def _site(history: History, name: str, **changes: object) -> History:
    if name not in history.sites:
        raise IllegalEntryError(f"'{name}' is not in the cohort")
    changed = replace(history.sites[name], **changes)  # type: ignore[arg-type]
    return replace(history, sites={**history.sites, name: changed})


def _missed(history: History, site: str) -> tuple[str, ...]:
    """Why the site did not count in the last steps that it was asked in, oldest first."""
    rounds = [history.rounds[number] for number in sorted(history.rounds)]
    whys = [_why_missed(round_, step, site) for round_ in rounds for step in round_.steps.values()]
    return tuple(why for why in whys if why)[-MISSES_TOLD:]


def _why_missed(round_: Round, step: Step, site: str) -> str:
    """The code of why a closed step did not count the site; empty where it did, or the step owed it an answer."""
    if step.closing is None:
        return ""
    fact, model = step.closing.fact, round_.model
    if any(member.site == site for member in fact.members):
        of_step = model is not None and model.fact.closing == step.closing.number
        left_out = model.fact.left_out if model is not None and of_step else ()
        return next((left.code for left in left_out if left.site == site), "")
    why = next((other.why for other in reversed(fact.others) if other.site == site), "")
    return "" if why == UNANSWERED and fact.why == "grace" else why


def _counted(history: History, task: Task, sites: list[str], by: int) -> History:
    """One training round more, or less, for each of the sites."""
    if task is not Task.TRAIN:
        return history
    if not history.sites.keys() >= set(sites):
        raise IllegalEntryError("a site is named that is not in the cohort")
    changed = {site: replace(history.sites[site], counted=history.sites[site].counted + by) for site in sites}
    return replace(history, sites={**history.sites, **changed})


def _consented(history: History, fact: facts.SiteConsented) -> History:
    if fact.site in history.sites and history.sites[fact.site].verdict == "granted" and fact.verdict != "granted":
        return history  # it said no to more rounds: what was granted stands
    return _site(history, fact.site, verdict=fact.verdict, reason=fact.reason or fact.code)


def _withdrew(history: History, fact: facts.SiteWithdrew) -> History:
    after = _site(history, fact.site, verdict="withdrawn", reason=fact.reason)
    step = after.step
    if step is None or step.closing is not None or fact.site not in step.asked:
        return after
    return _with_step(after, replace(step, withdrew=step.withdrew | {fact.site}))


# --- steps -------------------------------------------------------------------------------------------------------


def _with_step(history: History, step: Step) -> History:
    round_ = history.rounds.get(step.round, Round(step.round))
    changed = replace(round_, steps={**round_.steps, step.task: step})
    return replace(history, rounds={**history.rounds, step.round: changed})


def _named(history: History, round_: int, task: Task) -> Step:
    step = history.rounds.get(round_, Round(round_)).steps.get(task)
    if step is None:
        raise IllegalEntryError(f"{task} of round {round_} was never opened")
    return step


def _step(history: History, fact: facts.QuorumReached, **changes: object) -> History:
    return _with_step(history, replace(_named(history, fact.round, fact.task), **changes))  # type: ignore[arg-type]


def _step_opened(history: History, fact: facts.StepOpened, entry: Entry) -> History:
    for_all = fact.task in (Task.TRAIN, Task.EVALUATE, Task.CHECK)
    before = history.rounds.get(fact.round, Round(fact.round)).steps.get(fact.task)
    step = Step(
        round=fact.round,
        task=fact.task,
        asked=fact.asked,
        quorum=fact.quorum,
        built_on=fact.built_on,
        opened_at=entry.at if before is None else before.opened_at,
        since=entry.at,
        absent={site: known.absence for site, known in history.sites.items() if for_all and site not in fact.asked},
        passed=fact.passed,
    )
    return replace(_with_step(history, step), current=step.name)


def _step_closed(history: History, fact: facts.StepClosed, entry: Entry) -> History:
    step = _named(history, fact.round, fact.task)
    after = _with_step(history, replace(step, closing=Closing(entry.number, entry.at, fact)))
    after = _counted(after, fact.task, [member.site for member in fact.members], 1)
    best = history.manifest.model.best
    value = None if best is None or fact.task is Task.TEST else fact.received.get(best.metric)
    if value is None:
        return after
    # A model is worth what was measured of it first: after an extension it is measured once more.
    return replace(after, scores={describes(step.name): Score(value, step.name), **after.scores})


def _step_reopened(history: History, fact: facts.StepReopened, entry: Entry) -> History:
    step = _named(history, fact.round, fact.task)
    if step.closing is None or step.closing.number != fact.closing:
        raise IllegalEntryError(f"entry {fact.closing} did not close {fact.task} of round {fact.round}")
    reopened = replace(
        step,
        closing=None,
        since=entry.at,
        quorum_at=None,
        quorum_since=None,
        left_out=fact.left_out,
        reopened=step.reopened + 1,
    )
    scores = {model: score for model, score in history.scores.items() if score.by != step.name}
    members = [member.site for member in step.closing.fact.members]
    return _with_step(_counted(replace(history, scores=scores), fact.task, members, -1), reopened)


def _model_adopted(history: History, fact: facts.ModelAdopted, entry: Entry) -> History:
    task = Task.TRAIN if fact.round > 0 else Task.INITIALISE
    history = _counted(history, task, [left.site for left in fact.left_out], -1)
    round_ = replace(history.rounds.get(fact.round, Round(fact.round)), model=Adopted(entry.at, fact))
    return replace(history, rounds={**history.rounds, fact.round: round_}, latest_model=fact.round)


def _answers_late(history: History, fact: facts.AnswersLate) -> History:
    for late in fact.answers:
        step = history.rounds.get(late.round, Round(late.round)).steps.get(late.task)
        if step is not None:  # nobody needs to have asked for it
            history = _with_step(history, replace(step, late=(*step.late, late)))
    return history


# --- the whole ---------------------------------------------------------------------------------------------------


def _resumed(history: History, fact: facts.ExperimentResumed, entry: Entry) -> History:
    """The time of whatever is open starts anew, and so does who was not done."""
    after = replace(history, paused=None, reason="", waits_since=entry.at)
    step = after.step
    if step is None or step.closing is not None:
        return after
    quorum_since = None if step.quorum_since is None else entry.at
    still = frozenset(site for site in step.withdrew if after.sites[site].verdict == "withdrawn")
    attempts = {**step.attempts, **{each.site: each.attempt for each in fact.attempts}}
    return _with_step(
        after, replace(step, since=entry.at, quorum_since=quorum_since, withdrew=still, attempts=attempts)
    )


def _extended(phase: Phase) -> Phase:
    return "running" if phase == "finished" else phase
