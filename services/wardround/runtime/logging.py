"""Structured logs: one line an event, JSON for machines or plain for people; nothing in them that is not text."""

import logging
import re
import sys
from typing import Any, Literal

import structlog

SECRET = re.compile(r"password|passwd|secret|token|credential|private|api_?key|store_key|salt", re.IGNORECASE)
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
LONGEST = 2000
LONGEST_TRACEBACK = 20_000
TRACEBACK = "exception"  # where structlog puts it
MASK = "***"
CONCEALED_FROM = 6  # characters: masking shorter ones would eat ordinary words

_concealed: set[str] = set()


def conceal(value: str) -> None:
    """From here on this secret is masked wherever it turns up in a log."""
    if len(value) >= CONCEALED_FROM:
        _concealed.add(value)


def forget(value: str) -> None:
    """This secret is worth nothing any more: it was replaced, and no log need be searched for it."""
    _concealed.discard(value)


def configure_logging(*, style: Literal["json", "console"] = "console", level: str = "info") -> None:
    """Log to standard error from here on.

    Tracebacks carry no local variables: these may hold what must not be written down.
    """
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if style == "json"
        else structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,  # before the masking: a traceback ends with the error's own words
            without_secrets,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def without_secrets(_: Any, __: str, event: Any) -> Any:
    """Values under a key that names a secret are masked, and so is every secret that was read, wherever it stands;
    control characters are escaped, long text is cut."""
    return {key: MASK if SECRET.search(key) else _safe(value, lines=key == TRACEBACK) for key, value in event.items()}


def _safe(value: Any, *, lines: bool) -> Any:
    match value:
        case bool() | int() | float() | None:
            return value
        case str():
            text = value
        case _:
            text = repr(value)
    for secret in tuple(_concealed):  # another thread may add one meanwhile
        text = text.replace(secret, MASK)
    if lines:
        return "\n".join(printable(line[:LONGEST]) for line in text[-LONGEST_TRACEBACK:].split("\n"))
    return printable(text[:LONGEST])


def printable(text: str) -> str:
    """The text with whatever could steer a terminal written out."""
    return UNPRINTABLE.sub(lambda match: ascii(match[0])[1:-1], text)
