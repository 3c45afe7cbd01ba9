"""A site's word on experiments: consent given, declined, left to a person, withdrawn."""

from collections.abc import Sequence
from typing import Literal

from wardround.site_agent.audit.facts import about_consent
from wardround.site_agent.consent_store import ConsentStore, OneAtATime
from wardround.site_agent.hand import STOPPED, WITHDRAWN
from wardround.site_agent.judgement import APPROVED, REFUSED_BY_PERSON, Permission, RefusedError, judge_offer
from wardround.site_agent.site import Site
from wardround_messages.commands import OfferExperiment, StartTask
from wardround_messages.manifest import Manifest
from wardround_messages.objects import Consent
from wardround_messages.parts import Trainer

Verdict = Literal["granted", "declined", "pending"]

SAID_BY_PEOPLE = frozenset({APPROVED, REFUSED_BY_PERSON, WITHDRAWN})
NO_STANDS = "a person at the clinic has said no, which stands until a person there approves"


class Enrolment:
    """Writes the site's consents, each first into the inbox and then into the store.

    Deciding never waits for the store: what a person says counts from then on, however long the hub is away.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._turn = OneAtATime()
        self._store = ConsentStore(site, self._turn)

    async def answer(self, offer: OfferExperiment) -> None:
        """Judge the offer and store the site's consent to it; if it was judged before, store what is not stored yet.

        While the clinic is stopped the offer is left open: the hub must take that neither for a yes nor for a no.
        """
        async with self._turn(offer.experiment):
            if self._site.inbox.is_open(offer):
                await self._decide(offer)
        await self.store(offer.experiment)

    async def store(self, experiment: str) -> None:
        """Store the consents that are decided and not stored yet."""
        await self._store.store(experiment)

    # --- a person's word ---------------------------------------------------------------------------------------------

    async def approve(self, experiment: str, *, by: str, reason: str) -> tuple[Consent, ...]:
        """A person grants what is pending, was declined or was withdrawn, or what the policy asks a person for by now;
        the site takes part from the next step on. Returns the new consents: none where all was granted before.

        Raises:
            RefusedError: the policy denies it all the same, the site lacks what it takes, or no offer is known.
        """
        async with self._turn(experiment):
            offers = self._newest_offers(experiment)
            if not offers:
                raise RefusedError("no_offer", "no offer of this experiment is known here; resuming it offers it again")
            granted = []
            for offer in offers:
                permission = await judge_offer(self._site, offer)
                if self._wants_approval(offer, permission):
                    rule, trainer = permission.decision.rule, permission.trainer
                    granted.append(self._consent(offer, "granted", APPROVED, rule, "", trainer))
            return await self._say("approve", experiment, by, reason, granted)

    async def refuse(self, experiment: str, *, by: str, reason: str) -> tuple[Consent, ...]:
        """A person declines what is pending; what was granted before stands.

        Raises:
            RefusedError: nothing is pending.
        """
        async with self._turn(experiment):
            declined = []
            for offer in self._newest_offers(experiment):
                before = self._site.inbox.consent(experiment, offer.manifest_sha256)
                if self._site.inbox.is_open(offer) or (before is not None and before.verdict == "pending"):
                    rule, trainer = (None, None) if before is None else (before.rule, before.trainer)
                    declined.append(self._consent(offer, "declined", REFUSED_BY_PERSON, rule, reason, trainer))
            if not declined:
                raise RefusedError(
                    "nothing_pending",
                    "nothing of it waits for a person's word; `wardround site withdraw` takes back what was granted",
                )
            return await self._say("refuse", experiment, by, reason, declined)

    async def withdraw(self, experiment: str, *, by: str, reason: str) -> tuple[Consent, ...]:
        """Take back every consent given to the experiment.

        Raises:
            RefusedError: none is given.
        """
        async with self._turn(experiment):
            if not self._site.inbox.consents_of(experiment):
                await self._store.recover_all(experiment)
            withdrawn = [self._taken_back(grant, reason) for grant in self._site.inbox.grants(experiment)]
            if not withdrawn:
                raise RefusedError("nothing_granted", "this clinic has granted nothing of this experiment")
            return await self._say("withdraw", experiment, by, reason, withdrawn)

    async def _say(
        self, action: str, experiment: str, by: str, reason: str, consents: Sequence[Consent]
    ) -> tuple[Consent, ...]:
        """Keep the consents that a person gave, and log whose word it is."""
        if consents:
            await self._site.log("person", action=action, by=by, experiment=experiment, reason=reason)
        for consent in consents:
            await self._site.write(self._site.inbox.keep_consent, consent)
        return tuple(consents)

    def _newest_offers(self, experiment: str) -> tuple[OfferExperiment, ...]:
        """The newest offer of each manifest."""
        return tuple({offer.manifest_sha256: offer for offer in self._site.inbox.offers_of(experiment)}.values())

    def _wants_approval(self, offer: OfferExperiment, permission: Permission) -> bool:
        """Not where all is granted already, by a person if the policy asks for one."""
        before = self._site.inbox.consent(offer.experiment, offer.manifest_sha256)
        if before is None or before.verdict != "granted" or before.rounds < offer.rounds:
            return True
        return permission.decision.verdict == "ask" and before.code != APPROVED

    # --- what tasks stand on -----------------------------------------------------------------------------------------

    async def granted(self, start: StartTask) -> Consent:
        """The consent under which a task is done; raises `RefusedError`: there is none that covers it."""
        if self._site.inbox.grant(start.experiment, start.manifest_sha256) is None:
            await self._store.recover(start.experiment, start.manifest_sha256)
        return self.covering(start)

    def covering(self, start: StartTask) -> Consent:
        """As `granted`, by what is known here at this moment."""
        consent = self._site.inbox.grant(start.experiment, start.manifest_sha256)
        if consent is None:
            raise RefusedError("no_consent", "this clinic has not consented to this manifest")
        if start.round > consent.rounds:
            raise RefusedError("no_consent", f"this clinic consented to {consent.rounds} rounds, not to more")
        return consent

    async def manifest(self, start: StartTask) -> Manifest:
        """The manifest that the task names, out of the inbox or else the journal; raises `RefusedError`."""
        known = self._site.inbox.manifest(start.manifest_sha256)
        if known is not None:
            return known
        found = await self._store.manifest_in_journal(start.experiment)
        if found is None or found.sha256 != start.manifest_sha256:
            raise RefusedError("no_manifest", "the manifest that the task names is not that of the experiment")
        await self._site.write(self._site.inbox.keep_manifest, found)
        return found

    # --- deciding ----------------------------------------------------------------------------------------------------

    async def _decide(self, offer: OfferExperiment) -> None:
        try:
            permission = await judge_offer(self._site, offer)
        except RefusedError as refusal:
            if refusal.code == STOPPED:
                return
            consent = self._consent(offer, "declined", refusal.code, refusal.rule, refusal.reason, None)
        else:
            consent = self._decided(offer, permission)
        await self._site.log("offer", **about_consent(consent, offer))
        await self._site.write(self._site.inbox.keep_consent, consent)

    def _decided(self, offer: OfferExperiment, permission: Permission) -> Consent:
        decision = permission.decision
        given = self._site.inbox.grant(offer.experiment, offer.manifest_sha256)
        no = self._no_of_a_person(offer)
        if no is not None and (given is None or given.rounds < offer.rounds):
            # Not pending, as a person has decided: the hub need not wait, and who approves later joins later.
            return self._consent(offer, "declined", no.code, decision.rule, NO_STANDS, permission.trainer)
        if decision.verdict == "ask" and given is not None and given.code == APPROVED and offer.rounds <= given.rounds:
            # A person said so of this manifest and of so many rounds.
            return self._consent(offer, "granted", APPROVED, decision.rule, "", permission.trainer)
        verdict: Verdict = "granted" if decision.verdict == "allow" else "pending"
        return self._consent(offer, verdict, decision.code, decision.rule, decision.reason, permission.trainer)

    def _no_of_a_person(self, offer: OfferExperiment) -> Consent | None:
        """The consent by which a person withdrew or refused, unless one approved since.

        What was said of the offer's own manifest counts, and else what was said of the experiment last.
        """
        consents = sorted(self._site.inbox.consents_of(offer.experiment), key=lambda each: (each.at, each.number))
        said = [each for each in consents if each.code in SAID_BY_PEOPLE]
        own = [each for each in said if each.manifest_sha256 == offer.manifest_sha256]
        last = next(reversed(own or said), None)
        return None if last is None or last.code == APPROVED else last

    def _consent(
        self,
        offer: OfferExperiment,
        verdict: Verdict,
        code: str,
        rule: str | None,
        reason: str,
        trainer: Trainer | None,
    ) -> Consent:
        return Consent(
            experiment=offer.experiment,
            site=self._site.name,
            manifest_sha256=offer.manifest_sha256,
            number=self._site.inbox.next_number(offer.experiment, offer.manifest_sha256),
            offer=offer.offer,
            verdict=verdict,
            rounds=offer.rounds,
            code=code,
            rule=rule,
            reason=reason,
            trainer=trainer,
            at=self._site.clock(),
        )

    def _taken_back(self, consent: Consent, reason: str) -> Consent:
        following = consent.model_dump() | {
            "number": self._site.inbox.next_number(consent.experiment, consent.manifest_sha256),
            "verdict": "withdrawn",
            "code": WITHDRAWN,
            "reason": reason,
            "at": self._site.clock(),
        }
        return Consent.model_validate(following)
