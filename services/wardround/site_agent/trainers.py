"""What trainers the clinic has installed, as they describe themselves, and whether parameters suit one."""

import asyncio
import math
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError, best_match
from pydantic import TypeAdapter
from pydantic import ValidationError as NotADescriptionError
from referencing import Registry
from referencing.exceptions import Unresolvable

from wardround_messages.codec import what_is_wrong
from wardround_messages.parts import TrainerDescription

Catalogue = Callable[[], Awaitable[tuple[TrainerDescription, ...]]]

OUTPUT_AT_MOST = 4 * 2**20
TEXT_AT_MOST = 400

_DESCRIPTIONS = TypeAdapter(tuple[TrainerDescription, ...])


class TrainersError(Exception):
    """The interpreter that the trainers are installed in does not list them."""


class InstalledTrainers:
    """A `Catalogue` that asks an interpreter, and asks again after `fresh_for` seconds or a `refresh`."""

    def __init__(self, python: str | Path, *, timeout: float, fresh_for: float) -> None:
        self._python = str(python)
        self._timeout = timeout
        self._fresh_for = fresh_for
        self._known: tuple[TrainerDescription, ...] = ()
        self._ask_again_at = -math.inf
        self._asking = asyncio.Lock()

    async def __call__(self) -> tuple[TrainerDescription, ...]:
        """Raises `TrainersError`."""
        async with self._asking:
            now = asyncio.get_running_loop().time()
            if now >= self._ask_again_at:
                self._known = await _ask(self._python, self._timeout)
                self._ask_again_at = now + self._fresh_for
            return self._known

    def refresh(self) -> None:
        """Ask again next time: trainers may have been installed since."""
        self._ask_again_at = -math.inf


def describe_with(
    python: str | Path = sys.executable, *, timeout: float = 120, fresh_for: float = 600
) -> InstalledTrainers:
    """The trainers installed in that interpreter, as its `wardround.training describe` lists them.

    `timeout` and `fresh_for` are seconds.
    """
    return InstalledTrainers(python, timeout=timeout, fresh_for=fresh_for)


async def _ask(python: str, timeout: float) -> tuple[TrainerDescription, ...]:
    command = (python, "-P", "-m", "wardround.training", "describe")
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, start_new_session=True
        )
    except OSError as error:
        raise TrainersError(f"{python} cannot be started: {error.strerror}") from None
    try:
        async with asyncio.timeout(timeout):
            output, errors = await asyncio.gather(_read(process.stdout), _read(process.stderr))
            status = await process.wait()
    except TimeoutError:
        raise TrainersError(f"{' '.join(command)}: no answer within {timeout:g} s") from None
    finally:
        await _end(process)
    if status != 0:
        last = errors.decode(errors="replace").strip().rpartition("\n")[2]
        raise TrainersError(f"{' '.join(command)}: exit code {status}: {last}"[:TEXT_AT_MOST])
    if len(output) > OUTPUT_AT_MOST:
        raise TrainersError(f"{' '.join(command)}: says more than {OUTPUT_AT_MOST} bytes")
    try:
        return _DESCRIPTIONS.validate_json(output)
    except NotADescriptionError as error:
        raise TrainersError(f"{' '.join(command)}: {what_is_wrong(error)}") from None


async def _read(pipe: asyncio.StreamReader | None) -> bytes:
    """What is said until the end; of more than `OUTPUT_AT_MOST` bytes only the beginning, a little over that."""
    read = bytearray()
    while pipe is not None and (chunk := await pipe.read(65536)):
        if len(read) <= OUTPUT_AT_MOST:
            read += chunk
    return bytes(read)


async def _end(process: Process) -> None:
    """Leave nothing behind of a process that led a session of its own."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.communicate()


def check_parameters(description: TrainerDescription, parameters: Mapping[str, object]) -> str | None:
    """One line that names the first parameter that does not suit the trainer and what is valid; None if all do.

    The trainer's schema is JSON Schema, Draft 2020-12; it may refer to nothing outside itself.
    """
    schema = description.parameters_schema
    given = {name: list(value) if isinstance(value, tuple) else value for name, value in parameters.items()}
    for name, value in given.items():
        if not all(_finite(each) for each in (value if isinstance(value, list) else [value])):
            return f"{name}: must be a finite number"
    try:
        Draft202012Validator.check_schema(schema)
        wrong = best_match(Draft202012Validator(schema, registry=Registry()).iter_errors(given))
    except (SchemaError, Unresolvable):
        return f"trainer '{description.name}' describes its parameters by a broken schema; its author must mend it"
    return None if wrong is None else _in_words(wrong, given, schema)[:TEXT_AT_MOST]


def _finite(value: object) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _in_words(wrong: ValidationError, given: Mapping[str, object], schema: Mapping[str, object]) -> str:
    field = ".".join(str(part) for part in wrong.absolute_path)
    known = schema.get("properties", {})
    if wrong.validator == "additionalProperties" and not field and isinstance(known, dict):
        unknown = min(given.keys() - known.keys())
        return f"{unknown}: unknown parameter; valid are {', '.join(known) or 'none'}"
    valid = known.get(field) if isinstance(known, dict) else None
    bounds = _bounds(valid) if isinstance(valid, dict) else ""
    return f"{field or 'parameters'}: {wrong.message}{bounds}"


def _bounds(valid: Mapping[str, object]) -> str:
    said = {name: value for name, value in valid.items() if name not in ("title", "description", "default")}
    return f" (valid: {', '.join(f'{name} {value}' for name, value in said.items())})" if said else ""
