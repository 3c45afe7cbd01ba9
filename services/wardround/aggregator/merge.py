"""One pass over the members of a step: every byte read once, checked, and merged into a file."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from wardround.aggregator.arithmetic import SliceMerge, Tally, Workbench
from wardround.aggregator.faults import Fault, FaultyModelError
from wardround.aggregator.hashing import Hashing
from wardround.aggregator.layout import Layout
from wardround.aggregator.read_ahead import AT_LEAST, ReadAhead, depth
from wardround.aggregator.slices import slices
from wardround.aggregator.sources import Source
from wardround.aggregator.strategies import Strategy
from wardround.runtime.store.blocking import SMALL, run
from wardround_messages.parts import ObjectRef


class Reading:
    """A model during one pass: what was read of it so far, in the order of its bytes."""

    def __init__(self, ref: ObjectRef, source: Source) -> None:
        self.source = source
        self.hasher = source.hasher()
        self.tally = Tally()
        self._sha256 = ref.sha256

    def lost(self, fault: Fault) -> None:
        """Its bytes ended too soon: nothing read of it counts, and there is no digest to compare."""
        self.tally.fault = fault
        self.hasher = None

    def check_digest(self) -> None:
        """To be called after the last slice. Other bytes than were announced explain every other fault."""
        if self.hasher is not None and self.hasher.hexdigest() != self._sha256:
            self.tally.fault = Fault("digest", "the bytes are not those that were announced")


@dataclass(frozen=True, slots=True)
class Merged:
    """The model that a pass wrote; `squares` sums its change as `Tally.squares` does. What it is worth, the tallies of
    the members tell."""

    size: int
    sha256: str
    squares: float


async def merge(
    layout: Layout,
    base: Reading | None,
    members: Sequence[Reading],
    shares: Sequence[float],
    strategy: Strategy,
    *,
    to: Path,
    slice_size: int,
) -> Merged:
    """Merge the members, in the order given, into the file `to`; what is wrong with one goes into its tally.

    Memory: a few slices as float64, whatever the size of the models and the number of members.

    Raises:
        FaultyModelError: the model built on is not what it should be; OSError: the file cannot be written.
    """
    pieces = tuple(slices(layout.tensors, slice_size))
    read = [reading for reading in (base, *members) if reading is not None]
    size = pieces[-1].end if pieces else 0
    bench = Workbench(max((piece.elements for piece in pieces), default=0))
    merged, digest = Tally(), hashlib.sha256(layout.header)
    with to.open("wb") as file, Hashing(in_place=size <= SMALL) as hashing:
        file.write(layout.header)
        reads = (partial(reading.source.read, piece) for piece in pieces for reading in read)
        async with ReadAhead(reads, ahead=depth(size, AT_LEAST * slice_size)) as ahead:
            for piece in pieces:
                in_place = piece.end - piece.begin <= SMALL
                base_data = None
                if base is not None:
                    base_data = await ahead.next()
                    await hashing.feed(base.hasher, base_data)
                work = SliceMerge(piece, strategy, bench, base=base_data)
                for member, share in zip(members, shares, strict=True):
                    try:
                        data = await ahead.next()
                    except FaultyModelError as error:
                        member.lost(error.fault)
                        continue
                    await hashing.feed(member.hasher, data)
                    await run(in_place, work.add, data, share, member.tally)
                out = bytearray(piece.end - piece.begin)
                await run(in_place, work.finish, out, merged)
                await hashing.feed(digest, out)
                await run(in_place, file.write, out)
        await hashing.done()
    for reading in read:
        reading.check_digest()
    if base is not None and base.tally.fault is not None:
        raise FaultyModelError(base.tally.fault.code, base.tally.fault.detail)
    return Merged(len(layout.header) + size, digest.hexdigest(), merged.squares)
