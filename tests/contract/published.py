"""The published contract as it lies in the repository: examples, schemas, the AsyncAPI document."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from wardround_messages.journal import JournalEntry
from wardround_messages.registry import MESSAGES
from wardround_messages.schemas import OBJECTS

ROOT = Path(__file__).parents[2]
CONTRACT = ROOT / "messages"
EXAMPLES = CONTRACT / "examples" / "v1"
CHAINS = ("brain-tumour", "brain-tumour-lr3")

_OBJECTS: dict[str, type[BaseModel]] = {model.__name__: model for model in OBJECTS}


@dataclass(frozen=True)
class Example:
    """`type` is the CloudEvents type of a message, None for an object."""

    name: str
    model: type[BaseModel]
    body: bytes
    type: str | None = None


def messages() -> list[Example]:
    """`messages/<type>[.<variant>].json`"""
    return [
        Example(path.stem, MESSAGES[type_of(path)], path.read_bytes(), type_of(path))
        for path in sorted((EXAMPLES / "messages").glob("*.json"))
    ]


def type_of(path: Path) -> str:
    return ".".join(path.name.split(".")[:5])


def objects() -> list[Example]:
    """`objects/<model>[.<variant>].json`"""
    return [
        Example(path.stem, _OBJECTS[path.name.split(".")[0]], path.read_bytes())
        for path in sorted((EXAMPLES / "objects").glob("*.json"))
    ]


def journal(experiment: str) -> list[Example]:
    """`journal/<experiment>/<number>.json`, in order."""
    return [
        Example(f"{experiment}-{path.stem}", JournalEntry, path.read_bytes())
        for path in sorted((EXAMPLES / "journal" / experiment).glob("*.json"))
    ]


def examples() -> list[Example]:
    return [*messages(), *objects(), *(entry for experiment in CHAINS for entry in journal(experiment))]
