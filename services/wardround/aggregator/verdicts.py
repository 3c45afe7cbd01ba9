"""What the tallies of a pass say: who may not take part, what to warn of, how far the members pull, and where to."""

import math
import sys
from collections.abc import Sequence

from wardround.aggregator.arithmetic import HUGE, Tally, norm
from wardround.aggregator.faults import Fault


def fault_in(tally: Tally, norm_at_most: float | None) -> Fault | None:
    """Why the member may not take part. `norm_at_most` bounds the L2 norm of its change, None where nothing does."""
    if tally.fault is not None or norm_at_most is None:
        return tally.fault
    if norm(tally.squares) > norm_at_most:
        return Fault("norm", f"its change has the norm {norm(tally.squares):.4g}, {norm_at_most:g} is allowed")
    if tally.huge is not None:
        return Fault("norm", f"tensor {tally.huge} holds values of {HUGE:g} and more")
    return None


def warning_in(tally: Tally, *, has_base: bool) -> Fault | None:
    """What is odd about a member that takes part all the same."""
    if tally.huge is not None:
        return Fault("huge", f"tensor {tally.huge} holds values of {HUGE:g} and more")
    if not tally.nonzero:
        return Fault("zeros", "the update is zero throughout")
    if has_base and not tally.changed:
        return Fault("unchanged", "the update equals the model it was built on")
    return None


def drift(merged_squares: float, members: Sequence[Tally], shares: Sequence[float]) -> float | None:
    """The norm of the merged change divided by the members' weighted mean norm; None where nothing changed."""
    mean = sum(share * norm(tally.squares) for share, tally in zip(shares, members, strict=True))
    if not 0 < mean < math.inf:
        return None
    return min(norm(merged_squares) / mean, sys.float_info.max)
