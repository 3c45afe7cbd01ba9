"""Bytes to messages and objects and back: bounded, strict, with a code for whatever is wrong."""

import json
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from wardround_messages.base import canonical_json
from wardround_messages.messages import Message
from wardround_messages.registry import MESSAGES

MESSAGE_AT_MOST = 64 * 1024
CONTENT_TYPE = "application/json"
# No object of the contract has more; thousands of unknown keys would cost more to refuse than all else.
KEYS_AT_MOST = 1000
FAULTS_NAMED = 100

M = TypeVar("M", bound=BaseModel)


class MalformedError(ValueError):
    """Bytes that are not what they claim to be. `code` is one of a fixed set, `detail` is safe to show."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


def encode(message: Message) -> bytes:
    """The body of a message, at most 64 KiB; raises `MalformedError("too_large")`."""
    body = canonical_json(message)
    if len(body) > MESSAGE_AT_MOST:
        raise MalformedError("too_large", f"{message.type} has {len(body)} bytes, {MESSAGE_AT_MOST} are allowed")
    return body


def decode(type_: str, body: bytes, *, content_type: str | None, content_encoding: str | None = None) -> Message:
    """The message of that type. Raises `MalformedError` with the code that its dead letter will bear."""
    if len(body) > MESSAGE_AT_MOST:
        raise MalformedError("too_large", f"{len(body)} bytes, {MESSAGE_AT_MOST} are allowed")
    if content_type != CONTENT_TYPE or content_encoding not in (None, "", "identity"):
        raise MalformedError("content_type", f"only {CONTENT_TYPE} without an encoding is read")
    model = MESSAGES.get(type_)
    if model is None:
        raise MalformedError("unknown_type", "no such message type in this version")
    message = parse(model, body, at_most=MESSAGE_AT_MOST)
    if message.type != type_:
        raise MalformedError("unknown_type", "the body is of another type than the headers say")
    return message


def parse(model: type[M], body: bytes, *, at_most: int) -> M:
    """A strict object from JSON bytes: UTF-8 without BOM, no key twice, no NaN, nothing extra.

    Raises:
        MalformedError: with the code `too_large`, `not_utf8`, `not_json`, `duplicate_key` or `invalid`.
    """
    if len(body) > at_most:
        raise MalformedError("too_large", f"{len(body)} bytes, {at_most} are allowed")
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise MalformedError("not_utf8", f"byte {error.start} is not UTF-8") from None
    try:
        _STRICT.decode(text)
    except MalformedError:
        raise
    except RecursionError:
        raise MalformedError("not_json", "nested too deeply") from None
    except ValueError as error:
        raise MalformedError("not_json", str(error)[:200]) from None
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise MalformedError("invalid", what_is_wrong(error)) from None


def what_is_wrong(error: ValidationError) -> str:
    """The first fault, named by its field, without the value that was sent."""
    count = error.error_count()
    if count > FAULTS_NAMED:
        return f"body: {count} faults"
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    where = ".".join(_printable(part) for part in first["loc"]) or "body"
    what = "no such kind" if first["type"] == "union_tag_invalid" else first["msg"].removeprefix("Value error, ")
    more = f" (and {count - 1} more)" if count > 1 else ""
    return f"{where}: {what}{more}"[:400]


def _printable(part: int | str) -> str:
    """A step of a path; a key may be whatever the sender chose."""
    return str(part)[:64].encode("unicode_escape").decode()


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > KEYS_AT_MOST:
        raise MalformedError("invalid", f"an object has {len(pairs)} keys, {KEYS_AT_MOST} are allowed")
    found = dict(pairs)
    if len(found) != len(pairs):
        raise MalformedError("duplicate_key", "a key stands twice in one object")
    return found


def _no_constant(name: str) -> NoReturn:
    raise MalformedError("not_json", f"{name} is not JSON")


_STRICT = json.JSONDecoder(object_pairs_hook=_no_key_twice, parse_constant=_no_constant)
