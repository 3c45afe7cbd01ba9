"""Lets an experiment in: its bucket, the model it starts from, announcements, and journal entry 0, in that order.

Killed anywhere, it is done again from the redelivered command; entry 0 is what makes the experiment exist.
"""

import tempfile
from pathlib import Path

from wardround.coordinator.commands import Refusal
from wardround.runtime.clock import Clock
from wardround.runtime.journal import Journal, JournalMovedError
from wardround.runtime.store.download import download
from wardround.runtime.store.port import NotFoundError, ObjectStore
from wardround.runtime.store.transfer import DigestMismatchError
from wardround_messages.commands import StartExperiment
from wardround_messages.journal import ExperimentAccepted
from wardround_messages.manifest import Brought, Forked, Manifest
from wardround_messages.names import (
    ANNOUNCED,
    MODELS_BUCKET,
    GlobalKey,
    brought_model_key,
    bucket_of,
)
from wardround_messages.parts import ObjectRef


async def admit(
    store: ObjectStore,
    command: StartExperiment,
    *,
    command_id: str,
    requested_by: str,
    known_sites: frozenset[str],
    writer: str,
    clock: Clock,
) -> Refusal | None:
    """Accept the experiment, or say why not. The same manifest again changes nothing.

    Raises:
        StoreUnavailableError: try again; JournalBrokenError: it exists, and its entry 0 is unreadable.
    """
    manifest = command.manifest
    unknown = sorted(set(manifest.cohort.sites) - known_sites)
    if unknown:
        known = ", ".join(sorted(known_sites)) or "none"
        return Refusal(
            "unknown_site", f"cohort.sites: '{unknown[0]}' is not a site of this hub; there are: {known}"[:400]
        )
    journal = Journal(store, manifest.id, writer=writer, clock=clock)
    existing = await journal.read_on()
    if not existing:
        await store.make_bucket(bucket_of(manifest.id))
        try:
            initial = await _bring_model(store, manifest)
        except (NotFoundError, DigestMismatchError):
            return Refusal("model_missing", "model.initial: the store does not hold the model with that digest")
        await store.announce(bucket_of(manifest.id), ANNOUNCED)
        accepted = ExperimentAccepted(
            manifest=manifest, manifest_sha256=manifest.sha256, requested_by=requested_by, initial=initial
        )
        try:
            await journal.append(journal.draft(accepted, cause=command_id))
        except JournalMovedError:
            existing = await journal.read_on()
        else:
            return None
    first = existing[0].entry.body
    if isinstance(first, ExperimentAccepted) and first.manifest_sha256 == manifest.sha256:
        return None
    return Refusal("exists", f"an experiment '{manifest.id}' with other content exists; choose another id")


async def _bring_model(store: ObjectStore, manifest: Manifest) -> ObjectRef | None:
    """Copy a brought or forked model to `global/r000000/`, its digest checked on the way."""
    match manifest.model.initial:
        case Brought(size=size, sha256=sha256):
            bucket, key = MODELS_BUCKET, brought_model_key(sha256)
        case Forked(experiment=experiment, round=round_, size=size, sha256=sha256):
            bucket, key = bucket_of(experiment), str(GlobalKey(round_, sha256[:16]))
        case _:
            return None
    ref = ObjectRef(key=str(GlobalKey(0, sha256[:16])), size=size, sha256=sha256)
    with tempfile.TemporaryDirectory(prefix="wardround-") as folder:
        copy = Path(folder) / "model.safetensors"
        await download(store, bucket, key, size=size, sha256=sha256, to=copy)
        await store.put(bucket_of(manifest.id), ref.key, copy)
    return ref
