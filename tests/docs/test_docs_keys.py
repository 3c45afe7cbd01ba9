"""The guides' tables hold every key of an experiment file, of site.toml and of policy.toml, with its true default."""

import inspect
import re
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
from documents import ROOT, blocks
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from wardround.client.experiment_file import UNITS, load_experiment
from wardround.site_agent import policy, settings
from wardround.training.job import TrainingJob
from wardround_messages import manifest

DOCS = ROOT / "docs"
EXAMPLES = sorted((ROOT / "examples").glob("*.toml"))
Table = dict[str, list[str]]

EXPERIMENT: dict[str, list[type[BaseModel]]] = {
    "## The experiment file": [manifest.Manifest],
    "### `[cohort]`": [manifest.Cohort],
    "### `[rounds]`": [manifest.Rounds],
    "### `[model]`": [manifest.ModelPlan],
    "### `[strategy]`": [manifest.Strategy],
    "### `[training]`": [manifest.Training],
    "### `[evaluation]`": [manifest.Evaluation],
}
CLINIC: dict[str, list[type[BaseModel]]] = {
    "## `site.toml`": [settings.SiteSettings],
    "### `[hub]`": [settings.Hub],
    "### `[paths]`": [settings.Paths],
    "### `[scheduler]`": [settings.Airflow, settings.Local, settings.Inline],
    "### `[datasets.NAME]`": [settings.Dataset],
    "## `policy.toml`": [policy.PolicyFile],
    "### `[leave]`": [policy.Leave],
    "### `[[allow]]`": [policy.Rule],
}
SECTIONS = [("guide-researcher.md", heading, models) for heading, models in EXPERIMENT.items()] + [
    ("guide-clinic.md", heading, models) for heading, models in CLINIC.items()
]
# Keys that hold a table with a heading of its own.
HEADED: dict[type[BaseModel], set[str]] = {
    manifest.Manifest: {"cohort", "rounds", "model", "strategy", "training", "evaluation"},
    settings.SiteSettings: {"hub", "paths", "scheduler", "datasets"},
    policy.PolicyFile: {"leave", "allow"},
}
# Spelt otherwise in the file than in the model, or filled in by the reader of the file.
SPELT = {"v": "schema"}
BY_READER = {"study", "purpose", "schema", "initial"}
IN_WORDS = {"none": None, "no bound": None, "no salt": None, "the system's": None, "the agent's own": None, "empty": {}}
BOUNDS_OF_ALL = {"at_most", "at_least", "leave"}  # tables whose keys are all optional


def table(page: str, heading: str) -> Table:
    """The first table under the heading: key -> the other cells."""
    text = (DOCS / page).read_text()
    _, found, rest = text.partition(f"\n{heading}\n")
    assert found, f"{page} has no heading {heading}"
    lines = re.split(r"\n#", rest, maxsplit=1)[0].splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| `")]
    return {row[0].strip("`"): row[1:] for row in cells}


def keys(models: list[type[BaseModel]]) -> set[str]:
    """The keys that stand under the heading; `schema` is taken by the reader of the file."""
    names = {SPELT.get(name, name) for model in models for name in model.model_fields}
    headed = HEADED.get(models[0])
    return names if headed is None else names - headed | {"schema"}


@pytest.mark.parametrize(("page", "heading", "models"), SECTIONS, ids=[f"{page}: {it}" for page, it, _ in SECTIONS])
def test_every_key_has_a_row_and_every_row_is_a_key(page: str, heading: str, models: list[type[BaseModel]]) -> None:
    assert set(table(page, heading)) == keys(models)


@pytest.mark.parametrize(("page", "heading", "models"), SECTIONS, ids=[f"{page}: {it}" for page, it, _ in SECTIONS])
def test_defaults_are_those_of_the_code(page: str, heading: str, models: list[type[BaseModel]]) -> None:
    fields = {name: field for model in models for name, field in model.model_fields.items()}
    for key, cells in table(page, heading).items():
        if key in BY_READER or key in BOUNDS_OF_ALL:
            continue
        field = fields[key]
        default = field.get_default(call_default_factory=True)
        said = cells[-1].strip("`")
        if default is PydanticUndefined:
            assert said == "needed", key
        else:
            assert _meant(said, default) == default, key


def _meant(said: str, default: object) -> object:
    """The value that the cell stands for; durations and sizes in the units of the default."""
    if said in IN_WORDS:
        return IN_WORDS[said]
    value: Any = tomllib.loads(f"value = {said}")["value"]
    if isinstance(default, tuple):
        return tuple(value)
    if isinstance(default, int) and isinstance(value, str):
        if re.fullmatch(r"\d+[smhd]", value):
            return int(value[:-1]) * UNITS[value[-1]]
        return policy.parse_size(value)
    return value


@pytest.mark.parametrize(
    ("page", "heading", "key", "choices"),
    [
        ("guide-researcher.md", "### `[rounds]`", "on_missed", manifest.Rounds),
        ("guide-researcher.md", "### `[strategy]`", "name", manifest.Strategy),
        ("guide-researcher.md", "### `[strategy]`", "weight", manifest.Strategy),
        ("guide-researcher.md", "### `[training]`", "optimizer_state", manifest.Training),
        ("guide-researcher.md", "## The experiment file", "mode", manifest.Manifest),
        ("guide-clinic.md", "### `[leave]`", "errors", policy.Leave),
        ("guide-clinic.md", "### `[[allow]]`", "approval", policy.Rule),
    ],
)
def test_every_choice_is_named(page: str, heading: str, key: str, choices: type[BaseModel]) -> None:
    meaning = table(page, heading)[key][0]
    for choice in get_args(choices.model_fields[key].annotation):
        assert f'`"{choice}"`' in meaning, choice


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda file: file.name)
def test_examples_are_read(example: Path) -> None:
    assert load_experiment(example).id == example.stem


def test_what_a_job_gives_is_there() -> None:
    page = (DOCS / "guide-trainer.md").read_text()
    named = set(re.findall(r"job\.(\w+)", page))
    given = set(dir(TrainingJob)) | set(re.findall(r"self\.(\w+)", inspect.getsource(TrainingJob)))
    assert {"parameters", "split", "epochs", "steps", "log", "rng"} <= named <= given


def test_code_of_the_guides_is_python() -> None:
    for page in DOCS.glob("guide-*.md"):
        for block in blocks(page):
            if block.language == "python":
                compile(block.text, f"{page.name}, line {block.line}", "exec")
