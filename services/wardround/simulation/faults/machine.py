"""A clinic's scheduler: trainings that take virtual time, outlive the agent, and are lost with their machine."""

import asyncio
from contextlib import nullcontext
from pathlib import Path
from threading import Event

from wardround.simulation.faults.fates import Fates
from wardround.simulation.faults.history import History, Training
from wardround.site_agent.scheduler.inline import InlineScheduler
from wardround.training.runner import run_folder
from wardround_messages.base import canonical_json
from wardround_messages.codec import parse
from wardround_messages.task_folder import FOLDER_AT_MOST, METRICS, RESULT, MetricLine, TaskResult

LOOKS_EVERY = 1.0  # seconds: how soon a training notices that it was cancelled


class Machine(InlineScheduler):
    """Runs the real task in its folder, at the end of the time that the training takes.

    It begins whatever it is told to, at once, as an Airflow with room for many does: the slots are the agent's to keep.
    """

    def __init__(self, site: str, name: str, spool: Path, fates: Fates, history: History) -> None:
        super().__init__(spool, self._train, threads=False, turn=nullcontext())
        self._site = site
        self._name = name
        self._fates = fates
        self._history = history

    async def go_down(self) -> None:
        """Whatever runs is lost: neither a result nor a trace of the run is left."""
        for training in self._history.trainings:
            if training.machine == self._name and training.ended is None:
                training.ended, training.how = self._history.clock(), "lost"
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks))

    async def _in_its_place(self, folder: Path, cancelled: Event) -> int:
        course = self._fates.training(folder.name)
        training = Training(self._site, self._name, folder.name, self._history.clock())
        self._history.trainings.append(training)
        self._history.note(self._name, "training began", folder.name)
        left = course.seconds
        while left > 0 and not cancelled.is_set():
            await asyncio.sleep(min(left, LOOKS_EVERY))
            left -= LOOKS_EVERY
        if cancelled.is_set():
            status, how = 1, "stopped"
        elif course.crashes:
            self._history.inject("training crashed", self._name, about=folder.name)
            status, how = 1, "crashed"
        else:
            status = await super()._in_its_place(folder, cancelled)
            how = "done" if status == 0 else "crashed"
        training.ended, training.how = self._history.clock(), how
        self._history.note(self._name, f"training {how}", folder.name)
        return status

    def _train(self, folder: Path, *, cancelled: Event) -> None:
        run_folder(folder, cancelled=cancelled)
        without_real_time(folder)


def without_real_time(folder: Path) -> None:
    """Take out of a result what tells how long it really took: two runs of one seed end with the same bytes."""
    file = folder / RESULT
    result = parse(TaskResult, file.read_bytes(), at_most=FOLDER_AT_MOST)
    file.write_bytes(canonical_json(result.model_copy(update={"seconds": {}})))
    metrics = folder / METRICS
    lines = [line for line in metrics.read_bytes().splitlines() if b'"kind":"metric"' in line]
    kept = (MetricLine.model_validate_json(line).model_copy(update={"t": 0.0}) for line in lines)
    metrics.write_bytes(b"".join(canonical_json(line) + b"\n" for line in kept))
