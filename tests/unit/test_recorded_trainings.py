"""How the trainings of real clinics ended, as far as their folders and answers tell."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from servers.trainings import Seen, Trainings, how_it_ended
from wardround_messages.task_folder import LOCK, STOPPED

BEGAN = datetime(2026, 3, 1, tzinfo=UTC)
TASK = "sim.r000001.train.clinic-1.a1"


def seen(**told: bool) -> Seen:
    return Seen("clinic-1", TASK, BEGAN, None, last=BEGAN, **told)


@pytest.mark.parametrize(
    ("one", "answered", "with_its_agent", "how"),
    [
        (seen(result=True), None, False, "done"),
        (seen(), "done", False, "done"),  # its folder was cleared before anybody looked
        (seen(stopped=True), None, False, "stopped"),
        (seen(stopped=True), None, True, "stopped"),
        (seen(), "cancelled", False, "stopped"),
        (seen(), "refused", False, "stopped"),
        (seen(), "failed", False, "crashed"),
        (seen(), None, True, "lost"),
        (seen(), None, False, "crashed"),
    ],
)
def test_a_training_ended_as_its_folder_and_the_clinics_answer_tell(
    one: Seen, answered: str | None, with_its_agent: bool, how: str
) -> None:
    assert how_it_ended(one, answered, with_its_agent=with_its_agent) == how


@asynccontextmanager
async def a_training_at_work(spool: Path) -> AsyncIterator[Path]:
    """Its folder; the process behind it is ended at the end."""
    folder = spool / TASK
    folder.mkdir()
    process = await asyncio.create_subprocess_exec("sleep", "600")
    try:
        (folder / LOCK).write_text(f"{datetime.now(UTC).isoformat()} {os.uname().nodename} {process.pid}\n")
        yield folder
    finally:
        process.kill()
        await process.wait()


@asynccontextmanager
async def watched(spool: Path) -> AsyncIterator[Trainings]:
    trainings = Trainings({"clinic-1": spool}, "sim")
    watching = asyncio.create_task(trainings.watch())
    try:
        yield trainings
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


async def until_over(trainings: Trainings) -> Seen:
    async with asyncio.timeout(10):
        while trainings.at_work or not trainings.seen:  # noqa: ASYNC110 - processes raise no event
            await asyncio.sleep(0.01)
    (one,) = trainings.seen
    return one


@pytest.mark.parametrize("stopped", [True, False])
async def test_a_training_that_is_ended_with_a_sign_in_its_folder_was_stopped(tmp_path: Path, stopped: bool) -> None:
    async with watched(tmp_path) as trainings:
        async with a_training_at_work(tmp_path) as folder:
            async with asyncio.timeout(10):
                while not trainings.at_work:  # noqa: ASYNC110 - processes raise no event
                    await asyncio.sleep(0.01)
            if stopped:
                (folder / STOPPED).touch()
        assert (await until_over(trainings)).stopped is stopped
