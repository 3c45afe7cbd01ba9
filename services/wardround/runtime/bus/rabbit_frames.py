"""A reader of AMQP frames that no sender can break.

RabbitMQ carries the properties of a message as bytes that it does not look into. pamqp, which reads them here, raises
for text that is not UTF-8, for a date out of range and for tables in tables in tables, and aiormq then drops the
connection: one login could cut off whoever reads a queue or a stream that it writes to, at the same message for ever.
Here such a message arrives without properties instead, so also without a sender, and becomes a dead letter.
"""

import structlog
from pamqp import commands, decode, header

log = structlog.get_logger()

# The time that reading a table takes grows with the square of its size: 32 KiB take milliseconds.
LONGEST_HEADER = 32 * 1024
FIXED = 12  # bytes of a content header before its properties


def lenient_text(value: bytes) -> tuple[int, str]:
    """AMQP's short string: the number of bytes read, and the text with what is no UTF-8 replaced."""
    length = value[0] if value else 0
    return length + 1, value[1 : length + 1].decode("utf-8", "replace")


_strict_header = header.ContentHeader.unmarshal


def _lenient_header(self: header.ContentHeader, data: bytes) -> None:
    try:
        if len(data) > LONGEST_HEADER:
            raise ValueError("the properties are too long")
        _strict_header(self, data)
    except Exception as error:
        self.properties = commands.Basic.Properties()
        _strict_header(self, data[:FIXED] + b"\x00\x00")  # the flags of no property
        log.warning("security", event_kind="unreadable_properties", error=type(error).__name__)


def survive_any_sender() -> None:
    """From here on, in this process. Doing it again changes nothing."""
    decode.METHODS["shortstr"] = lenient_text
    header.ContentHeader.unmarshal = _lenient_header  # type: ignore[method-assign]
