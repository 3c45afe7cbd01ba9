"""One task at a site, from the command to the stored answer. Whatever happens in between ends in an answer."""

import asyncio
from collections.abc import Iterable
from pathlib import Path

import structlog
from tenacity import stop_after_attempt

from wardround.runtime.patience import patiently
from wardround.runtime.store.blocking import is_small, run
from wardround.runtime.store.content import ContentChangedError
from wardround.runtime.store.port import NotFoundError
from wardround.runtime.store.transfer import DigestMismatchError
from wardround.site_agent.audit.facts import about_task, about_trainer
from wardround.site_agent.enrolment import Enrolment
from wardround.site_agent.folder import fill, is_filled, job_of, model_of
from wardround.site_agent.hand import BY_THE_SITE, Hand, TaskEndsError, names_of
from wardround.site_agent.judgement import (
    CODES_ONLY,
    Permission,
    RefusedError,
    data_of,
    dataset_of,
    judge_leaving,
    judge_task,
    judge_words,
)
from wardround.site_agent.outbound import CheckedFile, HeldBackError, check_update, failure_of, figures
from wardround.site_agent.policy import Leave
from wardround.site_agent.site import Site
from wardround.site_agent.slots import Slots
from wardround.site_agent.standstill import CODE, WORDS
from wardround.site_agent.submission import Submission
from wardround.site_agent.training import stop_run, train
from wardround.site_agent.transfers import Transfers
from wardround_messages.commands import StartTask
from wardround_messages.events import TaskAccepted
from wardround_messages.manifest import Manifest
from wardround_messages.names import Task, UpdateKey
from wardround_messages.objects import Answer
from wardround_messages.parts import Failure, ObjectRef
from wardround_messages.task_folder import UPDATE, Job, TaskResult

log = structlog.get_logger()

FETCHED_AT_MOST = 4  # tries before a model counts as missing

# What is wrong with the clinic's own data, or with the model for the trainer, does not mend by asking again.
REFUSALS = frozenset(
    {
        "model_unsuitable",
        "too_few_cases",
        "case_unreadable",
        "link_out_of_folder",
        "data_missing",
        "data_empty",
        "data_layout",
        "data_names",
    }
)


class Work:
    """Carries out tasks, `slots` trainings at a time."""

    def __init__(self, site: Site, enrolment: Enrolment) -> None:
        self._site = site
        self._enrolment = enrolment
        self._transfers = Transfers(site)
        self._submission = Submission(site, self._transfers, self._check_may_leave)
        self._slots = Slots(site.settings.scheduler.slots, site.inbox.experiments_served())

    def in_turn(self, hands: Iterable[Hand]) -> list[Hand]:
        """The tasks as their trainings come: those that have a slot, those that wait for one, then all others."""
        places = {turn: place for place, turn in enumerate(self._slots.order)}
        return sorted(hands, key=lambda hand: len(places) if hand.turn is None else places.get(hand.turn, len(places)))

    async def carry_out(self, hand: Hand) -> None:
        """Do the task, or end it as cancelled as soon as `hand.cancel` is called."""
        hand.begun = True
        if self._site.inbox.trainings(hand.start.task_id) > 0:  # it may be going on: the slot is its own before it asks
            hand.turn = self._slots.line_up(hand.start.experiment, goes_on=True)
        try:
            await self._carry_out(hand)
        finally:
            self._leave(hand)

    async def _carry_out(self, hand: Hand) -> None:
        hand.noted.update(about_task(hand.start, self._site.inbox.manifest(hand.start.manifest_sha256)))
        try:
            if hand.cancelled is None:
                await self._do(hand)
        except asyncio.CancelledError:
            worker = asyncio.current_task()
            if hand.cancelled is None or worker is None or worker.uncancel() > 0:
                raise  # the agent itself is stopped
        if hand.cancelled is not None and hand.phase != "answered":
            await self._end_cancelled(hand, hand.cancelled)

    async def _do(self, hand: Hand) -> None:
        if hand.after:
            await asyncio.wait(hand.after)
        if await self._submission.is_answered(hand.start):
            await stop_run(self._site, hand.start.task_id)  # by a second agent of this clinic: what began here goes on
            await self._submission.close(hand, "answered")
            return
        update: CheckedFile | None = None
        try:
            answer, update = await self._through(hand)
        except RefusedError as refusal:
            await stop_run(self._site, hand.start.task_id)
            answer = self._refused(hand, refusal)
        except TaskEndsError as end:
            answer = self._ended(hand, end)
        except Exception:
            log.exception("task_broke_the_agent", task=str(hand.start.task_id))
            await stop_run(self._site, hand.start.task_id)
            answer = self._ended(hand, TaskEndsError("failed", hand.phase, "agent_error"))
        self._leave(hand)  # a store that is away holds the answer up, and no other training
        try:
            await self._submission.submit(hand, answer, None if update is None else update.content)
        except RefusedError as refusal:
            await self._submission.submit(hand, self._refused(hand, refusal))
        except ContentChangedError:
            hint = "the update is no longer what was checked, so it was held back"
            await self._submission.submit(
                hand, self._ended(hand, TaskEndsError("failed", hand.phase, "update_changed", hint))
            )

    async def _through(self, hand: Hand) -> tuple[Answer, CheckedFile | None]:
        start, site = hand.start, self._site
        if site.standstill.word is not None:
            raise RefusedError(CODE, WORDS)
        if site.inbox.newest_round(start.experiment) > start.round:
            raise RefusedError("stale_round", "a later round has begun")
        consent = await self._enrolment.granted(start)
        manifest = await self._enrolment.manifest(start)
        permission = await judge_task(site, start, manifest, consent)
        hand.noted.update(about_task(start, manifest), rule=permission.decision.rule)
        await site.log("task", **hand.noted, **about_trainer(permission.trainer), code=permission.decision.code)
        site.say(TaskAccepted(**names_of(start)))
        anew = await self._fill_folder(hand, manifest)
        hand.phase = "queued"
        hand.turn = hand.turn or self._slots.line_up(start.experiment)
        try:
            await hand.turn.comes
        except asyncio.CancelledError:
            self._leave(hand)
            raise
        # From here on until the run is over, or stopped, the slot is not free: nothing else trains beside it.
        result = await train(site, hand, lambda: self._may_be_told(start, manifest, permission), anew=anew)
        self._leave(hand)
        hand.phase = "checking"
        return await self._checked(hand, manifest, permission, result)

    def _leave(self, hand: Hand) -> None:
        if hand.turn is not None:
            self._slots.leave(hand.turn)

    async def _fill_folder(self, hand: Hand, manifest: Manifest) -> bool:
        """Whether the folder was filled now: a run that began in it before, if there was one, is of no use."""
        hand.phase = "fetching"
        start, site = hand.start, self._site
        folder = site.folder(start.task_id)
        data = data_of(site.settings, dataset_of(manifest, start.task))
        job = job_of(start, manifest, data, site.carry(start.experiment))
        if is_filled(folder, job):
            return False
        await stop_run(self._site, hand.start.task_id)
        model = model_of(start)
        if model is not None:
            await site.log("model", **hand.noted, key=model.key, size=model.size, sha256=model.sha256)
        try:
            await patiently(
                lambda: self._fill(hand, folder, job, model),
                away=_not_there_yet,
                longest=2,
                stop=stop_after_attempt(FETCHED_AT_MOST),
            )
        except NotFoundError:
            raise TaskEndsError("failed", "fetching", "model_missing", "the model is not in the store") from None
        except DigestMismatchError:
            raise TaskEndsError(
                "failed", "fetching", "model_digest", "the model in the store is not the one that was announced"
            ) from None
        return True

    async def _fill(self, hand: Hand, folder: Path, job: Job, model: ObjectRef | None) -> None:
        store, durable = self._site.store, self._site.audit.durable
        if model is None:
            await self._site.patience(lambda: fill(folder, job, None, store, durable=durable))
        else:
            await self._transfers.fetch(
                hand, model, lambda passage: fill(folder, job, model, store, passage, durable=durable)
            )

    async def _checked(
        self, hand: Hand, manifest: Manifest, permission: Permission, result: TaskResult
    ) -> tuple[Answer, CheckedFile | None]:
        """The answer with what may leave of the result, judged by consent and policy as they stand now."""
        start = hand.start
        if result.failure is not None:
            outcome = "refused" if result.failure.code in REFUSALS else "failed"
            leave = self._may_be_told(start, manifest, permission) or CODES_ONLY
            failure = failure_of(result.failure, result.text, leave)
            return self._answer(start, outcome=outcome, trainer=result.trainer, failure=failure), None
        if result.trainer is None or result.trainer.name != manifest.training.trainer:
            raise TaskEndsError("failed", "checking", "bad_result", "the result is of another trainer")
        cases = result.cases if start.task is Task.TRAIN or result.received is None else result.received.cases or 0
        policy, consent = self._site.policy(), self._enrolment.covering(start)
        decision = judge_leaving(policy, start, manifest, consent, code_sha256=result.trainer.code_sha256, cases=cases)
        hand.noted.update(rule=decision.rule, cases_used=cases)
        leave = policy.leave_of(decision.rule)
        counts_leave = manifest.strategy.weight == "cases"
        if start.task is Task.TRAIN and counts_leave and result.cases == 0:
            raise TaskEndsError("failed", "checking", "no_cases", "the training counted no case")
        numbers = figures(result, task=start.task, leave=leave, counts_leave=counts_leave)
        update = await self._checked_update(start, leave)
        answer = self._answer(
            start,
            outcome="done",
            cases=numbers.cases,
            received=numbers.received,
            trained=numbers.trained,
            metrics_kept_back=numbers.kept_back,
            update=None if update is None else _ref(start, update),
            trainer=result.trainer,
            seconds=numbers.seconds,
            steps=numbers.steps,
        )
        return answer, update

    def _may_be_told(self, start: StartTask, manifest: Manifest, permission: Permission) -> Leave | None:
        """What may be told of the task by consent and policy as they stand now; None where they no longer allow it."""
        try:
            consent, code_sha256 = self._enrolment.covering(start), permission.trainer.code_sha256
            return judge_words(self._site.policy(), start, manifest, consent, code_sha256=code_sha256)
        except RefusedError:
            return None

    def _check_may_leave(self, start: StartTask) -> None:
        """Raises `RefusedError`: the clinic was stopped, or the consent taken back, since the result was judged."""
        if self._site.standstill.word is not None:
            raise RefusedError(CODE, WORDS)
        self._enrolment.covering(start)

    async def _checked_update(self, start: StartTask, leave: Leave) -> CheckedFile | None:
        if start.task not in (Task.INITIALISE, Task.TRAIN):
            return None
        path = self._site.folder(start.task_id) / UPDATE
        try:
            return await run(is_small(path), check_update, path, at_most=leave.update_at_most)
        except HeldBackError as error:
            too_large = error.code == "update_too_large"
            raise TaskEndsError("refused" if too_large else "failed", "checking", error.code, error.hint) from None

    async def _end_cancelled(self, hand: Hand, reason: str) -> None:
        await stop_run(self._site, hand.start.task_id)
        self._leave(hand)
        if await self._submission.is_answered(hand.start):
            await self._submission.close(hand, "answered")
            return
        if reason == CODE and hand.phase == "received":
            answer = self._refused(hand, RefusedError(CODE, WORDS))
        else:
            failure = Failure(phase=hand.phase, code=reason)
            answer = self._answer(hand.start, outcome="cancelled", by_hub=reason not in BY_THE_SITE, failure=failure)
        await self._submission.submit(hand, answer)

    def _refused(self, hand: Hand, refusal: RefusedError) -> Answer:
        return self._ended(hand, TaskEndsError("refused", "policy", refusal.code, refusal.reason, rule=refusal.rule))

    def _ended(self, hand: Hand, end: TaskEndsError) -> Answer:
        if end.rule is not None:
            hand.noted["rule"] = end.rule
        return self._answer(hand.start, outcome=end.outcome, failure=end.failure)

    def _answer(self, start: StartTask, **what: object) -> Answer:
        return Answer.model_validate(
            {
                **names_of(start),
                "manifest_sha256": start.manifest_sha256,
                "built_on": None if (model := model_of(start)) is None else model.sha256,
                "at": self._site.clock(),
                **what,
            }
        )


def _not_there_yet(error: BaseException) -> str | None:
    return "the model is not there as announced" if isinstance(error, NotFoundError | DigestMismatchError) else None


def _ref(start: StartTask, checked: CheckedFile) -> ObjectRef:
    key = str(UpdateKey(start.round, start.site, checked.sha256[:16]))
    return ObjectRef(key=key, size=checked.size, sha256=checked.sha256)
