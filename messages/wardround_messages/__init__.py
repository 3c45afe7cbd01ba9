"""The published contract of Wardround: every message, object, name and queue, on pydantic alone.

A site-agent in another language needs nothing but what stands here; `docs/wire-format.md` says the same in prose.
"""
