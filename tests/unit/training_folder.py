"""A task's folder as the agent would fill it, and trainers installed as a clinic would install them."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from wardround.training.datasets import breast_cancer, counting
from wardround.training.registry import installed_trainer
from wardround_messages.base import canonical_json
from wardround_messages.codec import parse
from wardround_messages.names import Task
from wardround_messages.task_folder import FOLDER_AT_MOST, JOB, MODEL, RESULT, UPDATE, Job, JobData, TaskResult

SITES = ("clinic-1", "clinic-2", "clinic-3")


def fill(folder: Path, task: Task, data: Path | tuple[Path, ...], *, model: bytes | None = None, **job: Any) -> Path:
    """`folder` with a `job.json` of the trainer `adding`, unless `job` says otherwise, and the model."""
    folder.mkdir(parents=True)
    folders = data if isinstance(data, tuple) else (data,)
    salt = job.pop("split_salt", "a salt")
    defaults: dict[str, Any] = {
        "experiment": "trial",
        "round": 1,
        "task": task,
        "site": "clinic-1",
        "attempt": 1,
        "trainer": "adding",
        "parameters": {},
        "seed": 7,
        "epochs": 1,
        "optimizer_state": "reset",
        "deterministic": True,
        "data": JobData(name="data", folders=tuple(map(str, folders)), split_salt=salt),
        "model_sha256": None if model is None else hashlib.sha256(model).hexdigest(),
    }
    (folder / JOB).write_bytes(canonical_json(Job(**defaults | job)))
    if model is not None:
        (folder / MODEL).write_bytes(model)
    return folder


def result_of(folder: Path) -> TaskResult:
    return parse(TaskResult, (folder / RESULT).read_bytes(), at_most=FOLDER_AT_MOST)


def update_of(folder: Path) -> Mapping[str, Any]:
    return load_file(folder / UPDATE)


def counting_data(out: Path) -> dict[str, dict[str, Path]]:
    return counting.write(out, SITES, 0)


def breast_cancer_data(out: Path) -> dict[str, dict[str, Path]]:
    return breast_cancer.write(out, SITES, 7)


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, **trainers: str) -> None:
    """Have a package in `folder` offer trainers by entry points, until the test is over."""
    lines = "\n".join(f"{name.replace('_', '-')} = {value}" for name, value in trainers.items())
    name = f"trial_{len(list(folder.glob('*.dist-info')))}"
    info = folder / f"{name}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[wardround.trainers]\n{lines}\n")
    monkeypatch.syspath_prepend(str(folder))
    installed_trainer.cache_clear()
