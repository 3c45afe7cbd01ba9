"""What a researcher's command leads to: entries, nothing new, or a refusal that changes no state. Pure."""

from dataclasses import dataclass

from wardround.coordinator.proposed import Proposed
from wardround.coordinator.state import State
from wardround.coordinator.steps import Answers, next_attempt, tally
from wardround_messages import journal as facts
from wardround_messages.commands import (
    AbortExperiment,
    ExtendExperiment,
    PauseExperiment,
    ReadmitSite,
    ResumeExperiment,
)

ExperimentCommand = PauseExperiment | ResumeExperiment | AbortExperiment | ExtendExperiment | ReadmitSite


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a command is not carried out; `reason` tells a person what is the case."""

    code: str
    reason: str


def carry_out(state: State, command: ExperimentCommand, command_id: str, answers: Answers) -> list[Proposed] | Refusal:
    """The entries a command leads to; none where it was carried out before or changes nothing.

    `answers` are those of the open step.
    """
    if command_id in state.commands_done:
        return []
    match command:
        case ExtendExperiment():
            return _extend(state, command, command_id)
        case AbortExperiment() if state.phase == "aborted":
            return []
    if state.ended:
        return Refusal("ended", f"the experiment has {state.phase}")
    match command:
        case PauseExperiment():
            if state.paused is not None:
                return []
            return [Proposed(facts.ExperimentPaused(code="by_command", reason=command.reason), command_id)]
        case ResumeExperiment():
            if state.paused is None:
                return Refusal("not_paused", "the experiment is not paused")
            return _resume(state, command_id, answers)
        case AbortExperiment():
            return [Proposed(facts.ExperimentAborted(reason=command.reason), command_id)]
        case ReadmitSite():
            return _readmit(state, command, command_id)


def _resume(state: State, command_id: str, answers: Answers) -> list[Proposed]:
    """Go on; an aggregation that gave no usable result is asked for anew under another closing entry."""
    resumed = Proposed(facts.ExperimentResumed(attempts=_next_attempts(state, answers)), command_id)
    step = state.step
    if state.paused != "aggregation" or step is None or step.closing is None:
        return [resumed]
    reopened = facts.StepReopened(round=step.round, task=step.task, closing=step.closing.number, left_out=())
    return [resumed, Proposed(reopened, command_id)]


def _extend(state: State, command: ExtendExperiment, command_id: str) -> list[Proposed] | Refusal:
    if state.phase in ("failed", "aborted"):
        return Refusal("ended", f"the experiment has {state.phase}; fork one of its models instead")
    if state.manifest.mode == "check":
        return Refusal("is_a_check", "a check has no rounds")
    if command.rounds < state.rounds:
        return Refusal("not_more", f"the experiment has {state.rounds} rounds already")
    if command.rounds == state.rounds:
        return []
    return [Proposed(facts.ExperimentExtended(rounds=command.rounds), command_id)]


def _readmit(state: State, command: ReadmitSite, command_id: str) -> list[Proposed] | Refusal:
    site = state.sites.get(command.site)
    if site is None:
        return Refusal("unknown_site", f"'{command.site}' is not in the cohort: {', '.join(state.sites)}")
    return [Proposed(facts.SiteReadmitted(site=command.site), command_id)] if site.set_aside else []


def _next_attempts(state: State, answers: Answers) -> tuple[facts.NextAttempt, ...]:
    """Each site of the open step that is not done goes on with its lowest attempt without an answer."""
    step = state.step
    if step is None or step.closing is not None:
        return ()
    return tuple(
        facts.NextAttempt(site=standing.site, attempt=next_attempt(step, standing.site, answers))
        for standing in tally(state, step, answers).standings
        if standing.status != "done"
    )
