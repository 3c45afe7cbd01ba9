"""A site's consents as objects in the store: written once decided, and read again where the inbox was lost."""

import asyncio
from collections.abc import Callable
from functools import partial
from weakref import WeakValueDictionary

import structlog

from wardround.runtime.journal import ENTRY_AT_MOST
from wardround.runtime.store.port import AccessDeniedError, NotFoundError
from wardround.runtime.store.transfer import create_or_compare, read_model
from wardround.site_agent.audit.facts import about_consent
from wardround.site_agent.inbox_consents import NUMBER_AT_MOST
from wardround.site_agent.site import Site
from wardround_messages.base import canonical_json, digest
from wardround_messages.codec import MalformedError
from wardround_messages.commands import OfferExperiment
from wardround_messages.journal import ExperimentAccepted, JournalEntry
from wardround_messages.manifest import Manifest
from wardround_messages.names import ConsentKey, JournalKey, bucket_of
from wardround_messages.objects import ANSWER_AT_MOST, Consent

log = structlog.get_logger()


class _HeldError(Exception):
    """The clinic was stopped before the consent left it."""


class OneAtATime:
    """A lock for each experiment, which is there as long as somebody holds it or waits for it."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def __call__(self, experiment: str) -> asyncio.Lock:
        return self._locks.setdefault(experiment, asyncio.Lock())


class ConsentStore:
    """Takes the consents that the inbox holds to the store. `turn` is held by whoever decides on an experiment."""

    def __init__(self, site: Site, turn: Callable[[str], asyncio.Lock]) -> None:
        self._site = site
        self._turn = turn
        self._storing = OneAtATime()

    async def store(self, experiment: str) -> None:
        """Store the consents that are decided and not stored yet."""
        async with self._storing(experiment):
            for consent in self._site.inbox.consents_to_store(experiment):
                await self._store(consent)

    async def _store(self, consent: Consent) -> None:
        """Write the object; where another content has its number, under the next."""
        site = self._site
        while True:
            key, data = _key(consent), canonical_json(consent)
            if self._is_held(consent):
                return
            about = about_consent(consent, self._answered(consent))
            await site.log("consent", **about, key=key, size=len(data), sha256=digest(data))
            try:
                stored = await site.patience(partial(self._create, consent, key, data))
            except _HeldError:
                return
            except NotFoundError:
                log.error("consent_not_stored", experiment=consent.experiment, reason="the bucket does not exist")
                return
            if stored:
                break
            async with self._turn(consent.experiment):
                newest = site.inbox.consent(consent.experiment, consent.manifest_sha256)
                if newest is not None and newest.number > consent.number:
                    break  # what follows it counts; under a higher number it would undo that
                if consent.number == NUMBER_AT_MOST:
                    log.error("consent_not_stored", experiment=consent.experiment, reason="all numbers are taken")
                    return
                number = site.inbox.next_number(consent.experiment, consent.manifest_sha256)
                consent = await site.write(site.inbox.renumber_consent, consent, number)
        await site.write(site.inbox.consent_is_stored, consent)

    def _answered(self, consent: Consent) -> OfferExperiment | None:
        """The offer that the consent answers, or one of the same manifest."""
        offers = [
            offer
            for offer in self._site.inbox.offers_of(consent.experiment)
            if offer.manifest_sha256 == consent.manifest_sha256
        ]
        return min(offers, key=lambda offer: abs(offer.offer - consent.offer), default=None)

    async def _create(self, consent: Consent, key: str, data: bytes) -> bool:
        if self._is_held(consent):
            raise _HeldError
        return await create_or_compare(self._site.store, bucket_of(consent.experiment), key, data)

    def _is_held(self, consent: Consent) -> bool:
        """While the clinic is stopped only a no leaves it."""
        return consent.verdict in ("granted", "pending") and self._site.standstill.word is not None

    async def recover_all(self, experiment: str) -> None:
        """Read the site's consents to an experiment that the inbox knows nothing of."""
        manifest = await self.manifest_in_journal(experiment)
        if manifest is not None:
            await self.recover(experiment, manifest.sha256)

    async def recover(self, experiment: str, manifest_sha256: str) -> None:
        """Read the site's own consents in the store: the inbox may have been lost."""
        found = []
        for number in range(1, NUMBER_AT_MOST + 1):
            key = str(ConsentKey(self._site.name, manifest_sha256[:16], number))
            consent = await self._read_consent(experiment, key)
            if consent is None:
                break
            if (consent.experiment, consent.manifest_sha256, _key(consent)) == (experiment, manifest_sha256, key):
                found.append(consent)
        if found:
            await self._site.write(self._site.inbox.keep_recovered, found)

    async def _read_consent(self, experiment: str, key: str) -> Consent | None:
        async def read() -> Consent | None:
            try:
                return await read_model(self._site.store, bucket_of(experiment), key, Consent, at_most=ANSWER_AT_MOST)
            except (NotFoundError, AccessDeniedError, MalformedError):
                return None  # S3 says 403, not 404, of an absent key to whoever may not list

        return await self._site.patience(read)

    async def manifest_in_journal(self, experiment: str) -> Manifest | None:
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
