"""A task of the doctor's own through the clinic's real scheduler: from a folder in the spool to a result in it.

It is a check of the trainer `adding`, which comes with Wardround: it leaves codes, no update and no carry. Its folder
is removed again; what a doctor that was killed left, the next one removes.
"""

import asyncio
import os
import re
import shutil
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from wardround.client.doctor.findings import Verdict, in_thread, ok, skipped, warning, worst_of, wrong
from wardround.client.doctor.trainers import TRAINER_OF_PROBE
from wardround.runtime.ids import fresh_id
from wardround.runtime.store.memory import MemoryStore
from wardround.site_agent.folder import fill, read_result
from wardround.site_agent.hand import TaskEndsError
from wardround.site_agent.scheduler.port import (
    RunEnd,
    Scheduler,
    SchedulerError,
    SchedulerUnavailableError,
    UnknownRunError,
)
from wardround.site_agent.settings import Dataset
from wardround_messages.names import Task, TaskId, parse_task_id
from wardround_messages.task_folder import Job, JobData, TaskResult

BEGINS_WITHIN = 60.0  # seconds in the scheduler's queue
ENDS_WITHIN = 60.0
CANCELS_WITHIN = 10.0
WITHIN = BEGINS_WITHIN + ENDS_WITHIN + 2 * CANCELS_WITHIN

LEFT_AFTER = 3600.0  # seconds: no probe takes that long
EXPERIMENT = re.compile("doctor-[0-9a-f]{8}")
DATA = "doctor-data"  # in the task's folder
AMOUNT = "amount.txt"  # what the trainer reads besides its cases; an agent is installed without trainers
DATA_MISSING = "data_missing"
# By a trainer that looks for other files.
SEEN_ALL_THE_SAME = frozenset({"data_empty", "too_few_cases", "case_unreadable"})
FOLDERS_AT_MOST = 100
SHARE = "have worker and agent share a group, and the spool belong to it: chgrp GROUP SPOOL; chmod g+rws SPOOL"
ENVIRONMENT = "install wardround[training] in the environment that trains"
# What a run ends with where something about the worker is amiss, and what to do.
ENDS: Mapping[str, tuple[str, str]] = {
    "no_folder": (
        "the worker does not see the folder that the agent made in the spool",
        "mount the spool at the worker, and set WARDROUND_SPOOL there to where it is",
    ),
    "not_configured": (
        "the worker's environment is not set up",
        "set WARDROUND_PYTHON and WARDROUND_SPOOL at the worker",
    ),
    "crashed": ("the training crashed before it left a result", ENVIRONMENT),
    "killed": ("the training was killed", "look whether the worker has enough memory"),
    "scheduler_lost": ("the scheduler lost the training's process", "try again; look into the scheduler's log"),
    "cancelled": ("somebody stopped the run", "try again"),
}

Busy = Callable[[], Awaitable[bool]]


async def never_busy() -> bool:
    """Of a scheduler that does not say how busy it is."""
    return False


class Stopped(Exception):  # noqa: N818 - it carries a verdict, which need not be an error
    """A step failed; the verdict says which."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.what)
        self.verdict = verdict


@dataclass(frozen=True, slots=True)
class Probe:
    """Runs probes at one scheduler. `busy` tells whether a run has to wait for its turn."""

    scheduler: Scheduler
    spool: Path
    site: str
    busy: Busy = never_busy

    async def look_at_spool(self, *, code: str | None) -> Verdict:
        """Whether a task comes back with its result.

        Args:
            code: the digest of the trainer as it is installed beside the agent, None where it is not known.
        """
        begun = time.monotonic()
        try:
            result = await self._result(None)
        except Stopped as stopped:
            return stopped.verdict
        return judge_result(result, code, took=time.monotonic() - begun)

    async def look_at_data(self, datasets: Mapping[str, Dataset]) -> Verdict:
        """Whether who trains sees the folders of each data set where the agent says that they are."""
        if not datasets:
            return skipped("site.toml has no data set")
        verdicts = []
        for name, dataset in datasets.items():
            try:
                data = await in_thread(partial(_something_of, name, dataset))
                verdicts.append(judge_data(name, dataset, await self._result(data)))
            except Stopped as stopped:
                return replace(stopped.verdict, what=f"data set '{name}': {stopped.verdict.what}")
        return worst_of(verdicts, f"who trains sees {', '.join(datasets)}")

    async def _result(self, data: JobData | None) -> TaskResult:
        """What the task left, on this data, or on some of its own. Raises `Stopped`."""
        task = TaskId(f"doctor-{fresh_id()[:8]}", 0, Task.CHECK, self.site, 1)
        folder = self.spool / str(task)
        try:
            await _make(folder, task, data or JobData(name="doctor", folders=(str(folder / DATA),)))
            await self._carried_out(str(task))
            result = _read(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            raise Stopped(warning(f"a task came back, and its folder cannot be removed by this user: {folder}", SHARE))
        return result

    async def _carried_out(self, task: str) -> None:
        """Trigger the run and wait for its end, each for a while. Raises `Stopped`."""
        try:
            await self.scheduler.trigger(task)
        except SchedulerError as error:
            raise Stopped(_not_triggered(error.hint or error.code)) from None
        except SchedulerUnavailableError as error:
            raise Stopped(_not_triggered(str(error))) from None
        begun = asyncio.Event()
        run = asyncio.create_task(self.scheduler.wait(task, began=begun.set), name=f"probe {task}")
        try:
            await self._wait_for(run, begun)
        finally:
            if not run.done():
                run.cancel()
                await asyncio.wait({run})
                with suppress(SchedulerError, SchedulerUnavailableError, TimeoutError):
                    async with asyncio.timeout(CANCELS_WITHIN):
                        await self.scheduler.cancel(task)

    async def _wait_for(self, run: "asyncio.Task[RunEnd]", begun: asyncio.Event) -> None:
        beginning = asyncio.create_task(begun.wait())
        try:
            await asyncio.wait({run, beginning}, timeout=BEGINS_WITHIN, return_when=asyncio.FIRST_COMPLETED)
        finally:
            beginning.cancel()
        if not begun.is_set() and not run.done():
            raise Stopped(await self._stuck())
        done, _ = await asyncio.wait({run}, timeout=ENDS_WITHIN)
        if not done:
            raise Stopped(wrong(f"the run was still at work after {ENDS_WITHIN:.0f} s", "is the worker overloaded?"))
        try:
            end = run.result()
        except UnknownRunError:
            raise Stopped(wrong("the scheduler forgot the run at once", "look into the scheduler's log")) from None
        except (SchedulerError, SchedulerUnavailableError) as error:
            raise Stopped(wrong(str(error), "look into the scheduler's log")) from None
        if not end.succeeded:
            raise Stopped(judge_end(end))

    async def _stuck(self) -> Verdict:
        if await self.busy():
            return warning(
                f"not tried: for {BEGINS_WITHIN:.0f} s trainings took all the runs that may be at work at once",
                "try again when less goes on",
            )
        return wrong(
            f"the run was triggered, and waited in the queue for {BEGINS_WITHIN:.0f} s",
            "see whether the scheduler and a worker run, and have a free slot in their pool",
        )


def clear_left(spool: Path) -> None:
    """Remove the folders of probes whose doctor was killed, as far as this user may."""
    before = time.time() - LEFT_AFTER
    with suppress(FileNotFoundError, NotADirectoryError):
        for folder in spool.iterdir():
            if _is_of_a_probe(folder) and folder.lstat().st_mtime < before:
                shutil.rmtree(folder, ignore_errors=True)


def _is_of_a_probe(folder: Path) -> bool:
    """An experiment may be called as probes are, and has no such data in its tasks' folders."""
    try:
        named = EXPERIMENT.fullmatch(parse_task_id(folder.name).experiment)
    except ValueError:
        return False
    return named is not None and not folder.is_symlink() and (folder / DATA).is_dir()


def _something_of(name: str, dataset: Dataset) -> JobData:
    """Something that lies in each folder: of a folder that is not mounted the empty mount point may be seen.

    Raises:
        Stopped: a folder cannot be read here.
    """
    found = []
    for folder in dataset.path[:FOLDERS_AT_MOST]:
        try:
            with os.scandir(folder) as entries:
                found.append(str(next((Path(entry.path) for entry in entries), folder)))
        except OSError as error:
            raise Stopped(wrong(f"{folder} cannot be read: {error.strerror}", "let the agent's user read it")) from None
    return JobData(name=name, folders=tuple(found))


async def _make(folder: Path, task: TaskId, data: JobData) -> None:
    """The folder as the agent makes it, and beside the job the data of the probe. Raises `Stopped`."""
    job = Job(
        experiment=task.experiment,
        round=task.round,
        task=task.task,
        site=task.site,
        attempt=task.attempt,
        trainer=TRAINER_OF_PROBE,
        parameters={},
        seed=0,
        epochs=1,
        optimizer_state="reset",
        deterministic=True,
        data=data,
        model_sha256=None,
    )
    try:
        await fill(folder, job, None, MemoryStore(), durable=False)
        (folder / DATA).mkdir()
        (folder / DATA / AMOUNT).write_text("1\n")
        for number in (1, 2):
            (folder / DATA / f"case-{number:04d}.txt").write_text(f"{number}\n")
    except OSError as error:
        raise Stopped(
            wrong(f"the spool cannot be written: {folder.parent}: {error.strerror}", "let the agent's user write there")
        ) from None


def _read(folder: Path) -> TaskResult:
    """Raises `Stopped`."""
    try:
        result = read_result(folder)
    except PermissionError:
        raise Stopped(
            wrong(
                "the run succeeded, and this user may not read its result",
                SHARE,
            )
        ) from None
    except (TaskEndsError, OSError):
        raise Stopped(wrong("the run succeeded, and its result cannot be read", ENVIRONMENT)) from None
    if result is None:
        raise Stopped(
            wrong(
                "the run succeeded, and left no result that is seen here",
                "is the worker's WARDROUND_SPOOL a copy of the spool, or another folder of the same name?",
            )
        )
    return result


def _not_triggered(why: str) -> Verdict:
    return wrong(f"the run was not triggered: {why}", "mend it, then run this again")


def judge_end(end: RunEnd) -> Verdict:
    """Why a run failed, and what to do about it."""
    what, to_do = ENDS.get(end.code, ("the run failed", "look into the run's log"))
    return wrong(f"{what} ({end.code}: {end.hint})" if end.hint else f"{what} ({end.code})", to_do)


def judge_result(result: TaskResult, code: str | None, *, took: float) -> Verdict:
    """Whether the task did what it should, with the same Wardround as the agent's. `took` is in seconds."""
    if result.failure is not None and result.failure.code == DATA_MISSING:
        return ok("a task came back with its result; the spool has another path at the worker")
    if result.failure is not None:
        failure = result.failure
        return wrong(f"the task came back as failed ({failure.code}: {failure.hint or failure.phase})", ENVIRONMENT)
    there = None if result.trainer is None else result.trainer.code_sha256
    if code is not None and there != code:
        return warning(
            "a task came back with its result, from another version of Wardround than the agent's",
            "install the same version in both environments",
        )
    return ok(f"a task came back with its result in {took:.1f} s")


def judge_data(name: str, dataset: Dataset, result: TaskResult) -> Verdict:
    """Whether the task found the data set's folders: what a foreign trainer makes of the files does not matter."""
    failure = result.failure
    if failure is None or failure.code in SEEN_ALL_THE_SAME:
        return ok(name)
    if failure.code == DATA_MISSING:
        return wrong(
            f"who trains does not see what is in data set '{name}': {', '.join(dataset.folders[:3])}",
            "mount it at the worker under the same path",
        )
    return wrong(f"data set '{name}': {failure.code}: {failure.hint or failure.phase}", "see the guide for clinics")
