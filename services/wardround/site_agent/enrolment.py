"""A site's word on experiments: consent given, declined, left to a person, withdrawn."""

import asyncio
from collections import defaultdict
from functools import partial
from typing import Literal

import structlog

from wardround.runtime.store.port import AccessDeniedError, NotFoundError
from wardround.runtime.store.transfer import create_or_compare, read_model
from wardround.site_agent.judgement import APPROVED, RefusedError, judge_offer
from wardround.site_agent.site import Site
from wardround_messages.base import canonical_json, digest
from wardround_messages.codec import MalformedError
from wardround_messages.commands import OfferExperiment, StartTask
from wardround_messages.journal import ExperimentAccepted, JournalEntry
from wardround_messages.manifest import Manifest
from wardround_messages.names import ConsentKey, JournalKey, bucket_of
from wardround_messages.objects import ANSWER_AT_MOST, Consent
from wardround_messages.parts import Trainer

log = structlog.get_logger()

ENTRY_AT_MOST = 2**20
NUMBER_AT_MOST = 99


class Enrolment:
    """Writes the site's consents, each first into the inbox and then into the store."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def answer(self, offer: OfferExperiment) -> None:
        """Judge the offer and store the site's consent to it."""
        async with self._turns[offer.experiment]:
            await self._store(await self._decided(offer))

    async def resume(self, consent: Consent) -> None:
        """Store a consent that was decided before the agent was stopped."""
        async with self._turns[consent.experiment]:
            await self._store(consent)

    async def approve(self, experiment: str) -> None:
        """A person agrees to what is pending."""
        await self._follow_up(experiment, "pending", "granted", APPROVED, "")

    async def withdraw(self, experiment: str, reason: str) -> None:
        """Take back every consent given to the experiment."""
        await self._follow_up(experiment, "granted", "withdrawn", "withdrawn", reason)

    async def granted(self, start: StartTask) -> Consent:
        """The consent under which a task is done; raises `RefusedError`: there is none that covers it."""
        consent = self._site.inbox.consent(start.experiment, start.manifest_sha256)
        if consent is None:
            consent = await self._recovered(start)
        if consent is None or consent.verdict != "granted":
            raise RefusedError("no_consent", "this clinic has not consented to this manifest")
        if start.round > consent.rounds:
            raise RefusedError("no_consent", f"this clinic consented to {consent.rounds} rounds, not to more")
        return consent

    async def manifest(self, start: StartTask) -> Manifest:
        """The manifest that the task names, out of the inbox or else the journal; raises `RefusedError`."""
        known = self._site.inbox.manifest(start.manifest_sha256)
        if known is not None:
            return known
        found = await self._manifest_in_journal(start.experiment)
        if found is None or found.sha256 != start.manifest_sha256:
            raise RefusedError("no_manifest", "the manifest that the task names is not that of the experiment")
        await self._site.write(self._site.inbox.keep_manifest, found)
        return found

    async def _decided(self, offer: OfferExperiment) -> Consent:
        try:
            permission = await judge_offer(self._site, offer)
        except RefusedError as refusal:
            consent = self._consent(offer, "declined", refusal.code, refusal.rule, refusal.reason, None)
        else:
            decision = permission.decision
            verdict: Literal["granted", "pending"] = "granted" if decision.verdict == "allow" else "pending"
            consent = self._consent(offer, verdict, decision.code, decision.rule, decision.reason, permission.trainer)
        await self._site.write(self._site.inbox.keep_consent, consent, answers=offer.id)
        return consent

    def _consent(
        self,
        offer: OfferExperiment,
        verdict: Literal["granted", "declined", "pending"],
        code: str,
        rule: str | None,
        reason: str,
        trainer: Trainer | None,
    ) -> Consent:
        return Consent(
            experiment=offer.experiment,
            site=self._site.name,
            manifest_sha256=offer.manifest_sha256,
            number=self._next_number(offer.experiment, offer.manifest_sha256),
            offer=offer.offer,
            verdict=verdict,
            rounds=offer.rounds,
            code=code,
            rule=rule,
            reason=reason,
            trainer=trainer,
            at=self._site.clock(),
        )

    async def _follow_up(
        self,
        experiment: str,
        before: Literal["pending", "granted"],
        verdict: Literal["granted", "withdrawn"],
        code: str,
        reason: str,
    ) -> None:
        async with self._turns[experiment]:
            for consent in self._site.inbox.consents_to(experiment):
                if consent.verdict != before:
                    continue
                following = consent.model_dump() | {
                    "number": self._next_number(experiment, consent.manifest_sha256),
                    "verdict": verdict,
                    "code": code,
                    "reason": reason,
                    "at": self._site.clock(),
                }
                decided = Consent.model_validate(following)
                await self._site.write(self._site.inbox.keep_consent, decided)
                await self._store(decided)

    def _next_number(self, experiment: str, manifest_sha256: str) -> int:
        newest = self._site.inbox.consent(experiment, manifest_sha256)
        return 1 if newest is None else min(newest.number + 1, NUMBER_AT_MOST)

    async def _store(self, consent: Consent) -> None:
        """Write the object; where another content has its number, under the next."""
        site, bucket = self._site, bucket_of(consent.experiment)
        while True:
            key, data = _key(consent), canonical_json(consent)
            await site.write(
                site.audit.write,
                "consent",
                key=key,
                sha256=digest(data),
                verdict=consent.verdict,
                rule=consent.rule,
                code=consent.code,
            )
            try:
                stored = await site.patience(partial(create_or_compare, site.store, bucket, key, data))
            except NotFoundError:
                log.error("consent_not_stored", experiment=consent.experiment, reason="the bucket does not exist")
                return
            if stored:
                break
            if consent.number == NUMBER_AT_MOST:
                log.error("consent_not_stored", experiment=consent.experiment, reason="all numbers are taken")
                return
            number = self._next_number(consent.experiment, consent.manifest_sha256)
            consent = await site.write(site.inbox.renumber_consent, consent, number)
        await site.write(site.inbox.consent_is_stored, consent)

    async def _recovered(self, start: StartTask) -> Consent | None:
        """The newest of the site's own consents in the store: the inbox was lost."""
        newest = None
        for number in range(1, NUMBER_AT_MOST + 1):
            key = str(ConsentKey(self._site.name, start.manifest_sha256[:16], number))
            found = await self._read_consent(start.experiment, key)
            if found is None:
                break
            if (found.experiment, found.manifest_sha256, _key(found)) == (start.experiment, start.manifest_sha256, key):
                newest = found
        if newest is not None:
            await self._site.write(self._site.inbox.keep_consent, newest, stored=True)
        return newest

    async def _read_consent(self, experiment: str, key: str) -> Consent | None:
        async def read() -> Consent | None:
            try:
                return await read_model(self._site.store, bucket_of(experiment), key, Consent, at_most=ANSWER_AT_MOST)
            except (NotFoundError, AccessDeniedError, MalformedError):
                return None  # S3 says 403, not 404, of an absent key to whoever may not list

        return await self._site.patience(read)

    async def _manifest_in_journal(self, experiment: str) -> Manifest | None:
        async def read() -> Manifest | None:
            try:
                entry = await read_model(
                    self._site.store, bucket_of(experiment), str(JournalKey(0)), JournalEntry, at_most=ENTRY_AT_MOST
                )
            except (NotFoundError, AccessDeniedError, MalformedError):
                return None
            return entry.body.manifest if isinstance(entry.body, ExperimentAccepted) else None

        return await self._site.patience(read)


def _key(consent: Consent) -> str:
    return str(ConsentKey(consent.site, consent.manifest_sha256[:16], consent.number))
