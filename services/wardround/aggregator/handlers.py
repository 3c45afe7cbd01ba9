"""Carrying out `AggregateStep`."""

import asyncio
import tempfile
from pathlib import Path

import structlog

from wardround.aggregator.combine import Combined, combine
from wardround.aggregator.faults import SECURITY, Fault
from wardround.aggregator.sources import Place
from wardround.aggregator.step import ClosedStep, read_step
from wardround.runtime.bus.messaging import Received
from wardround.runtime.bus.port import DeadLetterError
from wardround.runtime.patience import patiently
from wardround.runtime.store.port import NotFoundError, ObjectStore
from wardround.runtime.store.transfer import create_or_compare
from wardround_messages.base import canonical_json
from wardround_messages.commands import AggregateStep
from wardround_messages.names import GlobalKey, ResultKey, bucket_of
from wardround_messages.objects import Result
from wardround_messages.parts import LeftOut, ObjectRef

log = structlog.get_logger()

WORK = "merge-"


class Aggregation:
    """Carries out one command after the other; says nothing on the bus, for the result's object is the answer."""

    def __init__(self, store: ObjectStore, *, workdir: Path, slice_size: int) -> None:
        self._store = store
        self._workdir = workdir
        self._slice_size = slice_size

    async def on_message(self, received: Received) -> None:
        """Raises `DeadLetterError` for another message, or as `aggregate` does."""
        if not isinstance(received.message, AggregateStep):
            raise DeadLetterError("not_mine", f"{received.message.type} is no command to the aggregator")
        await self.aggregate(received.message)

    async def aggregate(self, command: AggregateStep) -> None:
        """Merge the step and store first the model, then the result; nothing, where there is a result already.

        Doing it twice, or in two processes at once, ends with the same two objects. While the store is away or a disk
        is full, it waits.

        Raises:
            DeadLetterError: the journal does not say what the command says, or the model built on is broken.
        """
        step = await self._unless_done(command)
        if step is None:
            log.info("aggregated_before", experiment=command.experiment, closing=command.closing)
            return
        result = await patiently(lambda: self._merge(step))
        key = str(ResultKey(command.closing))
        bucket, data = bucket_of(command.experiment), canonical_json(result)
        ours = await patiently(lambda: create_or_compare(self._store, bucket, key, data))
        if not ours:
            log.warning("another_result_counts", experiment=command.experiment, key=key)

    async def _unless_done(self, command: AggregateStep) -> ClosedStep | None:
        """The step, read while it is looked whether there is a result; None where there is one."""
        done, step = await asyncio.gather(
            self._has_result(command), read_step(self._store, command), return_exceptions=True
        )
        if isinstance(done, BaseException):
            raise done
        if done:
            return None
        if isinstance(step, BaseException):
            raise step
        return step

    async def _has_result(self, command: AggregateStep) -> bool:
        try:
            await patiently(lambda: self._store.head(bucket_of(command.experiment), str(ResultKey(command.closing))))
        except NotFoundError:
            return False
        return True

    async def _merge(self, step: ClosedStep) -> Result:
        """The step's result, its model already in the store. Nothing is left in the work folder."""
        command = step.command
        bucket = bucket_of(command.experiment)
        with tempfile.TemporaryDirectory(prefix=WORK, dir=self._workdir) as folder:
            place, file = Place(self._store, bucket, Path(folder)), Path(folder, "model.safetensors")
            combined = await combine(place, step, to=file, slice_size=self._slice_size)
            result = _result(command, combined)
            if result.model is not None:
                model_key = result.model.key
                await patiently(lambda: self._store.put(bucket, model_key, file))
        _say(command, combined)
        return result


def _result(command: AggregateStep, combined: Combined) -> Result:
    merged = combined.merged
    model = None
    if merged is not None:
        key = str(GlobalKey(command.round, merged.sha256[:16]))
        model = ObjectRef(key=key, size=merged.size, sha256=merged.sha256)
    return Result(
        experiment=command.experiment,
        round=command.round,
        task=command.task,
        closing=command.closing,
        closing_sha256=command.closing_sha256,
        model=model,
        used=combined.used,
        left_out=_by_site(combined.left_out),
        norms=combined.norms,
        drift=combined.drift,
        warnings=_by_site(combined.warnings),
    )


def _by_site(faults: dict[str, Fault]) -> tuple[LeftOut, ...]:
    return tuple(fault.of(site) for site, fault in sorted(faults.items()))


def _say(command: AggregateStep, combined: Combined) -> None:
    for site, fault in combined.left_out.items():
        known = {"experiment": command.experiment, "round": command.round, "site": site, "detail": fault.detail}
        if fault.code in SECURITY:
            log.warning("security", event_kind=f"update_{fault.code}", **known)
        else:
            log.warning("left_out", code=fault.code, **known)
    log.info(
        "aggregated",
        experiment=command.experiment,
        round=command.round,
        used=len(combined.used),
        left_out=len(combined.left_out),
        model=None if combined.merged is None else combined.merged.sha256,
    )
