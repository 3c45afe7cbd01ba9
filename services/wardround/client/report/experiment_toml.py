"""The experiment as a file that starts it again: the manifest written as a researcher writes it."""

from typing import Any

from wardround.client.experiment_file import DURATIONS, SCHEMA
from wardround.runtime.durations import UNITS
from wardround.runtime.toml_text import key_text, toml_document, value_text
from wardround_messages.manifest import Brought, Forked, FromTrainer, Manifest
from wardround_messages.names import brought_model_key


def experiment_toml(manifest: Manifest) -> str:
    """The manifest as TOML, which reads back as the same manifest.

    A model that was brought is named by its digest: the file itself is the researcher's.
    """
    table: dict[str, Any] = {"schema": SCHEMA, **manifest.model_dump(exclude={"v"})}
    if manifest.mode == "train":
        del table["mode"]
    parameters = table["training"].pop("parameters")
    for section, name in DURATIONS:
        table[section][name] = _duration(table[section][name])
    table["model"]["initial"] = _initial(manifest.model.initial)
    lines = [f"{key_text(name)} = {value_text(value)}" for name, value in parameters.items()]
    block = "\n".join(["\n[training.parameters]", *lines, ""]) if lines else ""
    return toml_document(_without_none(table)) + block


def again_text(manifest: Manifest) -> str:
    """What the file needs to start the same experiment again."""
    match manifest.model.initial:
        case Brought(sha256=sha256):
            return (
                "It starts the same experiment again once model.initial names the file of the model that was brought, "
                f"SHA-256 {sha256}."
            )
        case Forked(experiment=experiment, round=number):
            return (
                f"It starts the same experiment again where the hub still holds {experiment}'s model of round {number}."
            )
        case FromTrainer():
            return "It starts the same experiment again."


def _duration(seconds: int) -> str:
    """In the largest unit that divides it."""
    unit, length = next(
        (unit, length) for unit, length in reversed(UNITS.items()) if seconds % length == 0 and (seconds or length == 1)
    )
    return f"{seconds // length}{unit}"


def _initial(initial: FromTrainer | Brought | Forked) -> str:
    match initial:
        case Brought():
            return f"file:{brought_model_key(initial.sha256)}"
        case Forked():
            return f"experiment:{initial.experiment}@{initial.round}"
        case FromTrainer():
            return "trainer"


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value
