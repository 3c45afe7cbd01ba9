"""A whole federation in one process: the same services as everywhere, on embedded adapters."""
