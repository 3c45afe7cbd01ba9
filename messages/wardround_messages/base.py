"""What every model of the contract stands on: strictness, bounds, canonical JSON, digests."""

import hashlib
import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

# No control characters, no line or direction overrides: such text is shown to people and written into logs.
TEXT = r"^[^\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]*$"

Text = Annotated[str, Field(max_length=400, pattern=TEXT)]
Code = Annotated[str, Field(max_length=40, pattern=r"^[a-z][a-z0-9]*(?:_[a-z0-9]+)*$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=2**53)]
Seconds = Annotated[float, Field(ge=0, le=1e9)]
MetricName = Annotated[
    str, Field(max_length=64, pattern=r"^[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?(?:/[A-Za-z0-9._-]+)*$")
]
MetricValues = Annotated[dict[MetricName, float | None], Field(max_length=64)]


class Model(BaseModel):
    """Frozen, strict, closed and finite: what does not fit is refused, never coerced or dropped."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False, ser_json_inf_nan="strings")


def canonical_json(model: BaseModel, *, leave_out: set[str] | None = None) -> bytes:
    """UTF-8 JSON with sorted keys, no white space, floats in Python's shortest form: the bytes a digest is taken of."""
    return canonical_bytes(model.model_dump(mode="json", exclude=leave_out))


def canonical_bytes(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(data: bytes) -> str:
    """SHA-256 as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()
