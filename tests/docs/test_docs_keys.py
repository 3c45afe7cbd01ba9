"""The guides' tables hold every key of every file that a person writes or is handed, with its true default."""

import inspect
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from documents import ROOT, blocks, rows
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from wardround.aggregator.settings import AggregatorSettings
from wardround.client.experiment_file import load_experiment
from wardround.client.hubs import Profile
from wardround.coordinator.settings import CoordinatorSettings
from wardround.metrics.settings import MetricsSettings
from wardround.runtime.command import Exit
from wardround.runtime.durations import UNITS
from wardround.runtime.http_settings import HttpSettings
from wardround.runtime.hub_settings import Hub
from wardround.runtime.roster import Roster
from wardround.runtime.secrets import Secret, StoreKey
from wardround.runtime.service_settings import LogSettings, ServiceSettings
from wardround.runtime.sizes import bytes_of
from wardround.runtime.toml_file import Table as SettingsTable
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
    "### `[hub]`": [Hub],
    "### `[http]`": [HttpSettings],
    "### `[log]`": [LogSettings],
    "### `[paths]`": [settings.Paths],
    "### `[scheduler]`": [settings.Airflow, settings.Local, settings.Inline],
    "### `[transfers]`": [settings.Transfers],
    "### `[datasets.NAME]`": [settings.Dataset],
    "## `policy.toml`": [policy.PolicyFile],
    "### `[leave]`": [policy.Leave],
    "### `[[allow]]`": [policy.Rule],
}
OPERATOR: dict[str, list[type[BaseModel]]] = {
    "### `coordinator.toml`": [CoordinatorSettings],
    "### `aggregator.toml`": [AggregatorSettings],
    "### `metrics.toml`": [MetricsSettings],
    "### `[hub]`": [Hub],
    "### `[http]`": [HttpSettings],
    "### `[log]`": [LogSettings],
    "### `hub.toml`": [Roster],
}
SECTIONS = [
    (page, heading, models)
    for page, sections in {
        "guide-researcher.md": EXPERIMENT | {"### `hubs.toml`": [Profile]},
        "guide-clinic.md": CLINIC,
        "guide-operator.md": OPERATOR,
    }.items()
    for heading, models in sections.items()
]
# Tables of a file that are told with the one that holds them, or that no file has.
TOLD_ELSEWHERE: set[type[BaseModel]] = {
    ServiceSettings,
    settings.AnyScheduler,
    Secret,
    StoreKey,
    policy.AtMost,
    policy.AtLeast,
}
# Keys that hold a table with a heading of its own.
HEADED: dict[type[BaseModel], set[str]] = {
    manifest.Manifest: {"cohort", "rounds", "model", "strategy", "training", "evaluation"},
    settings.SiteSettings: {"hub", "http", "log", "paths", "scheduler", "transfers", "datasets"},
    policy.PolicyFile: {"leave", "allow"},
    CoordinatorSettings: {"hub", "http", "log"},
    AggregatorSettings: {"hub", "http", "log"},
    MetricsSettings: {"hub", "http", "log"},
}
# Their `schema` is told once for all.
OF_THE_HUB = (CoordinatorSettings, AggregatorSettings, MetricsSettings)
PORTS: dict[str, type[BaseModel]] = {
    "metrics": MetricsSettings,
    "coordinator": CoordinatorSettings,
    "aggregator": AggregatorSettings,
    "agent": settings.SiteSettings,
}
# Spelt otherwise in the file than in the model, or filled in by the reader of the file.
SPELT = {"v": "schema"}
BY_READER = {"study", "purpose", "schema", "initial"}
BY_SERVICE = {"port"}
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
    if headed is None:
        return names
    return names - headed if issubclass(models[0], OF_THE_HUB) else names - headed | {"schema"}


@pytest.mark.parametrize(("page", "heading", "models"), SECTIONS, ids=[f"{page}: {it}" for page, it, _ in SECTIONS])
def test_every_key_has_a_row_and_every_row_is_a_key(page: str, heading: str, models: list[type[BaseModel]]) -> None:
    assert set(table(page, heading)) == keys(models)


@pytest.mark.parametrize(("page", "heading", "models"), SECTIONS, ids=[f"{page}: {it}" for page, it, _ in SECTIONS])
def test_defaults_are_those_of_the_code(page: str, heading: str, models: list[type[BaseModel]]) -> None:
    fields = {name: field for model in models for name, field in model.model_fields.items()}
    for key, cells in table(page, heading).items():
        if key in BY_READER or key in BOUNDS_OF_ALL or key in BY_SERVICE:
            continue
        field = fields[key]
        default = field.get_default(call_default_factory=True)
        said = cells[-1].strip("`")
        if default is PydanticUndefined:
            assert said == "needed", key
        else:
            assert _meant(said, default) == default, key


def test_every_table_that_a_file_may_have_is_in_a_guide() -> None:
    told = {model for _, _, models in SECTIONS for model in models}
    assert told | TOLD_ELSEWHERE >= set(_tables(SettingsTable))


def _tables(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for each in model.__subclasses__():
        yield each
        yield from _tables(each)


def test_ports_are_those_of_the_code() -> None:
    ports = {name: model.model_fields["http"].default.port for name, model in PORTS.items()}
    said = table("guide-operator.md", "### `[http]`")["port"][-1]
    assert said == ", ".join(f"{port} {name}" for name, port in ports.items())
    assert table("guide-clinic.md", "### `[http]`")["port"][-1] == str(ports["agent"])


def test_exit_codes_of_a_service_are_those_of_the_code() -> None:
    said = {int(row[0]) for row in rows(DOCS / "guide-operator.md") if row[0].isdigit()}
    assert said - {2} == {int(code) for code in Exit}  # 2 is argparse's


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
        return bytes_of(value)
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
        ("guide-clinic.md", "### `[log]`", "level", LogSettings),
        ("guide-operator.md", "### `[log]`", "style", LogSettings),
        ("guide-operator.md", "### `[log]`", "level", LogSettings),
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
