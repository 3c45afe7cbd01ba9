"""The end of a task: the update, then the answer that names it, then the folder is cleared."""

import shutil
from collections.abc import Callable
from pathlib import Path

import structlog

from wardround.runtime.regular_file import open_regular
from wardround.runtime.store.blocking import is_small, run
from wardround.runtime.store.content import Content
from wardround.runtime.store.port import AccessDeniedError, NotFoundError
from wardround.runtime.store.transfer import create_or_compare
from wardround.site_agent.audit.facts import about_answer, about_trainer
from wardround.site_agent.hand import Hand, names_of
from wardround.site_agent.site import Site
from wardround.site_agent.transfers import Transfers
from wardround_messages.base import canonical_json, digest
from wardround_messages.commands import StartTask
from wardround_messages.events import TaskAnswered
from wardround_messages.names import AnswerKey, bucket_of
from wardround_messages.objects import Answer
from wardround_messages.task_folder import CASES

log = structlog.get_logger()

CASES_AT_MOST = 16 * 2**20  # bytes: the names of a great many cases


class Submission:
    """Stores what ends a task. Each object is in the site's log before it leaves.

    Args:
        check: whether what came of a task may still leave, asked each time just before it does; raises if not.
    """

    def __init__(self, site: Site, transfers: Transfers, check: Callable[[StartTask], None]) -> None:
        self._site = site
        self._transfers = transfers
        self._check = check

    async def is_answered(self, start: StartTask) -> bool:
        """Whether the answer to this attempt is in the store."""

        async def look() -> bool:
            try:
                await self._site.store.head(bucket_of(start.experiment), _answer_key(start))
            except (NotFoundError, AccessDeniedError):
                return False  # S3 says 403, not 404, of an absent key to whoever may not list
            return True

        return await self._site.patience(look)

    async def submit(self, hand: Hand, answer: Answer, update: Content | None = None) -> None:
        """Store the update, if there is one, then the answer. An answer that stood there before counts.

        Raises what `check` raises, and `ContentChangedError`; there is no answer then yet.
        """
        hand.phase = "submitting"
        cases = self._site.folder(hand.start.task_id) / CASES
        cases_sha256 = await run(is_small(cases), _digest_of, cases)
        if cases_sha256 is not None:
            hand.noted["cases_sha256"] = cases_sha256
        try:
            if answer.update is not None and update is not None:
                await self._put_update(hand, answer, update)
            stored = await self._create_answer(hand, answer)
        except NotFoundError:
            log.error("answer_not_stored", task=str(hand.start.task_id), reason="the bucket does not exist")
            await self.close(hand, "unanswerable")
            return
        if not stored:
            log.warning("answered_before", task=str(hand.start.task_id))
        await self.close(hand, answer.outcome)
        if stored:
            self._site.say(_answered(hand.start, answer))

    async def close(self, hand: Hand, outcome: str) -> None:
        """The task is over: nothing of it is kept but its line in the inbox and in the log."""
        task = hand.start.task_id
        await self._site.write(self._site.inbox.end, task, outcome)
        hand.phase = "answered"
        shutil.rmtree(self._site.folder(task), ignore_errors=True)

    async def _put_update(self, hand: Hand, answer: Answer, content: Content) -> None:
        site, update, bucket = self._site, answer.update, bucket_of(hand.start.experiment)
        assert update is not None  # noqa: S101 - the caller looked
        about = hand.noted | about_trainer(answer.trainer)
        await site.log("update", **about, key=update.key, size=update.size, sha256=update.sha256)
        await self._transfers.send(hand, bucket, update, content, check=lambda: self._check(hand.start))

    async def _create_answer(self, hand: Hand, answer: Answer) -> bool:
        site, key, bucket = self._site, _answer_key(hand.start), bucket_of(hand.start.experiment)
        # Whoever holds the answer can tell later whether the lines before it are still the same.
        data = canonical_json(answer.model_copy(update={"log": site.audit.head}))
        about = hand.noted | about_answer(answer)
        await site.log("answer", **about, key=key, size=len(data), sha256=digest(data))

        async def create() -> bool:
            if answer.outcome == "done":
                self._check(hand.start)
            return await create_or_compare(site.store, bucket, key, data)

        return await site.patience(create)


def _answer_key(start: StartTask) -> str:
    return str(AnswerKey(start.round, start.task, start.site, start.attempt))


def _digest_of(file: Path) -> str | None:
    """Which cases were used is the clinic's own affair; that they were these and no others can be shown later."""
    try:
        with open_regular(file) as cases:
            names = cases.read(CASES_AT_MOST + 1)
    except OSError:
        return None
    if len(names) > CASES_AT_MOST:
        log.warning("cases_too_large", task=file.parent.name, at_most=CASES_AT_MOST)
        return None
    return digest(names)


def _answered(start: StartTask, answer: Answer) -> TaskAnswered:
    return TaskAnswered(
        **names_of(start),
        outcome=answer.outcome,
        code=None if answer.failure is None else answer.failure.code,
        update_size=None if answer.update is None else answer.update.size,
    )
