"""What every model of the contract stands on: strictness, bounds, canonical JSON, digests."""

import hashlib
import json
import re
from collections.abc import Hashable
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationInfo,
    WithJsonSchema,
)

# No control characters, no line or direction overrides: such text is shown to people and written into logs.
TEXT = r"^[^\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]*$"

Text = Annotated[str, Field(max_length=400, pattern=TEXT)]
Code = Annotated[str, Field(max_length=40, pattern=r"^[a-z][a-z0-9]*(?:_[a-z0-9]+)*$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=2**53)]
Seconds = Annotated[float, Field(ge=0, le=1e9)]
_SEGMENT = "[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
MetricName = Annotated[str, Field(max_length=64, pattern=f"^{_SEGMENT}(?:/{_SEGMENT})*$")]
MetricValues = Annotated[dict[MetricName, float | None], Field(max_length=64)]
# Not Literal[1]: pydantic compares that by ==, which `true` and `1.0` pass.
V1 = Annotated[int, Field(ge=1, le=1), WithJsonSchema({"const": 1, "type": "integer"})]

RFC3339 = r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(?:\.\d{1,6})?(?:Z|[+-]\d{2}:\d{2})"
_RFC3339 = re.compile(RFC3339, re.ASCII)


def _read_time(value: Any, info: ValidationInfo) -> Any:
    # pydantic alone takes "1700000000" for seconds since 1970, and drops what is finer than a microsecond.
    if info.mode == "python":
        return value
    if not isinstance(value, str) or _RFC3339.fullmatch(value) is None:
        raise ValueError("a time looks like 2026-03-01T08:00:00Z, with at most six digits of a second's fraction")
    return datetime.fromisoformat(value)


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("a time before the year 1 or after the year 9999") from None


Timestamp = Annotated[
    AwareDatetime,
    BeforeValidator(_read_time),
    AfterValidator(_in_utc),
    Field(json_schema_extra={"pattern": f"^{RFC3339}$"}),
]

H = TypeVar("H", bound=Hashable)


def _nothing_twice(values: tuple[H, ...]) -> tuple[H, ...]:
    if len(set(values)) != len(values):
        raise ValueError("something stands twice")
    return values


NothingTwice = AfterValidator(_nothing_twice)
UNIQUE: dict[str, JsonValue] = {"uniqueItems": True}


class Model(BaseModel):
    """Frozen, strict, closed and finite: what does not fit is refused, never coerced or dropped."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False, ser_json_inf_nan="strings")


def canonical_json(model: BaseModel, *, leave_out: set[str] | None = None) -> bytes:
    """UTF-8 JSON with sorted keys, no white space, floats in Python's shortest form: the bytes a digest is taken of."""
    return canonical_bytes(model.model_dump(mode="json", exclude=leave_out))


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical_bytes(value: Any) -> bytes:
    return _CANONICAL.encode(value).encode()


def digest(data: bytes) -> str:
    """SHA-256 as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()
