"""CloudEvents 1.0 in binary mode as AMQP headers: the RabbitMQ binding of the official SDKs."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from wardround_messages.base import TEXT, Model, Timestamp
from wardround_messages.codec import MalformedError, what_is_wrong
from wardround_messages.messages import TypeName

PREFIX = "ce-"

Attribute = Annotated[str, Field(min_length=1, max_length=200, pattern=TEXT)]


class Envelope(Model):
    """The attributes of one event. `id` is kept over retries: the same id means the same body."""

    specversion: Literal["1.0"] = "1.0"
    id: Attribute
    source: Annotated[str, Field(max_length=120, pattern=r"^urn:wardround:[a-z-]+:[a-z0-9-]+$")]
    type: TypeName
    subject: Attribute
    time: Timestamp
    causationid: Attribute | None = None
    traceparent: Annotated[str, Field(pattern=r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")] | None = None

    def headers(self) -> dict[str, str]:
        return {f"{PREFIX}{name}": value for name, value in self.model_dump(mode="json", exclude_none=True).items()}


_ATTRIBUTES = frozenset(Envelope.model_fields)


def read_headers(headers: Mapping[str, object]) -> Envelope:
    """The envelope in AMQP headers; others are ignored, the broker adds its own.

    Raises:
        MalformedError: `envelope`, when an attribute is missing or out of bounds.
    """
    attributes = {name.removeprefix(PREFIX): value for name, value in headers.items() if name.startswith(PREFIX)}
    known = {name: value for name, value in attributes.items() if name in _ATTRIBUTES}
    if "specversion" not in known:
        raise MalformedError("envelope", "no CloudEvents headers")
    for name, value in known.items():
        if not isinstance(value, str):
            raise MalformedError("envelope", f"{name} is not text")
    try:
        return Envelope.model_validate_strings(known)
    except ValidationError as error:
        raise MalformedError("envelope", what_is_wrong(error)) from None
