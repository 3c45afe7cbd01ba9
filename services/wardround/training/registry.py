"""The trainers and data sets installed here, found by entry point and named by the digest of their code."""

import hashlib
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from wardround.training.errors import TaskError
from wardround.training.trainer import Trainer
from wardround_messages import parts

TRAINERS = "wardround.trainers"
DATASETS = "wardround.datasets"
DataSetWriter = Callable[[Path, Sequence[str], int], Mapping[str, Mapping[str, Path]]]

_SHIPPED = ("wardround", "training", "trainers")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class InstalledTrainer:
    type: type[Trainer[Any, Any]]
    description: parts.TrainerDescription

    @property
    def identity(self) -> parts.Trainer:
        return parts.Trainer(
            name=self.description.name, version=self.description.version, code_sha256=self.description.code_sha256
        )


class _NeedsMoreError(TaskError):
    """The trainer itself is sound, but it lacks modules that it needs."""


def describe() -> tuple[parts.TrainerDescription, ...]:
    """Every trainer installed here, sorted by name. One that cannot be loaded is logged and left out."""
    found = []
    for name in trainer_names():
        try:
            found.append(installed_trainer(name).description)
        except _NeedsMoreError as error:  # that not everything optional is installed is as it should be
            logger.info("%s", error.hint)
        except TaskError as error:
            logger.warning("%s", error, exc_info=error.__cause__)
    return tuple(found)


def trainer_names() -> list[str]:
    """Every trainer installed here, also one that cannot be loaded."""
    return sorted(entry_points(group=TRAINERS).names)


@cache
def installed_trainer(name: str) -> InstalledTrainer:
    """The trainer of that name.

    Raises:
        TaskError: `trainer_unknown`, or `trainer_broken` where it is installed but cannot be used.
    """
    entry = _entry_point(TRAINERS, name)
    if entry is None:
        raise TaskError("trainer_unknown", f"no trainer '{name}' is installed here")
    try:
        loaded = entry.load()
        if not (isinstance(loaded, type) and issubclass(loaded, Trainer)):
            raise TypeError(f"{entry.value} is not a Trainer")
        description = parts.TrainerDescription(
            name=name,
            version=entry.dist.version if entry.dist is not None else "0",
            code_sha256=code_digest(loaded.__module__),
            parameters_schema=loaded.parameters_type().model_json_schema(),
            metrics=dict(loaded.metrics),
        )
    except Exception as error:  # a trainer is somebody else's code: whatever it raises must not hide the others
        raise TaskError("trainer_broken", f"trainer '{name}' is installed here but cannot be loaded") from error
    if missing := _not_installed(loaded.needs):
        hint = f"trainer '{name}' needs {' and '.join(missing)}, not installed here"
        raise _NeedsMoreError("trainer_broken", hint) from ModuleNotFoundError(f"No module named '{missing[0]}'")
    return InstalledTrainer(loaded, description)


def _not_installed(modules: Sequence[str]) -> list[str]:
    """Asked of the top-level packages, since to look for a module in one imports it."""
    packages = dict.fromkeys(module.partition(".")[0] for module in modules)
    return [package for package in packages if find_spec(package) is None]


def dataset_writer(name: str) -> DataSetWriter | None:
    """The function that writes the example data set of that name, or None."""
    entry = _entry_point(DATASETS, name)
    return None if entry is None else entry.load()


def _entry_point(group: str, name: str) -> EntryPoint | None:
    found = entry_points(group=group, name=name)
    if len(found) > 1:  # which of them runs must be no accident
        raise TaskError("trainer_broken", f"'{name}' is offered by more than one installed package")
    return next(iter(found), None)


def code_digest(module: str) -> str:
    """SHA-256 over the source of a trainer: its top-level package, or its file where it is no package of its own.

    Wardround's own trainers count by their file, or by the package that they are in `wardround.training.trainers`; the
    version covers the rest.
    """
    file = Path(sys.modules[module].__file__ or "")
    package = _own_package(module)
    sources = sorted(package.rglob("*.py")) if package is not None else [file]
    hasher = hashlib.sha256()
    for source in sources:
        content = source.read_bytes()
        name = source.relative_to(package or file.parent).as_posix()
        hasher.update(f"{len(name.encode())} {name} {len(content)}\n".encode() + content)
    return hasher.hexdigest()


def _own_package(module: str) -> Path | None:
    names = module.split(".")
    first = len(_SHIPPED) + 1 if names[0] == "wardround" else 1
    for depth in range(first, len(names) + 1):
        parent = sys.modules[".".join(names[:depth])]
        if hasattr(parent, "__path__") and parent.__file__ is not None:  # a namespace package has no file
            return Path(parent.__file__).parent
    return None
