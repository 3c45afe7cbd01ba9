"""Writing TOML that a person may read and change."""

import json
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time
from pathlib import Path


def toml_document(table: Mapping[str, object]) -> str:
    """The table as a file: what belongs to no table first, and a table of plain values on one line where it can be.

    Raises:
        TypeError: a value that TOML does not have.
    """
    blocks = ["\n".join(block) + "\n" for block in _blocks((), table) if block]
    return "\n".join(blocks)


def key_text(key: str) -> str:
    """A key, quoted where it must be."""
    return key if key.isascii() and key.replace("-", "").replace("_", "").isalnum() else value_text(key)


def value_text(value: object) -> str:
    """A value on one line. Raises `TypeError` for what TOML does not have."""
    match value:
        case float():
            return repr(value)
        case bool() | int() | str():
            # A JSON string is a TOML string, but for DEL, which TOML wants escaped.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case date() | datetime() | time():
            return value.isoformat()
        case dict():
            return f"{{ {', '.join(f'{key_text(key)} = {value_text(item)}' for key, item in value.items())} }}"
        case list() | tuple():
            return f"[{', '.join(map(value_text, value))}]"
        case Path():
            return value_text(str(value))
    raise TypeError(f"{type(value).__name__} has no place in a TOML file")


def _blocks(path: tuple[str, ...], table: Mapping[str, object]) -> Iterator[list[str]]:
    tables = {key: value for key, value in table.items() if _has_a_block(path, value)}
    lines = [f"{key_text(key)} = {value_text(value)}" for key, value in table.items() if key not in tables]
    if path and (lines or not tables):
        lines = [f"[{'.'.join(map(key_text, path))}]", *lines]
    yield lines
    for key, value in tables.items():
        assert isinstance(value, Mapping)  # noqa: S101 - `_has_a_block`
        yield from _blocks((*path, key), value)


def _has_a_block(path: tuple[str, ...], value: object) -> bool:
    return isinstance(value, Mapping) and (not path or any(isinstance(each, Mapping) for each in value.values()))
