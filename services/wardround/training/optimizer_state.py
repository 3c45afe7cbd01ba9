"""What an optimizer remembers between rounds: forgotten, kept at the site, or averaged with the model."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wardround.training.errors import TaskError
from wardround.training.job import TrainingJob
from wardround.training.tensors import OPTIMIZER, Array, Weights, check_finite, read_tensors, write_tensors
from wardround_messages.names import Task
from wardround_messages.task_folder import Job

_NAME = re.compile(r"optimizer-r(\d{6})\.safetensors")


def split_optimizer(tensors: Mapping[str, Array]) -> tuple[Weights, Weights]:
    """The model's own tensors, and those that an optimizer left with it."""
    model = {name: value for name, value in tensors.items() if not name.startswith(OPTIMIZER)}
    return model, {name: value for name, value in tensors.items() if name.startswith(OPTIMIZER)}


def state_before(job: Job, received: Weights, carry: Path | None) -> Weights:
    """What the trainer's optimizer starts from; `received` came with the model, `carry` is kept between rounds.

    Raises:
        TaskError: `carry_missing`, `carry_unreadable`.
    """
    match job.optimizer_state:
        case "average":
            return {name.removeprefix(OPTIMIZER): value.copy() for name, value in received.items()}
        case "keep" if job.task is Task.TRAIN:
            return load_state(_needed(carry), job.round)
        case _:
            return {}


def state_after(job: Job, given: TrainingJob[Any], received: Weights) -> Weights:
    """What goes with the update: the optimizer's state where it is averaged, else whatever came with the model.

    Raises:
        TaskError: `optimizer_state_unsupported`, `nonfinite_update`, `carry_missing`.
    """
    if job.optimizer_state == "reset":
        return received
    if not given.keeps_optimizer_state:
        hint = f"this trainer cannot {job.optimizer_state} its optimizer's state; use reset"
        raise TaskError("optimizer_state_unsupported", hint)
    state = given.state_to_keep()
    check_finite(state)
    if job.optimizer_state == "average":
        return {f"{OPTIMIZER}{name}": value for name, value in state.items()}
    save_state(_needed(given.carry), job.round, state)
    return received


def _needed(carry: Path | None) -> Path:
    if carry is None:
        raise TaskError("carry_missing", "the job names no folder to keep the optimizer's state in")
    return carry


def load_state(carry: Path, round_: int) -> Weights:
    """What the newest round before this one left; empty where none did.

    By round, so that a training that is done again starts from what it started from before.

    Raises:
        TaskError: `carry_unreadable`.
    """
    before = [path for number, path in _states(carry) if number < round_]
    if not before:
        return {}
    try:
        return read_tensors(before[-1])
    except TaskError as error:
        hint = "the optimizer state kept from the last round cannot be read; delete it to start afresh"
        raise TaskError("carry_unreadable", hint) from error


def save_state(carry: Path, round_: int, state: Weights) -> None:
    """Keep the state of this round, and that of the last one in case this round is done again."""
    carry.mkdir(parents=True, exist_ok=True)
    write_tensors(carry / f"optimizer-r{round_:06d}.safetensors", state)
    before = [path for number, path in _states(carry) if number < round_]
    for path in before[:-1]:
        path.unlink(missing_ok=True)


def _states(carry: Path) -> list[tuple[int, Path]]:
    matches = ((_NAME.fullmatch(path.name), path) for path in carry.glob("optimizer-r*.safetensors"))
    return sorted((int(match[1]), path) for match, path in matches if match is not None)
