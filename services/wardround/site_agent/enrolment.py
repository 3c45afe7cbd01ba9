"""A site's word on experiments: consent given, declined, left to a person, withdrawn."""

import asyncio
from functools import partial
from typing import Literal
from weakref import WeakValueDictionary

import structlog

from wardround.runtime.journal import ENTRY_AT_MOST
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

NUMBER_AT_MOST = 99


class Enrolment:
    """Writes the site's consents, each first into the inbox and then into the store."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def _turn(self, experiment: str) -> asyncio.Lock:
        """One at a time for each experiment; the lock is there as long as somebody holds it or waits for it."""
        return self._turns.setdefault(experiment, asyncio.Lock())

    async def answer(self, offer: OfferExperiment) -> None:
        """Judge the offer and store the site's consent to it; if it was judged before, store what is not stored yet."""
        async with self._turn(offer.experiment):
            if self._site.inbox.is_open(offer):
                await self._store(await self._decided(offer))
            else:
                await self._store_the_rest(offer.experiment)

    async def resume(self, experiment: str) -> None:
        """Store the consents that were decided before the agent was stopped."""
        async with self._turn(experiment):
            await self._store_the_rest(experiment)

    async def approve(self, experiment: str) -> None:
        """A person grants what is pending, was declined or was withdrawn; the site takes part from the next step on.

        Raises:
            RefusedError: the policy denies it all the same, the site lacks what it takes, or no offer is known.
        """
        async with self._turn(experiment):
            offers = self._site.inbox.offers_of(experiment)
            if not offers:
                raise RefusedError("no_offer", "no offer of this experiment is known here; resuming it offers it again")
            for offer in {offer.manifest_sha256: offer for offer in offers}.values():
                before = self._site.inbox.consent(experiment, offer.manifest_sha256)
                if before is None or before.verdict != "granted":
                    permission = await judge_offer(self._site, offer)
                    rule, trainer = permission.decision.rule, permission.trainer
                    granted = self._consent(offer, "granted", APPROVED, rule, "", trainer)
                    await self._site.write(self._site.inbox.keep_consent, granted, answers=offer.id)
                    await self._store(granted)

    async def withdraw(self, experiment: str, reason: str) -> None:
        """Take back every consent given to the experiment."""
        async with self._turn(experiment):
            for consent in self._site.inbox.consents_to(experiment):
                if consent.verdict == "granted":
                    await self._take_back(consent, reason)

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

    async def _take_back(self, consent: Consent, reason: str) -> None:
        following = consent.model_dump() | {
            "number": self._next_number(consent.experiment, consent.manifest_sha256),
            "verdict": "withdrawn",
            "code": "withdrawn",
            "reason": reason,
            "at": self._site.clock(),
        }
        withdrawn = Consent.model_validate(following)
        await self._site.write(self._site.inbox.keep_consent, withdrawn)
        await self._store(withdrawn)

    def _next_number(self, experiment: str, manifest_sha256: str) -> int:
        newest = self._site.inbox.consent(experiment, manifest_sha256)
        return 1 if newest is None else min(newest.number + 1, NUMBER_AT_MOST)

    async def _store_the_rest(self, experiment: str) -> None:
        for consent in self._site.inbox.consents_to_store(experiment):
            await self._store(consent)

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
            newest = site.inbox.consent(consent.experiment, consent.manifest_sha256)
            if newest is not None and newest.number > consent.number:
                break  # what follows it counts; under a higher number it would undo that
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
