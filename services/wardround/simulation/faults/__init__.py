"""A federation of the real services under every fault that a seed draws, on a clock that jumps: one seed, one run."""
