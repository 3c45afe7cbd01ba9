"""What a bucket, key or prefix may look like: checked by every adapter before it becomes a path or a request."""

import re

from wardround.runtime.store.port import InvalidKeyError
from wardround_messages.names import ID

BUCKET_MAX = 63
KEY_MAX = 200

_BUCKET = re.compile(ID, re.ASCII)
_PART = r"(?!\.{1,2}(?:/|\Z))[a-z0-9._-]+"
_KEY = re.compile(rf"{_PART}(?:/{_PART})*", re.ASCII)
_START_OF_PART = re.compile(r"[a-z0-9._-]*", re.ASCII)


def is_bucket(bucket: str) -> bool:
    return 3 <= len(bucket) <= BUCKET_MAX and _BUCKET.fullmatch(bucket) is not None


def is_key(key: str) -> bool:
    return len(key) <= KEY_MAX and _KEY.fullmatch(key) is not None


def check_bucket(bucket: str) -> None:
    if not is_bucket(bucket):
        raise InvalidKeyError(f"{_shown(bucket)} cannot be a bucket: 3 to {BUCKET_MAX} of a-z, 0-9 and single dashes")


def check_key(key: str) -> None:
    if not is_key(key):
        raise InvalidKeyError(
            f"{_shown(key)} cannot be a key: at most {KEY_MAX} of a-z, 0-9, '.', '_', '-', "
            "in parts between '/' that are not empty, '.' or '..'"
        )


def check_prefix(prefix: str) -> str:
    """The folder that all keys with this prefix lie in, without a slash at its end; empty for the whole bucket."""
    folder, slash, start = prefix.rpartition("/")
    if len(prefix) > KEY_MAX or (slash and not is_key(folder)) or not _START_OF_PART.fullmatch(start):
        raise InvalidKeyError(f"{_shown(prefix)} cannot begin a key")
    return folder


def check_range(offset: int, length: int | None) -> None:
    if offset < 0 or (length is not None and length < 0):
        raise ValueError(f"offset {offset} and length {length} must not be negative")


def _shown(name: str) -> str:
    return ascii(name if len(name) <= 80 else f"{name[:80]}...")
