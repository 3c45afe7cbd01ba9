"""A scheduler that is reached by a bad line: what it did is not done twice because nobody heard of it."""

from typing import Any, cast

import pytest

from wardround.simulation.faults.fates import UNDISTURBED, Calm, Fate, Port
from wardround.simulation.faults.history import History
from wardround.simulation.faults.ports import FaultyScheduler
from wardround.simulation.faults.process import Process
from wardround.simulation.faults.virtual_time import run_virtually
from wardround.site_agent.scheduler.port import Scheduler, SchedulerUnavailableError


class LosesTheFirstReply(Calm):
    def __init__(self) -> None:
        self._calls = 0

    def call(self, service: str, port: Port, method: str) -> Fate:
        self._calls += 1
        return Fate(failed="after") if self._calls == 1 else UNDISTURBED


class Counting:
    def __init__(self) -> None:
        self.triggered = 0

    async def trigger(self, task: str, **options: Any) -> None:
        self.triggered += 1


def test_a_retry_whose_reply_is_lost_begins_no_second_training() -> None:
    clinic = Counting()

    async def main() -> list[int]:
        process = Process("clinic-1", LosesTheFirstReply(), History(lambda: 0.0), on_kill=lambda _: None)
        scheduler = FaultyScheduler(cast("Scheduler", clinic), process)
        with pytest.raises(SchedulerUnavailableError):
            await scheduler.trigger("a task", again=True)
        began = []
        for _ in range(2):  # the call made again, and a retry that is asked for later
            await scheduler.trigger("a task", again=True)
            began.append(clinic.triggered)
        return began

    assert run_virtually(main()) == [1, 2]
