"""The members of a step before anything is merged: what the journal claims of them, and their headers."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from wardround.aggregator.faults import FaultyModelError
from wardround.aggregator.layout import Layout, layout_of, misfit, model_tensors, optimizer_tensors, signature
from wardround.aggregator.sources import Opened, Place, Source, open_model, source_of
from wardround.aggregator.step import ClosedStep
from wardround.runtime.safetensors_header import Tensor
from wardround_messages.names import UpdateKey
from wardround_messages.parts import Member, ObjectRef


@dataclass(frozen=True, slots=True)
class Claim:
    """An update that the journal names, with its weight: 1 where no cases are counted."""

    site: str
    cases: int
    ref: ObjectRef


@dataclass(frozen=True, slots=True)
class Ready:
    """An update whose header is right, to be read in slices of `layout`."""

    claim: Claim
    layout: Layout
    source: Source


def claim_of(step: ClosedStep, member: Member) -> Claim:
    """Raises `FaultyModelError`: `unexpected` or `no_cases`."""
    update = member.update
    if update is None or update.key != str(UpdateKey(step.command.round, member.site, update.sha256[:16])):
        raise FaultyModelError("unexpected", "the journal names no update of this round and site")
    if member.site not in step.manifest.cohort.sites:
        raise FaultyModelError("unexpected", "the site is not of the cohort")
    if step.built_on is None or step.manifest.strategy.weight == "equal":
        return Claim(member.site, 1, update)
    if not member.cases:
        raise FaultyModelError("no_cases", "updates are weighed by their cases, and the answer counts none")
    return Claim(member.site, member.cases, update)


async def make_ready(place: Place, claim: Claim, target: Layout | None) -> Ready:
    """The update with its header read; where there is no target, it is taken in its own layout.

    Raises:
        FaultyModelError: as `open_model` and `source_of` do, or `layout`.
    """
    opened = await open_model(place, claim.ref)
    layout = target or opened.as_it_is
    wrong = misfit(opened.tensors, layout.tensors)
    if wrong is not None:
        raise FaultyModelError("layout", wrong)
    return Ready(claim, layout, await source_of(place, opened, layout))


async def target_layout(place: Place, base: Opened, claims: Sequence[Claim], *, with_optimizer: bool) -> Layout:
    """The tensors of the model built on; with those of the optimizer's state that most updates agree on, if asked."""
    model = model_tensors(base.tensors)
    optimizer = await _common_optimizer(place, model, claims) if with_optimizer else ()
    return layout_of([*model, *optimizer])


async def _common_optimizer(place: Place, model: Sequence[Tensor], claims: Sequence[Claim]) -> tuple[Tensor, ...]:
    votes: Counter[str] = Counter()
    first: dict[str, Claim] = {}
    for claim in claims:
        with suppress(FaultyModelError):  # which `make_ready` will meet again
            tensors = (await open_model(place, claim.ref)).tensors
            if misfit(model_tensors(tensors), model) is None:
                kind = signature(optimizer_tensors(tensors))
                votes[kind] += 1
                first.setdefault(kind, claim)
    # Not kept from above, so that a thousand headers never lie in memory together. A tie goes to the first site.
    for kind, _ in votes.most_common():
        with suppress(FaultyModelError):
            return optimizer_tensors((await open_model(place, first[kind].ref)).tensors)
    return ()
