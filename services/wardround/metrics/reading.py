"""What the store holds of a round: all that its figures are made of."""

import structlog

from wardround.metrics.figures import Objects, answers_named, figures_of, result_named
from wardround.metrics.history import History
from wardround.runtime.store.port import NotFoundError, ObjectStore
from wardround_messages.base import digest
from wardround_messages.codec import MalformedError, parse
from wardround_messages.figures import Figures
from wardround_messages.names import AnswerKey, ResultKey, bucket_of
from wardround_messages.objects import ANSWER_AT_MOST, RESULT_AT_MOST, Answer, Result

log = structlog.get_logger()

# An answer is read when it is announced, when its step closes and when the model is there.
ANSWERS_KEPT = 2000


class Reader:
    """Reads what figures are made of. Answers are create-only, so each of the last few is read once."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._answers: dict[tuple[str, AnswerKey], tuple[str, Answer]] = {}

    async def figures(self, history: History | None, number: int) -> Figures:
        """The figures of a round, made anew of its history and of the objects that it names."""
        assert history is not None  # noqa: S101 - a round is known from it
        round_ = history.rounds[number]
        bucket = bucket_of(history.manifest.id)
        answers = {}
        for key, sha256 in answers_named(round_).items():
            answer = await self.answer(bucket, key, sha256=sha256)
            if answer is not None:
                answers[key] = answer
        named = result_named(round_)
        result = None if named is None else await _read_result(self._store, bucket, named)
        return figures_of(history, number, Objects(answers, result))

    async def answer(self, bucket: str, key: AnswerKey, *, sha256: str | None = None) -> Answer | None:
        """The answer with that digest, or None where there is none that can be believed."""
        known = self._answers.get((bucket, key))
        if known is not None and sha256 in (None, known[0]):
            return known[1]
        data = await _read(self._store, bucket, str(key), ANSWER_AT_MOST)
        if data is None or (sha256 is not None and digest(data) != sha256):
            log.warning("answer_missing_or_changed", bucket=bucket, key=str(key))
            return None
        answer = _parsed(data, bucket, key)
        if answer is not None:
            self._answers[bucket, key] = digest(data), answer
            if len(self._answers) > ANSWERS_KEPT:
                del self._answers[next(iter(self._answers))]
        return answer


def _parsed(data: bytes, bucket: str, key: AnswerKey) -> Answer | None:
    try:
        answer = parse(Answer, data, at_most=ANSWER_AT_MOST)
    except MalformedError as error:
        log.warning("answer_unreadable", bucket=bucket, key=str(key), code=error.code)
        return None
    named = AnswerKey(answer.round, answer.task, answer.site, answer.attempt)
    return answer if (bucket_of(answer.experiment), named) == (bucket, key) else None


async def _read_result(store: ObjectStore, bucket: str, key: ResultKey) -> Result | None:
    data = await _read(store, bucket, str(key), RESULT_AT_MOST)
    if data is None:
        log.warning("result_missing", bucket=bucket, key=str(key))
        return None
    try:
        return parse(Result, data, at_most=RESULT_AT_MOST)
    except MalformedError as error:
        log.warning("result_unreadable", bucket=bucket, key=str(key), code=error.code)
        return None


async def _read(store: ObjectStore, bucket: str, key: str, at_most: int) -> bytes | None:
    try:
        return await store.read(bucket, key, length=at_most + 1)
    except NotFoundError:
        return None
