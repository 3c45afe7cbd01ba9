"""What the services do on the strength of the journal: commands that entries call for, trainings that commands do."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise

from wardround.simulation.faults.evidence import Evidence
from wardround.simulation.faults.history import Training
from wardround_messages.journal import StepOpened

RETRIES = 1  # what a clinic's settings say by default
STARTED_AGAIN_AFTER = frozenset({"crashed", "lost"})


def said_after_it_was_written(evidence: Evidence) -> Iterator[str]:
    """A coordinator that has fallen behind may say again what was; never what no entry says."""
    opened: dict[tuple[int, str], list[tuple[float, str | None]]] = defaultdict(list)
    for one in evidence.recorded:
        if isinstance(body := one.entry.body, StepOpened):
            base = None if body.built_on is None else body.built_on.sha256
            opened[body.round, str(body.task)].append((one.written.at, base))
    for said in evidence.outcome.history.commanded:
        command = json.loads(said.names)
        verb = said.id.partition(".")[0]
        if verb == "start":
            base = None if command["model"] is None else command["model"]["sha256"]
            entries = opened[command["round"], command["task"]]
            if not any(at <= said.at and of == base for at, of in entries):
                yield f"{said.by} said {said.id} at second {said.at:.3f}, and no entry had opened that step"
        elif verb == "aggregate":
            number = command["closing"]
            recorded = evidence.recorded[number] if number < len(evidence.recorded) else None
            if recorded is None or recorded.written.at > said.at or recorded.entry.sha256 != command["closing_sha256"]:
                yield f"{said.by} said {said.id} at second {said.at:.3f}, and no such entry was there"


def no_more_than_slots(evidence: Evidence) -> Iterator[str]:
    """Whatever it trains for: a clinic's slots are those of all its tasks."""
    return beyond(evidence.outcome.plan.slots, evidence.outcome.history.trainings)


def beyond(slots: int, trainings: Iterable[Training]) -> Iterator[str]:
    """Where a machine trained more at once than that. It begins what it is told to, so that it is its agent's doing."""
    at_work: dict[str, list[Training]] = defaultdict(list)
    for training in sorted(trainings, key=lambda one: one.began):
        going_on = [one for one in at_work[training.machine] if one.ended is None or one.ended > training.began]
        at_work[training.machine] = [*going_on, training]
        if len(going_on) >= slots:
            tasks = " and ".join(one.task for one in at_work[training.machine])
            yield f"{tasks} trained at once on {training.machine} at second {training.began:.3f}, with slots = {slots}"


def one_training_at_a_time(evidence: Evidence) -> Iterator[str]:
    """Of one machine: two agents of a site know nothing of each other."""
    by_task: dict[tuple[str, str], list[Training]] = defaultdict(list)
    by_step: dict[tuple[str, tuple[str, int, str, str]], list[Training]] = defaultdict(list)
    for training in evidence.outcome.history.trainings:
        by_task[training.machine, training.task].append(training)
        by_step[training.machine, training.step].append(training)
    for (_, step), trainings in by_step.items():
        for before, after in pairwise(trainings):
            if before.ended is None or before.ended > after.began:
                yield f"{before.task} and {after.task} trained at once ({step}), at second {after.began:.3f}"
    for (_, task), trainings in by_task.items():
        asked_for = [training for training in trainings if training.how != "lost"]
        if len(asked_for) > 1 + RETRIES:  # one that a machine took down with it is begun anew, and no retry
            yield f"{task} trained {len(asked_for)} times"
        for before, after in pairwise(trainings):
            if before.how not in STARTED_AGAIN_AFTER:
                yield f"{task} trained again at second {after.began:.3f}, though the training before was {before.how}"
