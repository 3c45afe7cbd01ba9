"""What is to be said to whom: every command that is outstanding in a state, pure.

A command is outstanding until the store shows that it was carried out. Saying one twice is harmless: its id follows
from its content.
"""

import hashlib
from collections.abc import Iterable, Iterator

from wardround.coordinator.state import State
from wardround.coordinator.steps import Answers, tally
from wardround_messages.commands import AggregateStep, CancelTask, OfferExperiment, StartTask
from wardround_messages.events import TaskInHand
from wardround_messages.names import AnswerKey, Task

Due = OfferExperiment | StartTask | CancelTask | AggregateStep


def due(state: State, answers: Answers) -> list[Due]:
    """All outstanding commands; `answers` are those of the open step."""
    return [*_cancels(state, answers), *_tasks(state, answers), *_offers(state), *_aggregation(state)]


def _offers(state: State) -> Iterator[OfferExperiment]:
    """To sites that have not answered the latest offer that concerns them."""
    if state.ended:
        return
    for name, site in state.sites.items():
        concerned = site.rounds < state.rounds if site.granted else state.phase == "enrolling" or site.verdict is None
        if concerned and site.offer < state.offered:
            yield OfferExperiment(
                experiment=state.manifest.id,
                site=name,
                requested_by=state.requested_by,
                manifest=state.manifest,
                manifest_sha256=state.manifest_sha256,
                rounds=state.rounds,
                offer=state.offered,
            )


def _tasks(state: State, answers: Answers) -> Iterator[StartTask]:
    step = state.step
    if step is None or step.closing is not None or state.paused is not None:
        return
    for standing in tally(state, step, answers).waiting:
        yield StartTask(
            experiment=state.manifest.id,
            site=standing.site,
            round=step.round,
            task=step.task,
            attempt=standing.attempt,
            requested_by=state.requested_by,
            manifest_sha256=state.manifest_sha256,
            model=step.built_on,
            seed=seed_of(state.manifest.seed, step.round, step.task, standing.site),
        )


def seed_of(seed: int, round_: int, task: Task, site: str) -> int:
    """The seed of a task, the same for every attempt; whoever initialises makes the same first model."""
    who = "any" if task is Task.INITIALISE else site
    return int.from_bytes(hashlib.sha256(f"{seed}.{round_}.{task}.{who}".encode()).digest()[:8], "big") >> 1


def _aggregation(state: State) -> Iterator[AggregateStep]:
    step = state.step
    if step is not None and step.closing is not None and not state.ended:
        yield AggregateStep(
            experiment=state.manifest.id,
            round=step.round,
            task=step.task,
            closing=step.closing.number,
            closing_sha256=step.closing.sha256,
        )


def _cancels(state: State, answers: Answers) -> Iterator[CancelTask]:
    step = state.step if state.step is not None and state.step.closing is None else None
    for revoked in state.revoked:
        if step is not None and (revoked.round, revoked.task) == step.name and revoked.site in step.asked:
            continue  # asked again since
        if revoked.site not in state.sites:
            continue  # nobody to tell
        attempt = revoked.attempt
        if revoked.reason == "experiment_ended":
            while AnswerKey(revoked.round, revoked.task, revoked.site, attempt) in answers:
                attempt += 1
        yield CancelTask(
            experiment=state.manifest.id,
            site=revoked.site,
            round=revoked.round,
            task=revoked.task,
            attempt=attempt,
            reason=revoked.reason,
        )


def stale_tasks(state: State, site: str, in_hand: Iterable[TaskInHand]) -> list[CancelTask]:
    """Cancels for what a site works on though its step has closed or the experiment has ended."""
    step = state.step
    return [
        CancelTask(
            experiment=state.manifest.id,
            site=site,
            round=task.round,
            task=task.task,
            attempt=task.attempt,
            reason="experiment_ended" if state.ended else "step_closed",
        )
        for task in in_hand
        if task.phase != "answered"
        and (state.ended or step is None or (task.round, task.task) != step.name or step.closing is not None)
    ]
