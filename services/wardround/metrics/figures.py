"""A round's figures out of its history and of the objects that the history names. Pure: the same bytes every time."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from wardround.metrics.history import Closing, History, Round, Step
from wardround_messages.figures import BestModel, Figures, ModelFigures, SiteFigures, SiteOutcome, StepFigures
from wardround_messages.names import AnswerKey, ResultKey
from wardround_messages.objects import Answer, Result
from wardround_messages.parts import UNANSWERED, WITHDRAWN, Member, NotCounted


@dataclass(frozen=True, slots=True)
class Objects:
    """What could be read of the objects that a round's history names."""

    answers: Mapping[AnswerKey, Answer] = field(default_factory=dict)
    result: Result | None = None


def answers_named(round_: Round) -> dict[AnswerKey, str | None]:
    """The answers that the round's figures are made of, with the digest where the journal pins it."""
    named: dict[AnswerKey, str | None] = {}
    for step in round_.steps.values():
        for note in (*step.passed, *_others(step.closing)):
            if note.why not in (UNANSWERED, WITHDRAWN):
                named[AnswerKey(step.round, step.task, note.site, note.attempt)] = None
        for member in _members(step.closing):
            named[AnswerKey(step.round, step.task, member.site, member.attempt)] = member.answer_sha256
    return named


def result_named(round_: Round) -> ResultKey | None:
    """The aggregator's result that the round's model came with; None for a model that was brought."""
    closing = None if round_.model is None else round_.model.fact.closing
    return None if closing is None else ResultKey(closing)


def worth_keeping(round_: Round) -> bool:
    """Something of it is settled: a step has closed, or its model exists."""
    return round_.model is not None or any(step.closing is not None for step in round_.steps.values())


def figures_of(history: History, number: int, objects: Objects) -> Figures:
    """The figures of round `number`, which the history must hold."""
    round_ = history.rounds[number]
    return Figures(
        experiment=history.manifest.id,
        round=number,
        steps=tuple(_step(round_, step, objects) for step in round_.steps.values()),
        model=_model(round_, objects.result),
        best=best_model(history, up_to=number),
    )


def best_model(history: History, *, up_to: int) -> BestModel | None:
    """The best of the models measured in rounds up to `up_to`; of equals the later."""
    wish = history.manifest.model.best
    scores = {model: score.value for model, score in history.scores.items() if score.by[0] <= up_to}
    if wish is None or not scores:
        return None
    sign = 1 if wish.goal == "max" else -1
    best = max(scores, key=lambda model: (sign * scores[model], model))
    return BestModel(round=best, metric=wish.metric, value=scores[best])


def _step(round_: Round, step: Step, objects: Objects) -> StepFigures:
    closing = step.closing
    sites = {*step.asked, *step.absent, *(note.site for note in step.passed)}
    return StepFigures(
        task=step.task,
        built_on=None if step.built_on is None else step.built_on.sha256,
        quorum=step.quorum,
        opened_at=step.opened_at,
        quorum_at=step.quorum_at,
        closed_at=None if closing is None else closing.at,
        closed_by=None if closing is None else closing.fact.why,
        quorum_met=closing is not None and closing.fact.quorum_met,
        reopened=step.reopened,
        received={} if closing is None else closing.fact.received,
        sites=tuple(_site(round_, step, site, objects) for site in sorted(sites)),
    )


def _site(round_: Round, step: Step, site: str, objects: Objects) -> SiteFigures:
    if site in step.absent:
        return SiteFigures(site=site, outcome=step.absent[site])
    notes = [note for note in (*step.passed, *_others(step.closing)) if note.site == site]
    late = [answer for answer in step.late if answer.site == site]
    member = next((member for member in _members(step.closing) if member.site == site), None)
    attempts = max((found.attempt for found in (*notes, *late, *((member,) if member else ()))), default=0)
    if member is not None:
        return _member(round_, step, member, attempts, objects)
    if site in step.withdrew:
        return SiteFigures(site=site, outcome="withdrawn", attempts=attempts)
    if not notes:
        return SiteFigures(site=site, outcome="late" if step.closing else "open", attempts=attempts)
    last = max(notes, key=lambda note: note.attempt)
    answer = objects.answers.get(AnswerKey(step.round, step.task, site, last.attempt))
    return _with_answer(
        SiteFigures(
            site=site,
            outcome=_outcome(last, answer),
            why=late[-1].why if late else last.why,
            attempts=attempts,
        ),
        answer,
    )


def _member(round_: Round, step: Step, member: Member, attempts: int, objects: Objects) -> SiteFigures:
    adopted = (
        round_.model if step.closing and round_.model and round_.model.fact.closing == step.closing.number else None
    )
    left_out = {left.site: left.code for left in adopted.fact.left_out} if adopted else {}
    row = SiteFigures(
        site=member.site,
        outcome="answered",
        counted=member.site not in left_out,
        why=left_out.get(member.site),
        attempts=attempts,
        cases=member.cases,
        update=member.update,
        norm=objects.result.norms.get(member.site) if adopted and objects.result else None,
    )
    return _with_answer(row, objects.answers.get(AnswerKey(step.round, step.task, member.site, member.attempt)))


def _outcome(note: NotCounted, answer: Answer | None) -> SiteOutcome:
    if note.why == UNANSWERED:
        return "late"
    if note.why == WITHDRAWN:
        return "withdrawn"
    if answer is None:
        return "failed"
    return "answered" if answer.outcome == "done" else answer.outcome


def _with_answer(row: SiteFigures, answer: Answer | None) -> SiteFigures:
    if answer is None:
        return row
    return row.model_copy(
        update={
            "cases": answer.cases,
            "received": answer.received,
            "trained": answer.trained,
            "metrics_kept_back": answer.metrics_kept_back,
            "seconds": answer.seconds,
            "steps": answer.steps,
            "update": answer.update,
        }
    )


def _model(round_: Round, result: Result | None) -> ModelFigures | None:
    if round_.model is None:
        return None
    fact = round_.model.fact
    return ModelFigures(
        size=fact.model.size,
        sha256=fact.model.sha256,
        adopted_at=round_.model.at,
        used=fact.used,
        left_out=fact.left_out,
        warnings=() if result is None else result.warnings,
        drift=None if result is None else result.drift,
    )


def _members(closing: Closing | None) -> tuple[Member, ...]:
    return () if closing is None else closing.fact.members


def _others(closing: Closing | None) -> tuple[NotCounted, ...]:
    return () if closing is None else closing.fact.others
