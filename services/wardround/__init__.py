"""Wardround: federated learning for hospitals, driven by events."""

__version__ = "0.1.0"
