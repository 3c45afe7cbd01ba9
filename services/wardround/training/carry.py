"""Optimizer state that a site keeps between its rounds."""

import re
from pathlib import Path

from wardround.training.errors import TaskError
from wardround.training.tensors import Weights, read_tensors, write_tensors

_NAME = re.compile(r"optimizer-r(\d{6})\.safetensors")


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
