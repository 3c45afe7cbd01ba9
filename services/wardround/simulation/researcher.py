"""What a researcher does: publish StartExperiment, follow the stream, and see how it ended."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wardround.runtime.bus.memory import MemoryBus
from wardround.runtime.bus.messaging import Messenger, open_delivery
from wardround.runtime.bus.port import Delivery
from wardround.runtime.journal import ENTRY_AT_MOST, JournalBrokenError
from wardround.runtime.store.port import NotFoundError, ObjectStore
from wardround.runtime.store.transfer import read_model
from wardround.simulation.federation import Federation
from wardround.simulation.sites import RESEARCHER
from wardround_messages import journal as facts
from wardround_messages.codec import MalformedError
from wardround_messages.commands import ResumeExperiment, StartExperiment
from wardround_messages.events import EntryRecorded, ExperimentRefused
from wardround_messages.journal import JournalEntry
from wardround_messages.manifest import Brought, Forked, Manifest
from wardround_messages.messages import Message
from wardround_messages.names import (
    HUB,
    METRICS_STREAM,
    MODELS_BUCKET,
    GlobalKey,
    JournalKey,
    brought_model_key,
    bucket_of,
)

FROM_COORDINATOR = "evt.coordinator."

Ended = Literal["finished", "failed", "aborted", "paused", "enrolling", "refused"]


@dataclass(frozen=True, slots=True)
class Ending:
    """How an experiment stands when there is nothing more to wait for; `code` and `reason` say why."""

    state: Ended
    code: str = ""
    reason: str = ""


async def carry_through(federation: Federation, manifest: Manifest, *, brought: Path | None = None) -> Ending:
    """Start the experiment, or go on with it, until it has ended or only a person can help it on."""
    if brought is not None:
        await _bring(federation, manifest, brought)
    going_on = bucket_of(manifest.id) in await federation.store.buckets()
    of_another = going_on and await _is_of_another(federation.store, manifest)
    bus = MemoryBus(federation.broker, RESEARCHER)
    try:
        messenger = Messenger(bus, service="client", origin=HUB, clock=federation.clock)
        watch = _Watch(messenger, manifest, going_on, of_another)
        return await federation.until(watch.carry_through(lambda: federation.broken(manifest.id)))
    finally:
        await bus.close()


async def _is_of_another(store: ObjectStore, manifest: Manifest) -> bool:
    """Whether the journal of that id is another experiment's: what it says must not be taken for this one's end."""
    try:
        first = await read_model(store, bucket_of(manifest.id), str(JournalKey(0)), JournalEntry, at_most=ENTRY_AT_MOST)
    except (NotFoundError, MalformedError):
        return False
    return isinstance(first.body, facts.ExperimentAccepted) and first.body.manifest_sha256 != manifest.sha256


async def _bring(federation: Federation, manifest: Manifest, model: Path) -> None:
    """Put the first model where the coordinator looks for it."""
    match manifest.model.initial:
        case Brought(sha256=sha256):
            bucket, key = MODELS_BUCKET, brought_model_key(sha256)
        case Forked(experiment=experiment, round=round_, sha256=sha256):
            bucket, key = bucket_of(experiment), str(GlobalKey(round_, sha256[:16]))
        case _:
            return
    await federation.store.make_bucket(bucket)
    await federation.store.put(bucket, key, model)


class _Watch:
    def __init__(self, messenger: Messenger, manifest: Manifest, going_on: bool, of_another: bool) -> None:
        self._messenger = messenger
        self._of_another = of_another
        self._manifest = manifest
        self._may_resume = going_on
        self._consents: dict[str, facts.SiteConsented] = {}
        self._ending: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()

    async def carry_through(self, broken: Callable[[], JournalBrokenError | None]) -> Ending:
        subscription = await self._messenger.bus.subscribe(
            METRICS_STREAM, self._on_delivery, dead_key=self._messenger.dead_key, prefetch=1, offset="next"
        )
        try:
            await self._messenger.send(StartExperiment(manifest=self._manifest))
            while not self._ending.done():
                await asyncio.wait({self._ending}, timeout=1)
                if (error := broken()) is not None:
                    return Ending("failed", "journal_broken", str(error))
            return self._ending.result()
        finally:
            await subscription.close()

    async def _on_delivery(self, delivery: Delivery) -> None:
        if delivery.packet.routing_key.startswith(FROM_COORDINATOR) and not self._ending.done():
            await self._on_message(open_delivery(delivery).message)

    async def _on_message(self, message: Message) -> None:
        if getattr(message, "experiment", None) != self._manifest.id:
            return
        match message:
            case ExperimentRefused():
                self._ending.set_result(Ending("refused", message.code, message.reason))
            case EntryRecorded() if self._of_another:
                return
            case EntryRecorded(body=facts.ExperimentPaused()) if self._may_resume:
                self._may_resume = False
                await self._messenger.send(ResumeExperiment(experiment=self._manifest.id))
            case EntryRecorded(body=body) if body is not None:
                ending = self._ending_of(body)
                if ending is not None:
                    self._ending.set_result(ending)

    def _ending_of(self, body: facts.Fact) -> Ending | None:
        match body:
            case facts.ExperimentFinished():
                return Ending("finished")
            case facts.ExperimentFailed():
                return Ending("failed", body.code, body.reason)
            case facts.ExperimentAborted():
                return Ending("aborted", reason=body.reason)
            case facts.ExperimentPaused():
                return Ending("paused", body.code, "; ".join([body.reason, *self._declined()]))
            case facts.SiteConsented():
                self._consents[body.site] = body
                return self._waiting_for_a_person()
        return None

    def _declined(self) -> list[str]:
        """Why clinics declined, each reason once."""
        reasons: dict[str, list[str]] = {}
        for site, consent in sorted(self._consents.items()):
            if consent.verdict == "declined":
                reasons.setdefault(consent.reason or consent.code, []).append(site)
        return [f"{', '.join(sites)}: {reason}" for reason, sites in reasons.items()]

    def _waiting_for_a_person(self) -> Ending | None:
        """Every site has answered and some want a person to decide: in a simulation nobody does."""
        pending = sorted(site for site, consent in self._consents.items() if consent.verdict == "pending")
        if not pending or len(self._consents) < len(self._manifest.cohort.sites):
            return None
        return Ending("enrolling", "pending", f"a person must decide at {', '.join(pending)}")
