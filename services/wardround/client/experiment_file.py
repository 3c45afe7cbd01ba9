"""An experiment file as a researcher writes it, turned into the manifest that travels."""

import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from wardround.client.cli.errors import CommandError
from wardround.client.models import GlobalModel, Which, read_which
from wardround.runtime.durations import seconds_of
from wardround.runtime.store.transfer import file_digest
from wardround.runtime.toml_file import LARGEST, bounded_toml, override
from wardround_messages.manifest import Manifest
from wardround_messages.names import EXPERIMENT_MAX, is_id

SCHEMA = 1
DURATIONS = (("cohort", "enrol"), ("rounds", "deadline"), ("rounds", "grace"))
SHARE = 'must be a number of sites, a percentage as "66%", or "all"'

ForkFinder = Callable[[str, Which], GlobalModel]
"""Finds a global model of another experiment; raises `CommandError`."""


def no_forks(experiment: str, which: Which) -> GlobalModel:
    raise CommandError(f"model {which} of '{experiment}' cannot be looked up here")


@dataclass(frozen=True, slots=True)
class ExperimentFile:
    """What a file says: the manifest, and the file of the model that the researcher brings, if there is one."""

    manifest: Manifest
    brought: Path | None


def load_experiment(
    path: Path,
    *,
    id: str | None = None,  # noqa: A002 - the option's name
    overrides: Iterable[str] = (),
    sites: tuple[str, ...] | None = None,
    find_fork: ForkFinder = no_forks,
) -> Manifest:
    """The manifest of an experiment file; `-` reads standard input.

    Args:
        overrides: `key=value` each, the key dotted as in the file, the value as TOML writes it.
        sites: the cohort in place of the file's.

    Raises:
        CommandError: one line that names the file, the field and what is valid there.
    """
    return read_experiment(path, id=id, overrides=overrides, sites=sites, find_fork=find_fork).manifest


def read_experiment(
    path: Path,
    *,
    id: str | None = None,  # noqa: A002
    overrides: Iterable[str] = (),
    sites: tuple[str, ...] | None = None,
    find_fork: ForkFinder = no_forks,
    begin_with: str | None = None,
) -> ExperimentFile:
    """The same with the model that is brought; a model's file is looked for beside the experiment's.

    Args:
        begin_with: the first model in place of the file's: `EXPERIMENT@ROUND`, `EXPERIMENT@last` or `EXPERIMENT@best`.
    """
    table = _read(path)
    for setting in overrides:
        _override(table, setting)
    if id is not None:
        table["id"] = id
    if sites is not None:
        cohort = table.setdefault("cohort", {})
        if not isinstance(cohort, dict):
            raise CommandError(f"{_shown(path)}: cohort: must be a table")
        cohort["sites"] = list(sites)
    model = table.get("model")
    initial = model.get("initial") if isinstance(model, dict) else None
    try:
        manifest = _manifest(table, path, find_fork, begin_with)
    except _FieldError as error:
        raise CommandError(f"{_shown(path)}: {error}") from None
    brought = manifest.model.initial.kind == "brought"
    return ExperimentFile(manifest, _model_file(path, str(initial)) if brought else None)


class _FieldError(Exception):
    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}" if field else problem)


def _shown(path: Path) -> str:
    return "standard input" if str(path) == "-" else str(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        if str(path) == "-":
            data = sys.stdin.buffer.read(LARGEST + 1)
        else:
            with path.open("rb") as file:
                data = file.read(LARGEST + 1)
    except IsADirectoryError:
        raise CommandError(f"{path} is a folder; name the experiment file") from None
    except (OSError, ValueError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or "it is closed"
        raise CommandError(f"{_shown(path)} cannot be read: {reason}") from None
    try:
        return bounded_toml(data)
    except ValueError as error:
        raise CommandError(f"{_shown(path)} is not TOML: {error}") from None


def _override(table: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    try:
        if not equals:
            raise ValueError("no equals sign")
        override(table, key, text)
    except ValueError as error:
        why = f": {error}" if "is not a table" in str(error) else ""
        raise CommandError(
            f"--set {setting}: must be key=value, such as training.parameters.learning_rate=0.0003{why}"
        ) from None


def _manifest(table: dict[str, Any], path: Path, find_fork: ForkFinder, begin_with: str | None) -> Manifest:
    if type(schema := table.pop("schema", None)) is not int or schema != SCHEMA:
        raise _FieldError("schema", f"must be {SCHEMA}, the only one that this version reads")
    table.setdefault("study", table.get("id"))
    table.setdefault("purpose", "")
    for section, name in DURATIONS:
        values = table.get(section)
        if isinstance(values, dict) and name in values:
            values[name] = _seconds(f"{section}.{name}", values[name])
    model = table.get("model") if begin_with is None else table.setdefault("model", {})
    if isinstance(model, dict) and begin_with is not None:
        model["initial"] = _begin_with(begin_with, table.get("id"), find_fork)
    elif isinstance(model, dict) and "initial" in model:
        model["initial"] = _initial(model["initial"], table.get("id"), path, find_fork)
    try:
        manifest = Manifest.model_validate(_frozen(table))
    except RecursionError:
        raise _FieldError("", "it is nested too deeply") from None
    except ValidationError as error:
        raise _told(error) from None
    test = manifest.evaluation.test
    if test is not None and test.dataset == manifest.training.dataset:
        raise _FieldError(
            "evaluation.test.dataset", "must be another data set than training.dataset, or it is trained on"
        )
    return manifest


def _seconds(field: str, value: object) -> int:
    try:
        return seconds_of(value)
    except ValueError as error:
        raise _FieldError(field, str(error)) from None


def _begin_with(text: str, id_: object, find_fork: ForkFinder) -> dict[str, object]:
    experiment, _, which = text.partition("@")
    wanted = read_which(which)
    if wanted is None or not is_id(experiment, EXPERIMENT_MAX):
        raise CommandError(f"--from {text}: must be EXPERIMENT@ROUND, such as brain-tumour@7, or @last or @best")
    return _forked("--from", experiment, wanted, id_, find_fork)


def _initial(value: object, id_: object, path: Path, find_fork: ForkFinder) -> dict[str, object]:
    if value == "trainer":
        return {"kind": "trainer"}
    if isinstance(value, str) and value.startswith("file:"):
        size, sha256 = file_digest(_model_file(path, value))
        return {"kind": "brought", "size": size, "sha256": sha256}
    forked = re.fullmatch(r"experiment:([a-z0-9-]+)@([0-9]{1,6})", value, re.ASCII) if isinstance(value, str) else None
    if forked is None or not is_id(forked[1], EXPERIMENT_MAX):
        raise _FieldError("model.initial", 'must be "trainer", "file:model.safetensors" or "experiment:brain-tumour@7"')
    return _forked("model.initial", forked[1], int(forked[2]), id_, find_fork)


def _forked(said: str, experiment: str, which: Which, id_: object, find_fork: ForkFinder) -> dict[str, object]:
    if experiment == id_:
        raise CommandError(
            f"{said}: '{experiment}' cannot begin with a model of its own; give the new one another --id"
        )
    try:
        model = find_fork(experiment, which)
    except CommandError as error:
        raise CommandError(f"{said}: {error}", error.code) from None
    return {
        "kind": "forked",
        "experiment": experiment,
        "round": model.round,
        "size": model.size,
        "sha256": model.sha256,
    }


def _model_file(path: Path, initial: str) -> Path:
    file = path.parent / initial.removeprefix("file:")
    if not file.is_file():
        raise _FieldError("model.initial", f"there is no file {file}")
    return file


def _frozen(value: Any) -> Any:
    """Lists as tuples: the manifest is strict and frozen."""
    if isinstance(value, dict):
        return {key: _frozen(item) for key, item in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _told(error: ValidationError) -> _FieldError:
    """The first fault as a person reads it: the field as the file spells it, and what is valid there."""
    first = error.errors(include_url=False)[0]
    loc, kind = [str(part) for part in first["loc"]], first["type"]
    if loc[:2] in (["cohort", "quorum"], ["cohort", "sample"]):
        return _FieldError(".".join(loc[:2]), SHARE)
    if loc[:2] == ["training", "parameters"] and len(loc) > 2:
        return _FieldError(".".join(loc[:3]), "must be a finite number, true, false, text, or a list of these")
    field = ".".join(loc)
    if kind == "extra_forbidden":
        return _FieldError(field, f"is not known here; valid keys are {', '.join(_keys(loc[:-1]))}")
    if kind == "missing":
        return _FieldError(field, "is missing")
    if kind == "string_pattern_mismatch" and loc[-1] in ("id", "study", "trainer", "dataset", "site"):
        return _FieldError(field, "must be lower-case letters and digits, with single dashes between them")
    if kind == "value_error":
        return _FieldError("", first["msg"].removeprefix("Value error, "))
    return _FieldError(field, first["msg"][:1].lower() + first["msg"][1:])


def _keys(loc: list[str]) -> list[str]:
    """The valid keys of the table at `loc`, as an experiment file spells them."""
    model: type[BaseModel] = Manifest
    for part in loc:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        for candidate in (annotation, *get_args(annotation)):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                model = candidate
    return ["schema" if name == "v" else name for name in model.model_fields]
