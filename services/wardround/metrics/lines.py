"""The log of an experiment, one line for each thing that happened."""

from dataclasses import dataclass
from datetime import datetime

from wardround.metrics.history import Entry, History, StepName
from wardround.metrics.wording import clinics_text, duration_text, short, size_text
from wardround_messages import journal as facts
from wardround_messages.events import Refused, TaskAnswered
from wardround_messages.manifest import Brought, Forked, FromTrainer
from wardround_messages.names import Task
from wardround_messages.objects import Answer
from wardround_messages.parts import LateAnswer, LeftOut


@dataclass(frozen=True, slots=True)
class Line:
    at: datetime
    text: str


def step_text(step: StepName) -> str:
    round_, task = step
    match task:
        case Task.TRAIN:
            return f"round {round_}"
        case Task.INITIALISE:
            return "first model"
        case Task.EVALUATE:
            return f"evaluation of model {round_}"
        case Task.TEST:
            return f"common test of model {round_}"
        case Task.CHECK:
            return "check"


def origin_text(initial: FromTrainer | Brought | Forked) -> str:
    """Where the first model comes from; empty where a clinic makes it."""
    match initial:
        case Forked():
            return f"model {initial.round} of {initial.experiment} · {short(initial.sha256)}"
        case Brought():
            return f"a model that was brought · {short(initial.sha256)}"
        case FromTrainer():
            return ""


def readmission(experiment: str, site: str) -> str:
    """The command that has a site asked again."""
    return f"wardround readmit {experiment} {site}"


def entry_line(history: History, entry: Entry) -> Line | None:
    """What a journal entry says, given the history that ends with it; None for what nobody needs to read."""
    text = _text(history, entry)
    return None if text is None else Line(entry.at, text)


def answered_line(message: TaskAnswered, answer: Answer | None, at: datetime) -> Line:
    """What a site's answer says; the object itself, where it could be read, names the update."""
    if message.outcome != "done":
        return Line(at, f"{message.site} {message.outcome}: {message.code or 'no reason given'}")
    if answer is not None and answer.update is not None:
        return Line(
            at, f"{message.site} answered: update {short(answer.update.sha256)}, {size_text(answer.update.size)}"
        )
    size = "" if message.update_size is None else f": update of {size_text(message.update_size)}"
    return Line(at, f"{message.site} answered{size}")


def refused_line(message: Refused, at: datetime) -> Line:
    return Line(at, f"command refused ({message.code}): {message.reason}")


def _text(history: History, entry: Entry) -> str | None:
    match entry.fact:
        case facts.ExperimentAccepted() as fact:
            begins = f"; it begins with {text}" if (text := origin_text(fact.manifest.model.initial)) else ""
            return f"accepted: {clinics_text(len(fact.manifest.cohort.sites))} asked for consent{begins}"
        case facts.SiteConsented() as fact:
            return _consent_text(fact)
        case facts.SiteWithdrew() as fact:
            return f"{fact.site} withdrew its consent{_because(fact.reason)}"
        case facts.EnrolmentClosed() as fact:
            return f"enrolment closed: {len(fact.granted)} of {len(fact.granted) + len(fact.others)} granted"
        case facts.StepOpened() as fact:
            return f"{step_text((fact.round, fact.task))} opened: {_asked(fact)}"
        case facts.QuorumReached() as fact:
            return f"{step_text((fact.round, fact.task))}: quorum reached"
        case facts.StepClosed() as fact:
            return _closed_text(history, fact)
        case facts.StepReopened() as fact:
            return f"{step_text((fact.round, fact.task))} reopened, left out: {_left_out(fact.left_out)}"
        case facts.ModelAdopted() as fact:
            return _adopted_text(history, fact, entry.at)
        case facts.ExperimentPaused() as fact:
            return f"paused ({fact.code}){_because(fact.reason)}"
        case facts.ExperimentResumed():
            return "resumed"
        case facts.ExperimentExtended() as fact:
            return f"extended to {fact.rounds} rounds"
        case facts.ExperimentAborted() as fact:
            return f"aborted{_because(fact.reason)}"
        case facts.ExperimentFinished() as fact:
            return (
                "finished" if fact.model is None else f"finished with model {fact.round} · {short(fact.model.sha256)}"
            )
        case facts.ExperimentFailed() as fact:
            return f"failed ({fact.code}){_because(fact.reason)}"
        case facts.AnswersLate() as fact:
            return f"not used: {_some([_late_text(late) for late in fact.answers])}"
        case facts.SiteSetAside() as fact:
            why, again = fact.code.replace("_", " "), readmission(history.manifest.id, fact.site)
            return f"{fact.site} set aside: {why}. To ask it again: {again}"
        case facts.SiteReadmitted() as fact:
            return f"{fact.site} readmitted"
    return None


def _consent_text(fact: facts.SiteConsented) -> str:
    if fact.verdict == "granted":
        return f"{fact.site} granted {fact.rounds} rounds"
    if fact.verdict == "declined":
        return f"{fact.site} declined{_because(fact.reason or fact.code)}"
    return f"{fact.site}: a person must decide{_because(fact.reason)}"


def _asked(fact: facts.StepOpened) -> str:
    if len(fact.asked) == 1:
        return f"{fact.asked[0]} asked"
    return f"{clinics_text(len(fact.asked))} asked, quorum {fact.quorum}"


def _closed_text(history: History, fact: facts.StepClosed) -> str:
    why = {
        "complete": "",
        "grace": " after the grace",
        "deadline": " at the deadline",
        "out_of_reach": ", quorum out of reach",
    }[fact.why]
    missed = "" if fact.quorum_met or fact.why == "out_of_reach" else ", quorum missed"
    asked = len(history.rounds[fact.round].steps[fact.task].asked)
    return f"{step_text((fact.round, fact.task))} closed{why}{missed}: {len(fact.members)} of {asked} counted"


def _adopted_text(history: History, fact: facts.ModelAdopted, at: datetime) -> str:
    made = f"model {fact.round} · {short(fact.model.sha256)}"
    for step in history.rounds[fact.round].steps.values():
        closing = step.closing
        if closing is not None and closing.number == fact.closing and step.task is Task.TRAIN:
            size = sum(
                member.update.size for member in closing.fact.members if member.update and member.site in fact.used
            )
            made += f" · merged {size_text(size)} in {duration_text((at - closing.at).total_seconds())}"
    return made + (f" · left out: {_left_out(fact.left_out)}" if fact.left_out else "")


def _left_out(left_out: tuple[LeftOut, ...]) -> str:
    return _some([f"{left.site} ({left.code})" for left in left_out])


def _late_text(late: LateAnswer) -> str:
    return f"{late.site}'s answer to {step_text((late.round, late.task))} ({late.why})"


def _some(texts: list[str]) -> str:
    return ", ".join(texts[:3]) + (f" and {len(texts) - 3} more" if len(texts) > 3 else "")


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""
