"""How often a clinic tells how far something is: the longer it takes, the more seldom."""

AT_LEAST_EVERY = 60.0  # seconds


def pause(elapsed: float, *, at_first: float, per: int) -> float:
    """Seconds until the next report of what has taken `elapsed` seconds: that divided by `per`, within bounds."""
    return min(AT_LEAST_EVERY, max(at_first, elapsed / per))
