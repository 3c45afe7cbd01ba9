"""How a run went on in time: whether it ended, how late things were noticed, whether somebody held up the others."""

from collections.abc import Iterator

from wardround.coordinator.state import State
from wardround.simulation.faults.evidence import Evidence, Recorded
from wardround.simulation.faults.history import Written
from wardround.simulation.faults.plan import Schedule
from wardround_messages import journal as facts
from wardround_messages.names import AnswerKey

SLACK = 3.0  # seconds for the calls of one look
HEALS_IN = 130.0  # seconds: the longest pause between two tries, and two words of each site
FAILING_CALLS_PER_SECOND = 60
# The researcher's file says whether a missed quorum waits for a person or ends the experiment.
MISSED = frozenset(
    {
        "quorum_deadline",
        "quorum_out_of_reach",
        "enrolment_out_of_reach",
        "enrolment_timed_out",
        "nobody_initialised",
    }
)


def ended(evidence: Evidence) -> Iterator[str]:
    """Every experiment that was accepted ends once the faults are over, or stands where a person must decide."""
    state = evidence.state
    if state is None:
        yield "the experiment was never accepted, though it was asked for until the end"
        return
    if evidence.rotten("journal"):
        return  # it stops there, and says so: the last promise but one
    if state.phase == "failed":
        code = next((b.code for b in _bodies(evidence) if isinstance(b, facts.ExperimentFailed)), "")
        if evidence.outcome.plan.pauses or code not in MISSED:
            yield f"it failed ({code}), which its file did not ask for"
    elif state.phase != "finished" and (state.paused is None or not evidence.rotten("global")):
        yield f"it is {_standing(state)} at second {evidence.outcome.history.ended:.0f}, long after the last fault"
    if not evidence.rotten("global"):
        for one in evidence.recorded:
            body, over = one.entry.body, evidence.outcome.history.faults_over + HEALS_IN
            if isinstance(body, facts.ExperimentPaused) and one.written.at > over and body.code not in MISSED:
                yield f"it was paused ({body.code}: {body.reason}) at second {one.written.at:.0f} with nothing amiss"


def _standing(state: State) -> str:
    step = "" if state.step is None else f", {state.step.task} of round {state.step.round} open"
    return f"{state.phase}{'' if state.paused is None else f', paused ({state.paused})'}{step}"


def _bodies(evidence: Evidence) -> Iterator[facts.Fact]:
    return (one.entry.body for one in evidence.recorded)


# --- time --------------------------------------------------------------------------------------------------------


def noticed(evidence: Evidence) -> Iterator[str]:
    """An object that is waited for is read one interval after it was stored at the latest."""
    interval = evidence.outcome.plan.interval
    for key, written in _awaited(evidence):
        if _was_hub_sound(evidence, written.at):
            read = evidence.outcome.history.read_by_coordinators.get(key)
            if read is None or read - written.at > interval + SLACK:
                late = "never" if read is None else f"{read - written.at:.1f} s later"
                yield f"{key}, stored at second {written.at:.3f}, was noticed {late}"


def delays(evidence: Evidence) -> Iterator[float]:
    """By how many seconds each object that was waited for was noticed late."""
    for key, written in _awaited(evidence):
        read = evidence.outcome.history.read_by_coordinators.get(key)
        if read is not None:
            yield read - written.at


def _awaited(evidence: Evidence) -> Iterator[tuple[str, Written]]:
    """Consents and results that an entry names as its cause, answers that were counted."""
    for one in evidence.recorded:
        body = one.entry.body
        keys = [one.entry.cause] if isinstance(body, facts.SiteConsented | facts.ModelAdopted) else []
        if isinstance(body, facts.StepClosed):
            keys = [str(AnswerKey(body.round, body.task, each.site, each.attempt)) for each in body.members]
        for key in keys:
            if key in evidence.first:
                yield key, evidence.first[key]


def bounded(evidence: Evidence) -> Iterator[str]:
    """No step outlasts its deadline, whoever does not answer."""
    plan = evidence.outcome.plan
    for one in evidence.recorded:
        step = None if one.before is None else one.before.step
        if step is None or step.closing is not None or not _was_hub_sound(evidence, one.written.at - plan.deadline):
            continue
        if isinstance(one.entry.body, facts.StepClosed | facts.ExperimentPaused | facts.ExperimentFailed):
            took = (one.entry.at - step.since).total_seconds()
            if took > plan.deadline + SLACK:
                yield f"{step.task} of round {step.round} took {took:.1f} s, with a deadline of {plan.deadline} s"
            waited = 0.0 if step.quorum_since is None else (one.entry.at - step.quorum_since).total_seconds()
            if waited > plan.grace + SLACK:
                yield f"{step.task} of round {step.round} waited {waited:.1f} s after the quorum for {plan.grace} s"


def attended(evidence: Evidence) -> Iterator[str]:
    """Whoever was away is there again: who is asked after all faults were over is counted."""
    over = evidence.outcome.history.faults_over + HEALS_IN
    if evidence.rotten("global") or evidence.rotten("journal"):
        return
    for one in evidence.recorded:
        body, step = one.entry.body, None if one.before is None else one.before.step
        if not isinstance(body, facts.StepClosed) or step is None or _opened(evidence, one) < over:
            continue
        absent = set(step.asked) - {member.site for member in body.members}
        if absent and body.why != "grace":
            yield f"{sorted(absent)} did not take part in {body.task} of round {body.round}, with nothing amiss"


def _opened(evidence: Evidence, closing: Recorded) -> float:
    """When the step was opened, or opened again, that the entry closes."""
    opening = (facts.StepOpened, facts.StepReopened, facts.ExperimentResumed)
    before = evidence.recorded[: closing.entry.number]
    return max((one.written.at for one in before if isinstance(one.entry.body, opening)), default=0.0)


def _was_hub_sound(evidence: Evidence, at: float) -> bool:
    """Whether nothing was amiss with the hub's own services, the store and the broker from then on."""
    schedule: Schedule | None = evidence.outcome.schedule
    if schedule is None or not schedule.disturbs_hub:
        return True
    return at > evidence.outcome.history.faults_over + HEALS_IN and not is_hub_clock_off(schedule)


def is_hub_clock_off(schedule: Schedule) -> bool:
    """Whether a service of the hub is told a wrong time at some moment: the times that it writes say nothing then."""
    return any(incident.kind == "clock" and incident.target in schedule.plan.hub for incident in schedule.incidents)


def unmoved(evidence: Evidence) -> Iterator[str]:
    """Where nothing but clinics' clocks is amiss, whoever is quick enough is counted, and nothing is paused."""
    schedule: Schedule | None = evidence.outcome.schedule
    if schedule is None or not schedule.disturbs_site_clocks_alone:
        return
    for one in evidence.recorded:
        body, step = one.entry.body, None if one.before is None else one.before.step
        if isinstance(body, facts.ExperimentPaused | facts.StepReopened):
            yield f"entry {one.entry.number} is {body.kind}, with nothing amiss but clinics' clocks"
        if isinstance(body, facts.StepClosed) and step is not None:
            absent = set(step.asked) - {member.site for member in body.members}
            if absent and body.why != "grace":
                yield f"{sorted(absent)} did not take part in {body.task} of round {body.round}, for a clock alone"


def unhurried(evidence: Evidence) -> Iterator[str]:
    """Services wait, ever longer, for what is away."""
    for (who, second), calls in sorted(evidence.outcome.history.failed_calls.items()):
        if calls > FAILING_CALLS_PER_SECOND:
            yield f"{who} made {calls} calls in vain in second {second}"


def persistent(evidence: Evidence) -> Iterator[str]:
    """No service gives up."""
    for line in evidence.outcome.history.crashes:
        yield f"{line.who} ended by itself at second {line.at:.3f}: {line.about}"
