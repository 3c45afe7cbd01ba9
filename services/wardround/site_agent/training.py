"""Having a task's training done by the clinic's scheduler, and following it."""

import asyncio
from collections.abc import Callable

import structlog

from wardround.site_agent.audit.facts import about_report
from wardround.site_agent.folder import find_room, lacked_room, read_result
from wardround.site_agent.hand import Hand, TaskEndsError, names_of
from wardround.site_agent.metrics_follow import MetricsFollower
from wardround.site_agent.outbound import plain
from wardround.site_agent.policy import Leave
from wardround.site_agent.reports import pause
from wardround.site_agent.scheduler.port import RunEnd, SchedulerError, SchedulerUnavailableError, UnknownRunError
from wardround.site_agent.site import Site
from wardround_messages.events import MetricsReported, TaskStarted
from wardround_messages.names import Task, TaskId
from wardround_messages.parts import Failure
from wardround_messages.task_folder import METRICS, TaskResult

log = structlog.get_logger()

REPORTED_EVERY = 1.0  # seconds, at first
# Each report is a line in the site's log, which is kept for ever. As the time between two grows with that gone by,
# there are some 600 in the first two hours and 60 an hour from then on.
REPORTED_PER = 120


# What may be told of the task at the moment in which it is asked; None: nothing.
MayBeTold = Callable[[], Leave | None]


async def train(site: Site, hand: Hand, may_be_told: MayBeTold, *, anew: bool) -> TaskResult:
    """The result of the training, which a crash or a full disk lets begin again as often as the settings say, once
    there is room for it.

    A result that is there already stands for a training that ended while the agent was down.

    Raises:
        TaskEndsError: the scheduler refused, the run was stopped, crashed too often, or left no result.
    """
    task, folder = hand.start.task_id, site.folder(hand.start.task_id)
    trainings = site.inbox.trainings(task)
    again = anew and trainings > 0
    result = read_result(folder)
    if result is None and (failure := site.inbox.given_up(task)) is not None:
        raise _over(failure, may_be_told)
    while result is None or (lacked_room(result) and trainings <= site.settings.scheduler.retries):
        if result is not None:
            log.warning("training_again", task=str(task), code="disk_full")
            again = True
        if again:
            # What the disk was too full for is forgotten by the scheduler, not before: an agent that is started anew
            # while it waits for room has to know.
            await site.patience(lambda: find_room(folder, hand.start))
        going_on = trainings > 0 and not again
        if trainings == 0 or again:
            # Counted before it is asked for: whatever happens in between, no training too many.
            await site.write(site.inbox.count_training, task)
            trainings += 1
        end = await _run(site, hand, may_be_told, again=again, going_on=going_on)
        result = read_result(folder)
        if result is None:
            _check_is_no_end(end)
            if trainings > site.settings.scheduler.retries:
                # Before it is answered: a scheduler that has forgotten the run must not be asked for another.
                failure = Failure(phase="training", code=end.code or "crashed", hint=plain(end.hint))
                await site.write(site.inbox.give_up, task, failure)
                raise _over(failure, may_be_told)
            log.warning("training_again", task=str(task), code=end.code, hint=end.hint)
            again = True
    return result


def _check_is_no_end(end: RunEnd) -> None:
    if end.succeeded:
        raise TaskEndsError("failed", "training", "no_result", "the run succeeded and left no result.json")
    if end.code == "cancelled":
        raise TaskEndsError("cancelled", "training", "cancelled", "the run was stopped at the clinic")


def _over(failure: Failure, may_be_told: MayBeTold) -> TaskEndsError:
    return TaskEndsError("failed", "training", failure.code, _words(failure.hint, may_be_told()))


def _words(hint: str, leave: Leave | None) -> str:
    return plain(hint) if leave is not None and leave.errors == "text" else ""


async def stop_run(site: Site, task: TaskId) -> None:
    """End a run that may be going on in the task's folder, however long that takes."""
    if site.inbox.trainings(task) == 0 and not site.folder(task).exists():
        return

    async def stop() -> None:
        try:
            await site.scheduler.cancel(str(task))
        except SchedulerError as error:  # it may be going on: nothing else may begin until somebody has mended that
            raise SchedulerUnavailableError(f"a run cannot be stopped: {error}") from error

    await site.patience(stop)


async def _run(site: Site, hand: Hand, may_be_told: MayBeTold, *, again: bool, going_on: bool) -> RunEnd:
    """The end of a run that is begun now, or was begun before and may be `going_on`."""
    task = str(hand.start.task_id)
    hand.phase = "queued"
    try:
        try:
            await site.patience(lambda: site.scheduler.trigger(task, again=again))
        except SchedulerError:
            if going_on:
                await stop_run(site, hand.start.task_id)
            raise
        return await _end_of_run(site, hand, may_be_told)
    except SchedulerError as error:
        raise TaskEndsError("failed", "training", error.code, _words(error.hint, may_be_told())) from error
    except UnknownRunError:
        return RunEnd(False, "run_lost", "the scheduler knows of no such run")


async def _end_of_run(site: Site, hand: Hand, may_be_told: MayBeTold) -> RunEnd:
    """Wait for the end, saying when the run is at work, again and again what is new in `metrics.jsonl`, and what is new
    at the end."""
    task = hand.start.task_id
    follower = MetricsFollower(site.folder(task) / METRICS)
    said = False

    def began() -> None:
        nonlocal said
        if not said:  # a wait that the scheduler was away from is begun anew
            said, hand.phase = True, "training"
            site.say(TaskStarted(**names_of(hand.start)))

    run = asyncio.ensure_future(site.patience(lambda: site.scheduler.wait(str(task), began=began)))
    clock = asyncio.get_running_loop().time
    since = clock()
    try:
        while not run.done():
            await asyncio.wait({run}, timeout=pause(clock() - since, at_first=REPORTED_EVERY, per=REPORTED_PER))
            if not follower.read_on() or hand.start.task is Task.CHECK:  # of which nothing leaves but codes
                continue
            if (leave := may_be_told()) is not None:
                report = _report(hand, follower, leave)
                await site.log("metrics", **hand.noted, **about_report(report))
                site.say(report)
        if follower.invalid:
            log.warning("metrics_skipped", task=str(task), lines=follower.invalid)
        return run.result()
    finally:
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)  # whoever cancels the run itself finds nobody waiting for it


def _report(hand: Hand, follower: MetricsFollower, leave: Leave) -> MetricsReported:
    return MetricsReported(
        **names_of(hand.start),
        progress=follower.progress,
        metrics=follower.metrics(leave),
        epoch=follower.epoch,
        step=follower.step,
    )
