"""What sites and the aggregator left in the store: list, read what is new, remember what cannot change."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import structlog

from wardround.coordinator.decide import Observed
from wardround.coordinator.state import State
from wardround.coordinator.steps import StoredAnswer
from wardround.runtime.store.port import NotFoundError, ObjectStore
from wardround.runtime.together import together
from wardround_messages.base import Model, digest
from wardround_messages.codec import MalformedError, parse
from wardround_messages.names import (
    ANSWERS_PREFIX,
    CONSENT_PREFIX,
    AnswerKey,
    ConsentKey,
    ResultKey,
    answers_prefix,
    bucket_of,
    parse_key,
)
from wardround_messages.objects import ANSWER_AT_MOST, RESULT_AT_MOST, Answer, Consent, Result

log = structlog.get_logger()

M = TypeVar("M", bound=Model)


@dataclass(frozen=True, slots=True)
class Scope:
    """Where the next look goes: to the answers that were announced, to a listing of all `answers` of the open step,
    to those of steps long closed as well (`everywhere`), to the `consents`."""

    announced: frozenset[AnswerKey] = frozenset()
    answers: bool = False
    everywhere: bool = False
    consents: bool = False

    def __or__(self, other: "Scope") -> "Scope":
        return Scope(
            self.announced | other.announced,
            self.answers or other.answers,
            self.everywhere or other.everywhere,
            self.consents or other.consents,
        )


NOWHERE = Scope()
OPEN_STEP = Scope(answers=True)
ALL = Scope(answers=True, everywhere=True, consents=True)


class Observer:
    """Reads one experiment's bucket. Objects are create-only, so each is read once."""

    def __init__(self, store: ObjectStore, experiment: str) -> None:
        self._store = store
        self._experiment = experiment
        self._bucket = bucket_of(experiment)
        self._answers: dict[AnswerKey, StoredAnswer] = {}
        self._consents: dict[ConsentKey, Consent] = {}

    async def look(self, state: State, scope: Scope) -> Observed:
        """The objects that matter to `state`: those known already, and those that are found in the scope."""
        new_consents, answers, result = await together(
            self._new_consents(state, look=scope.consents),
            self._current_answers(state, scope),
            self._result(state),
        )
        return Observed(consents=new_consents, answers=answers, result=result)

    async def _new_consents(self, state: State, *, look: bool) -> tuple[tuple[str, Consent], ...]:
        """Consents that no entry names yet; without `look`, of those known already."""
        if state.ended:
            return ()
        for info in await self._store.list(self._bucket, CONSENT_PREFIX) if look else ():
            key = parse_key(info.key)
            if not isinstance(key, ConsentKey) or key.manifest != state.manifest_sha256[:16]:
                continue
            if key.site in state.sites and key not in self._consents and _is_new(state, key):
                self._consents[key] = await self._consent(state, key)
        return tuple(
            (str(key), consent)
            for key, consent in sorted(self._consents.items())
            if consent is not None and _is_new(state, key)
        )

    async def _consent(self, state: State, key: ConsentKey) -> Consent:
        """What the site says; an object that cannot be read, or is of something else, counts as declined: it cannot
        be written again, and nobody is kept waiting for it."""
        consent = self._parsed(Consent, await self._store.read(self._bucket, str(key), length=ANSWER_AT_MOST + 1), key)
        if consent is not None and (consent.experiment, consent.site, consent.number, consent.manifest_sha256) == (
            self._experiment,
            key.site,
            key.number,
            state.manifest_sha256,
        ):
            return consent
        log.warning("consent_unreadable", experiment=self._experiment, key=str(key))
        return Consent(
            experiment=self._experiment,
            site=key.site,
            manifest_sha256=state.manifest_sha256,
            number=key.number,
            offer=state.offered,
            verdict="declined",
            rounds=state.rounds,
            code="consent_unreadable",
            reason="what the site stored is no consent",
            at=state.offered_at,
        )

    async def _current_answers(self, state: State, scope: Scope) -> dict[AnswerKey, StoredAnswer]:
        for key in await self._answers_in(state, scope):
            if key not in self._answers and _matters(state, key):
                try:
                    self._answers[key] = await self._answer(key)
                except NotFoundError:
                    log.debug("answer_announced_and_absent", experiment=self._experiment, key=str(key))
        return self._keep(state)

    async def _answers_in(self, state: State, scope: Scope) -> Iterable[AnswerKey]:
        if scope.everywhere:
            prefix = ANSWERS_PREFIX
        elif scope.answers and state.step is not None:
            prefix = answers_prefix(state.step.round)
        else:
            return sorted(scope.announced)
        listed = (parse_key(info.key) for info in await self._store.list(self._bucket, prefix))
        return [key for key in listed if isinstance(key, AnswerKey)]

    def _keep(self, state: State) -> dict[AnswerKey, StoredAnswer]:
        self._answers = {key: stored for key, stored in self._answers.items() if _matters(state, key)}
        return dict(self._answers)

    async def _answer(self, key: AnswerKey) -> StoredAnswer:
        data = await self._store.read(self._bucket, str(key), length=ANSWER_AT_MOST + 1)
        answer = self._parsed(Answer, data, key)
        if answer is not None and (answer.experiment, answer.round, answer.task, answer.site, answer.attempt) != (
            self._experiment,
            key.round,
            key.task,
            key.site,
            key.attempt,
        ):
            log.warning("security", event_kind="answer_names_another_task", key=str(key), experiment=self._experiment)
            answer = None
        return StoredAnswer(digest(data), answer)

    async def _result(self, state: State) -> Result | None:
        if state.step is None or state.step.closing is None:
            return None
        key = ResultKey(state.step.closing.number)
        try:
            data = await self._store.read(self._bucket, str(key), length=RESULT_AT_MOST + 1)
        except NotFoundError:
            return None
        return self._parsed(Result, data, key)

    def _parsed(self, model: type[M], data: bytes, key: object) -> M | None:
        try:
            return parse(model, data, at_most=RESULT_AT_MOST if model is Result else ANSWER_AT_MOST)
        except MalformedError as error:
            log.warning("object_unreadable", experiment=self._experiment, key=str(key), why=str(error))
            return None


def _is_new(state: State, key: ConsentKey) -> bool:
    return key.number > state.sites[key.site].consent


def _matters(state: State, key: AnswerKey) -> bool:
    """An answer of the open step, or one that no entry names yet."""
    if state.step is not None and state.step.name == (key.round, key.task):
        return True
    return (key.site, key.attempt) not in state.accounted.get((key.round, key.task), frozenset())
