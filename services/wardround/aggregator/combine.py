"""From the members of a closed step to one model, leaving out those that cannot be merged."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from wardround.aggregator.arithmetic import norm
from wardround.aggregator.faults import Fault, FaultyModelError
from wardround.aggregator.layout import Layout
from wardround.aggregator.members import Claim, Ready, claim_of, make_ready, target_layout
from wardround.aggregator.merge import Merged, Reading, merge
from wardround.aggregator.sources import Place, Source, open_model, source_of
from wardround.aggregator.step import ClosedStep
from wardround.aggregator.strategies import strategy_of
from wardround.aggregator.verdicts import drift, fault_in, warning_in
from wardround.runtime.bus.port import DeadLetterError
from wardround.runtime.together import together
from wardround_messages.parts import ObjectRef

AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Combined:
    """What became of a step's members, by site. `merged` is None when fewer than the quorum could be merged; `norms`
    and `drift` are those of `objects.Result`."""

    merged: Merged | None
    left_out: dict[str, Fault]
    used: tuple[str, ...] = ()
    norms: dict[str, float] = field(default_factory=dict)
    drift: float | None = None
    warnings: dict[str, Fault] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Base:
    """The model built on, and the layout of the one to be."""

    ref: ObjectRef
    source: Source
    target: Layout


async def combine(place: Place, step: ClosedStep, *, to: Path, slice_size: int) -> Combined:
    """Write the step's model into the file `to`. When a pass finds bad members, it is made again without them.

    Raises:
        DeadLetterError: `built_on`, when the model built on is not what the journal says; OSError: from the file.
    """
    strategy = strategy_of(step.command.task, step.manifest)
    bound = None if step.built_on is None else step.manifest.strategy.norm_at_most
    claims, left_out = _claims(step)
    base = await _open_base(place, step, claims)
    sound, unfit = await _make_ready(place, claims, None if base is None else base.target)
    left_out |= unfit
    while len(sites := strategy.pick(sorted(sound))) >= max(step.quorum, 1):
        picked = [sound[site] for site in sites]
        shares = strategy.shares([ready.claim.cases for ready in picked])
        readings = [Reading(ready.claim.ref, ready.source) for ready in picked]
        try:
            merged = await merge(
                picked[0].layout,
                None if base is None else Reading(base.ref, base.source),
                readings,
                shares,
                strategy,
                to=to,
                slice_size=slice_size,
            )
        except FaultyModelError as error:
            raise _broken_base(error) from None
        tallies = {site: reading.tally for site, reading in zip(sites, readings, strict=True)}
        faults = {site: fault for site, tally in tallies.items() if (fault := fault_in(tally, bound))}
        if not faults:
            warnings = {site: warning_in(tally, has_base=base is not None) for site, tally in tallies.items()}
            return Combined(
                merged,
                left_out,
                tuple(sites),
                {site: norm(tally.squares) for site, tally in tallies.items()} if base else {},
                drift(merged.squares, list(tallies.values()), shares) if base else None,
                {site: warning for site, warning in warnings.items() if warning},
            )
        left_out |= faults
        sound = {site: ready for site, ready in sound.items() if site not in faults}
    return Combined(None, left_out)


def _claims(step: ClosedStep) -> tuple[list[Claim], dict[str, Fault]]:
    claims, left_out = [], {}
    for member in step.members:
        try:
            claims.append(claim_of(step, member))
        except FaultyModelError as error:
            left_out[member.site] = error.fault
    return claims, left_out


async def _open_base(place: Place, step: ClosedStep, claims: list[Claim]) -> _Base | None:
    if step.built_on is None:
        return None
    average = step.manifest.training.optimizer_state == "average"
    try:
        opened = await open_model(place, step.built_on)
        target = await target_layout(place, opened, claims, with_optimizer=average)
        return _Base(step.built_on, await source_of(place, opened, target), target)
    except FaultyModelError as error:
        raise _broken_base(error) from None


async def _make_ready(
    place: Place, claims: list[Claim], target: Layout | None
) -> tuple[dict[str, Ready], dict[str, Fault]]:
    """The updates that can be merged, and what is wrong with the others, by site; a few are read at once."""
    room = asyncio.Semaphore(AT_ONCE)

    async def ready(claim: Claim) -> Ready | Fault:
        async with room:
            try:
                return await make_ready(place, claim, target)
            except FaultyModelError as error:
                return error.fault

    found = dict(zip((claim.site for claim in claims), await together(*map(ready, claims)), strict=True))
    return (
        {site: each for site, each in found.items() if isinstance(each, Ready)},
        {site: each for site, each in found.items() if isinstance(each, Fault)},
    )


def _broken_base(error: FaultyModelError) -> DeadLetterError:
    return DeadLetterError("built_on", f"the model built on cannot be read: {error}")
