"""What the clinics answered to a check: read out of the store, judged clinic by clinic."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from wardround.client.journals import read_history
from wardround.client.sites import SiteShown
from wardround.metrics.reading import Reader
from wardround.runtime.journal import READ_AT_ONCE
from wardround.runtime.store.port import NotFoundError, ObjectStore
from wardround.runtime.store.transfer import read_model
from wardround.runtime.together import together
from wardround.site_agent import standstill
from wardround_messages.codec import MalformedError
from wardround_messages.manifest import Manifest, share_of
from wardround_messages.names import (
    CONSENT_PREFIX,
    AnswerKey,
    ConsentKey,
    Task,
    answers_prefix,
    bucket_of,
    parse_key,
)
from wardround_messages.objects import ANSWER_AT_MOST, Answer, Consent
from wardround_messages.parts import Trainer

Result = Literal["ready", "pending", "declined", "refused", "failed", "silent", "late", "unanswered"]


@dataclass(frozen=True, slots=True)
class SiteChecked:
    """One clinic's answer.

    `declined` is its word on the whole experiment, `refused` on the two cases that were tried. `silent` has said
    nothing, with the code `site_stopped` where its people are known to have stopped it; `late` agreed after the others
    were asked to try, `unanswered` was asked to and has not come back. `reason` is what the clinic lets out in words,
    `rule` the rule of its policy that decided. `listed` is the trainer that its agent named, `ran` the one that the
    task ran.
    """

    site: str
    result: Result
    phase: str = ""
    code: str = ""
    reason: str = ""
    rule: str | None = None
    listed: Trainer | None = None
    ran: Trainer | None = None

    @property
    def trainer(self) -> Trainer | None:
        return self.ran or self.listed


@dataclass(frozen=True, slots=True)
class Checked:
    """All answers to a check of `experiment`, which would need `quorum` sites; `check` is the throwaway's id."""

    experiment: str
    check: str
    quorum: int
    sites: tuple[SiteChecked, ...]

    def of(self, *results: Result) -> tuple[str, ...]:
        """The sites with one of these results."""
        return tuple(site.site for site in self.sites if site.result in results)

    @property
    def outcome(self) -> Literal["ready", "refused", "failed"]:
        """`ready`: nothing is wrong anywhere, at most people must agree. `refused`: with those who refuse the quorum
        is out of reach. `failed`: something is amiss at a clinic."""
        if len(self.sites) - len(self.of("declined", "refused")) < self.quorum:
            return "refused"
        return "ready" if len(self.of("ready", "pending")) == len(self.sites) else "failed"

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is no fault of a single clinic, and may spoil what comes of the training all the same."""
        codes: dict[Trainer, list[str]] = {}
        for site in self.sites:
            if site.trainer is not None:
                codes.setdefault(site.trainer, []).append(site.site)
        found = []
        if len({trainer.code_sha256 for trainer in codes}) > 1:
            told = "; ".join(f"{', '.join(sites)}: {trainer_text(trainer)}" for trainer, sites in codes.items())
            found.append(f"the trainer's code differs between clinics: {told}")
        found += [
            f"{site.site} lists {trainer_text(site.listed)} and trains with {trainer_text(site.ran)}: "
            "two interpreters with different trainers"
            for site in self.sites
            if site.ran is not None and site.listed is not None and site.ran.code_sha256 != site.listed.code_sha256
        ]
        return tuple(found)


def trainer_text(trainer: Trainer) -> str:
    return f"{trainer.name} {trainer.version} · {trainer.code_sha256[:8]}"


def site_checked(
    site: str, check: Manifest, consent: Consent | None, answer: Answer | None, *, asked: bool, doing: str = ""
) -> SiteChecked:
    """What a site's newest consent and its answer come to.

    Args:
        asked: whether it was asked to try.
        doing: what it was last seen doing, where it was.
    """
    if consent is None:
        return SiteChecked(site, "silent")
    listed = consent.trainer
    match consent.verdict:
        case "declined" | "withdrawn":
            return SiteChecked(site, "declined", "", consent.code, consent.reason, consent.rule, listed)
        case "pending":
            return SiteChecked(site, "pending", "", consent.code, consent.reason, consent.rule, listed)
    if answer is None or answer.by_hub:
        return (
            SiteChecked(site, "unanswered", doing, rule=consent.rule, listed=listed)
            if asked
            else (SiteChecked(site, "late", rule=consent.rule, listed=listed))
        )
    if answer.manifest_sha256 != check.sha256:
        return SiteChecked(site, "failed", "submitting", "wrong_manifest", rule=consent.rule, listed=listed)
    if answer.failure is None:
        return SiteChecked(site, "ready", rule=consent.rule, listed=listed, ran=answer.trainer)
    return SiteChecked(
        site,
        "refused" if answer.outcome == "refused" else "failed",
        answer.failure.phase,
        answer.failure.code,
        answer.failure.hint,
        consent.rule,
        listed,
        answer.trainer,
    )


def why_silent(checked: Checked, shown: Iterable[SiteShown]) -> Checked:
    """With what the clinics say of themselves: one that its people stopped answers no offer, and is there all the
    same."""
    stopped = {site.site for site in shown if standstill.WORDS in site.detail}
    return replace(
        checked,
        sites=tuple(
            replace(site, code=standstill.CODE) if site.result == "silent" and site.site in stopped else site
            for site in checked.sites
        ),
    )


async def read_checked(store: ObjectStore, check: Manifest, of: Manifest, doing: Mapping[str, str]) -> Checked:
    """What the store holds of the answers to `check`, the throwaway of the experiment `of`.

    Raises:
        NotThereError: there is no such check; JournalBrokenError, IllegalEntryError: its journal cannot be believed;
        StoreUnavailableError: from the store.
    """
    history = await read_history(store, check.id)
    steps = history.rounds[0].steps if 0 in history.rounds else {}
    asked = steps[Task.CHECK].asked if Task.CHECK in steps else ()
    bucket = bucket_of(check.id)
    consents, answers = await together(_consents(store, bucket, check), _answers(store, bucket))

    def one(site: str) -> SiteChecked:
        if site in consents and consents[site] is None:
            return SiteChecked(site, "declined", code="consent_unreadable")
        consent, answer = consents.get(site), answers.get(site)
        return site_checked(site, check, consent, answer, asked=site in asked, doing=doing.get(site, ""))

    quorum = share_of(of.cohort.quorum, len(of.cohort.sites))
    return Checked(of.id, check.id, quorum, tuple(map(one, sorted(of.cohort.sites))))


async def _consents(store: ObjectStore, bucket: str, check: Manifest) -> dict[str, Consent | None]:
    """The newest consent of each site to the check; None where what it stored is no consent."""
    newest: dict[str, ConsentKey] = {}
    for info in await store.list(bucket, CONSENT_PREFIX):  # sorted: of a site, later ones come later
        key = parse_key(info.key)
        if isinstance(key, ConsentKey) and key.manifest == check.sha256[:16]:
            newest[key.site] = key
    turns = asyncio.Semaphore(READ_AT_ONCE)

    async def read(key: ConsentKey) -> Consent | None:
        async with turns:
            try:
                found = await read_model(store, bucket, str(key), Consent, at_most=ANSWER_AT_MOST)
            except (NotFoundError, MalformedError):
                return None
        named = ConsentKey(found.site, found.manifest_sha256[:16], found.number)
        return found if (bucket_of(found.experiment), named) == (bucket, key) else None

    found = await together(*map(read, newest.values()))
    return dict(zip(newest, found, strict=True))


async def _answers(store: ObjectStore, bucket: str) -> dict[str, Answer]:
    """The last answer of each site that tried."""
    last: dict[str, AnswerKey] = {}
    for info in await store.list(bucket, answers_prefix(0)):
        key = parse_key(info.key)
        if isinstance(key, AnswerKey) and key.task is Task.CHECK:
            last[key.site] = key
    reader, turns = Reader(store), asyncio.Semaphore(READ_AT_ONCE)

    async def read(key: AnswerKey) -> Answer | None:
        async with turns:
            return await reader.answer(bucket, key)

    found = await together(*map(read, last.values()))
    return {answer.site: answer for answer in found if answer is not None}
