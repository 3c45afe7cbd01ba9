"""Deletes what the journal says is pruned. Doing it again is harmless, so nobody remembers whether it was done."""

from wardround.coordinator.state import State
from wardround.runtime.store.port import ObjectStore
from wardround_messages.names import GLOBAL_PREFIX, UPDATES_PREFIX, GlobalKey, UpdateKey, bucket_of, parse_key


async def delete_pruned(store: ObjectStore, state: State) -> None:
    """Raises `StoreUnavailableError`."""
    bucket = bucket_of(state.manifest.id)
    gone = {round_ for round_, model in enumerate(state.models) if model is None}
    for info in await store.list(bucket, UPDATES_PREFIX):
        key = parse_key(info.key)
        if isinstance(key, UpdateKey) and key.round <= state.updates_pruned_to:
            await store.delete(bucket, info.key)
    if not gone:
        return
    for info in await store.list(bucket, GLOBAL_PREFIX):
        key = parse_key(info.key)
        if isinstance(key, GlobalKey) and key.round in gone:
            await store.delete(bucket, info.key)
