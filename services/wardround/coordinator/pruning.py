"""Deletes what the journal says is pruned. Doing it again is harmless, so nobody remembers whether it was done."""

from collections.abc import Iterable

from wardround.coordinator.state import State
from wardround.runtime.store.port import ObjectStore
from wardround_messages.names import (
    GLOBAL_PREFIX,
    UPDATES_PREFIX,
    GlobalKey,
    UpdateKey,
    bucket_of,
    parse_key,
    updates_prefix,
)


async def delete_pruned(store: ObjectStore, state: State, *, since: int | None) -> None:
    """Delete updates of the rounds after `since` (None: of all rounds) and the models that are pruned.

    Raises:
        StoreUnavailableError: try again.
    """
    bucket, to = bucket_of(state.manifest.id), state.updates_pruned_to
    prefixes = [UPDATES_PREFIX] if since is None else [updates_prefix(round_) for round_ in range(since + 1, to + 1)]
    for prefix in prefixes:
        await _delete(store, bucket, prefix, range(to + 1))
    gone = [round_ for round_, model in enumerate(state.models) if model is None]
    if gone:
        await _delete(store, bucket, GLOBAL_PREFIX, gone)


async def _delete(store: ObjectStore, bucket: str, prefix: str, rounds: Iterable[int]) -> None:
    pruned = set(rounds)
    for info in await store.list(bucket, prefix):
        key = parse_key(info.key)
        if isinstance(key, UpdateKey | GlobalKey) and key.round in pruned:
            await store.delete(bucket, info.key)
