"""A person's TOML file as a strict model: whatever is wrong in it is told in one line with the file and the key."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, model_validator

SCHEMA = 1
LARGEST = 256 * 1024
DEEPEST = 32
_PART = r"""(?:[^\s"'=#\[\]{},.]+|"[^"\n]*"|'[^'\n]*')"""
_BARE = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
# Only where a part begins: else a long word would be looked through from each of its letters.
_TOO_DEEP = re.compile(rf"(?<![^\s\"'=#\[\]{{}},.])(?:{_PART}[ \t]*\.[ \t]*){{{DEEPEST}}}")


class SettingsError(ValueError):
    """A file that cannot be used as it stands: `file`, `key` (empty: the file as a whole) and what is wrong there."""

    def __init__(self, file: Path, key: str, problem: str) -> None:
        super().__init__(f"{file}: {key}: {problem}" if key else f"{file}: {problem}")
        self.file = file
        self.key = key
        self.problem = problem


def bounded_toml(data: bytes) -> dict[str, Any]:
    """The content of TOML that anybody may have written.

    Raises:
        ValueError: it is larger than 256 KiB, has keys of more than 32 parts (the parser takes memory by the square
            of these), is nested too deeply, or is not TOML.
    """
    if len(data) > LARGEST:
        raise ValueError(f"it is larger than {LARGEST} bytes")
    text = data.decode("utf-8-sig")
    if _TOO_DEEP.search(text):
        raise ValueError(f"a key in it has more than {DEEPEST} parts")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


class Table(BaseModel):
    """A table of such a file: frozen, nothing coerced, and an unknown key is told together with the known ones."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys_only(cls, data: Any) -> Any:
        if isinstance(data, dict) and (unknown := data.keys() - cls.model_fields.keys()):
            raise ValueError(f"unknown key '{min(unknown)}'; valid keys are {', '.join(cls.model_fields)}")
        return data

    def over(self, base: Self) -> Self:
        """`base` with the keys that stand in this table."""
        return base.model_copy(update={name: getattr(self, name) for name in self.model_fields_set})


T = TypeVar("T", bound=Table)


def load_toml(file: Path, model: type[T], *, overrides: Mapping[str, str] | None = None) -> T:
    """The file as `model`, its paths resolved against the file's folder (see `absolute`).

    `overrides` are keys, dotted as in the file, whose values, as TOML writes them, take the place of the file's.

    Raises:
        SettingsError: missing or unreadable, not TOML, another `schema` than 1, or something that does not fit.
    """
    data = read_toml(file)
    for key, text in (overrides or {}).items():
        try:
            override(data, key, text)
        except ValueError as error:
            raise SettingsError(file, key, str(error)) from None
    return as_table(file, data, model)


def environment_overrides(prefix: str, environ: Mapping[str, str]) -> dict[str, str]:
    """What the environment says in the file's place: with the prefix `WARDROUND_COORDINATOR__` the variable
    `WARDROUND_COORDINATOR__HTTP__PORT` stands for the key `http.port`."""
    return {
        name.removeprefix(prefix).lower().replace("__", "."): value
        for name, value in sorted(environ.items())
        if name.startswith(prefix)
    }


def override(table: dict[str, Any], key: str, text: str) -> None:
    """Set a key, dotted as in the file, to a value as TOML writes it; what is no TOML is taken as text.

    Raises:
        ValueError: no such key can be, or a part of it is no table.
    """
    parts = key.strip().split(".")
    if len(parts) > DEEPEST or not all(_BARE.fullmatch(part) for part in parts):
        raise ValueError(f"{key!r} cannot be a key")
    for part in parts[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ValueError(f"'{part}' is not a table")
    table[parts[-1]] = toml_value(text)


def toml_value(text: str) -> object:
    """The value as TOML writes it; what is no TOML is taken as text."""
    try:
        return bounded_toml(f"value = {text.strip()}".encode())["value"]
    except ValueError:
        return text.strip()


def read_toml(file: Path) -> dict[str, Any]:
    """Raises `SettingsError` where there is no file, or no TOML in it."""
    try:
        with file.open("rb") as opened:
            data = opened.read(LARGEST + 1)
    except OSError as error:
        raise SettingsError(file, "", f"cannot be read: {error.strerror}") from error
    return parse_toml(file, data)


def parse_toml(file: Path, data: bytes) -> dict[str, Any]:
    """The content of the file; raises `SettingsError` where it is no TOML."""
    try:
        return bounded_toml(data)
    except ValueError as error:
        raise SettingsError(file, "", f"is not TOML: {error}") from None


def as_table(file: Path, data: dict[str, Any], model: type[T]) -> T:
    """The content of the file as `model`; raises `SettingsError`."""
    schema = data.get("schema")
    if type(schema) is not int or schema != SCHEMA:
        raise SettingsError(file, "schema", f"must be {SCHEMA}, the only one that this version reads")
    try:
        return model.model_validate({k: v for k, v in data.items() if k != "schema"}, context=file.absolute().parent)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        key = _key(first["loc"], data, missing=first["type"] == "missing")
        problem = "is missing" if first["type"] == "missing" else first["msg"].removeprefix("Value error, ")
        raise SettingsError(file, key, problem) from None


def absolute(value: object, info: ValidationInfo) -> Path:
    """The path that a file names, resolved against the file's own folder; links stay as they are."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("must be a path")
    folder = info.context if isinstance(info.context, Path) else Path.cwd()
    return folder / value


def _key(loc: Sequence[str | int], data: Any, *, missing: bool) -> str:
    """The key as the file spells it: pydantic also names the branches of a union on the way."""
    key = ""
    for number, part in enumerate(loc, start=1):
        if isinstance(part, int) and isinstance(data, list) and part < len(data):
            key, data = f"{key}[{part + 1}]", data[part]
        elif isinstance(data, dict) and (part in data or (missing and number == len(loc))):
            key, data = f"{key}.{part}" if key else str(part), data.get(part)
    return key
