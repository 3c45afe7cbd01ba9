"""`wardround trainer`: list, describe, new, check."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from training_folder import counting_data, fill, install
from typer.testing import CliRunner, Result

from wardround.client.cli.errors import CommandError, Exit
from wardround.client.cli.trainer import app
from wardround.training import run_folder
from wardround_messages.names import Task
from wardround_messages.task_folder import UPDATE, TaskResult


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(*arguments: str | Path) -> CommandError:
    error = call(*arguments).exception
    assert isinstance(error, CommandError)
    assert "\n" not in str(error)
    return error


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return counting_data(tmp_path / "data")["clinic-2"]["counting"]


def in_children(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
    """Let what is installed in these folders be found by the processes that `check` starts."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (*folders, Path(__file__).parent))))


# --- list, describe ----------------------------------------------------------------------------------------------


def test_list_shows_every_trainer_and_says_which_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, broken="not_installed_here:Trainer")
    shown = call("list")
    assert shown.exit_code == 0
    assert "adding" in shown.stdout
    assert "breast-cancer-mlp" in shown.stdout
    assert "broken" not in shown.stdout
    assert "trainer 'broken' is installed here but cannot be loaded: No module named" in shown.stderr
    listed = [each["name"] for each in json.loads(call("list", "--json").stdout)]
    assert [name for name in listed if name != "brain-tumour-unet"] == ["adding", "breast-cancer-mlp"]


def test_describe_shows_type_bounds_default_and_meaning_of_each_parameter() -> None:
    shown = call("describe", "breast-cancer-mlp")
    line = next(line for line in shown.stdout.splitlines() if line.startswith("batch_size"))
    assert " ".join(line.split()) == "batch_size integer >= 1, <= 1024 16 patients in a step"
    assert "metrics: loss (min), auc (max), accuracy (max)" in shown.stdout
    described = json.loads(call("describe", "breast-cancer-mlp", "--json").stdout)
    assert described["parameters_schema"]["properties"]["hidden"]["default"] == 16


def test_describe_shows_choices_lists_and_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, choosing="training_trainers:Choosing")
    lines = [" ".join(line.split()) for line in call("describe", "choosing").stdout.splitlines()]
    assert 'loss "dice" | "focal" "dice"' in lines
    assert "widths list of integer items <= 5 needed" in lines
    assert "limit number | null null" in lines


def test_describe_of_an_unknown_trainer_names_those_installed() -> None:
    error = refused("describe", "nobody")
    assert error.code == Exit.BAD_INPUT
    assert str(error).startswith("NAME: no trainer 'nobody' is installed here: installed are adding, ")


# --- check -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_check_runs_the_trainer_and_lists_what_would_leave(tmp_path: Path, data: Path) -> None:
    keep = tmp_path / "kept"
    shown = call("check", "adding", "--data", data, "--set", "tensors=3", "--epochs", "2", "--keep", keep)
    assert shown.exit_code == 0, shown.exception
    assert "adding 0.1.0: trained 2 cases in 2 steps, the same bytes twice" in shown.stdout
    assert f"an update of {(keep / 'train' / 'update.safetensors').stat().st_size:,} bytes" in shown.stdout
    assert "weights.002  float32  83     332" in shown.stdout
    assert "metrics of the trained model on 2 validation cases: value 4" in shown.stdout
    assert sorted(path.name for path in keep.iterdir()) == ["evaluate", "initialise", "train", "train-again"]


@pytest.mark.slow
def test_check_exits_1_where_two_trainings_differ(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, moody="training_trainers:Moody")
    in_children(monkeypatch, tmp_path)
    result = call("check", "moody", "--data", data, "--json")
    assert json.loads(result.stdout)["same_bytes"] is False
    assert isinstance(result.exception, CommandError)
    assert result.exception.code == Exit.ENDED_BADLY


@pytest.mark.slow
def test_check_exits_1_with_the_reason_where_a_task_fails(tmp_path: Path) -> None:
    error = refused("check", "adding", "--data", tmp_path)
    assert error.code == Exit.ENDED_BADLY
    assert str(error) == "train: data_empty: the folders of the data set hold no case that this trainer reads"


@pytest.mark.slow
def test_check_tells_of_a_trainer_that_takes_its_process_down(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, falling="training_trainers:Falling")
    in_children(monkeypatch, tmp_path)
    assert str(refused("check", "falling", "--data", data)) == "train: ended with exit code 9 and no result: out"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nobody", "--data", "."], "installed are adding"),
        (["adding", "--data", "nowhere"], "--data: there is no folder nowhere"),
        (["adding", "--data", ".", "--set", "tensors"], "must be key=value"),
        (["adding", "--data", ".", "--set", "tensors=0"], "--set: tensors: Input should be greater than or equal to 1"),
        (["adding", "--data", ".", "--set", "tensors=many"], "--set: tensors: "),
        (["adding", "--data", ".", "--set", "tensors=nan"], "no finite number"),
        (["adding", "--data", ".", "--set", "tensors=2026-01-01"], "no finite number"),
        (["adding", "--data", ".", "--set", "layers=1"], "(parameters are size_mb, tensors, seconds)"),
        (["adding", "--data", ".", "--keep", "."], "--keep: . is there already"),
    ],
)
def test_check_refuses_bad_input_before_anything_runs(arguments: list[str], said: str) -> None:
    error = refused("check", *arguments)
    assert error.code == Exit.BAD_INPUT
    assert said in str(error)


# --- new ---------------------------------------------------------------------------------------------------------


def installed_package(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> Path:
    """The folder of a package that `new` has written, installed and free of what a linter finds."""
    assert call("new", name, "--out", folder, *options).exit_code == 0
    package = folder / name
    project: dict[str, Any] = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    install(package, monkeypatch, **{name: project["entry-points"]["wardround.trainers"][name]})
    lint = ["ruff", "check", "--isolated", "--line-length", "120", "--select", "E,F,W,UP,B", str(package)]
    linted = subprocess.run([sys.executable, "-m", *lint], capture_output=True, text=True, check=False)
    assert linted.returncode == 0, linted.stdout
    assert f"{name} 1.2" in call("describe", name).stdout
    return package


@pytest.mark.slow
def test_new_writes_a_package_whose_own_test_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = installed_package("lung-nodules", tmp_path, monkeypatch)
    in_children(monkeypatch, package)
    own = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio", "-W", "error", "tests"]
    ended = subprocess.run(own, cwd=package, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout


@pytest.mark.slow
def test_new_with_torch_writes_a_network_that_learns_the_same_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "CI" not in os.environ:
        pytest.importorskip("torch")
    installed_package("lung-network", tmp_path, monkeypatch, "--torch")
    data = tmp_path / "data"
    data.mkdir()
    for number in range(20):
        x, y = number % 5 - 2, number % 3 - 1
        (data / f"case-{number:02d}.csv").write_text(f"{x},{y},{2 * x - y + 1}\n")

    def run(name: str, task: Task, model: bytes | None = None) -> tuple[TaskResult, bytes]:
        folder = fill(tmp_path / name, task, data, model=model, trainer="lung-network", epochs=20)
        result = run_folder(folder)
        assert result.failure is None
        update = folder / UPDATE
        return result, update.read_bytes() if update.exists() else b""

    _, first = run("first", Task.INITIALISE)
    trained, update = run("train", Task.TRAIN, first)
    assert run("again", Task.TRAIN, first)[1] == update
    measured, _ = run("measure", Task.TEST, update)  # without a case to train on
    assert measured.received.values["loss"] < trained.received.values["loss"]


@pytest.mark.parametrize(("options", "wanted"), [([], "wardround[training]"), (["--torch"], "wardround[torch]")])
def test_new_asks_for_what_its_trainer_needs(tmp_path: Path, options: list[str], wanted: str) -> None:
    assert call("new", "chest-xray", "--out", tmp_path, *options).exit_code == 0
    package = tmp_path / "chest-xray"
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    assert project["dependencies"] == [wanted]
    assert (package / "chest_xray" / "network.py").exists() == bool(options)
    assert "$" not in "".join(file.read_text() for file in package.rglob("*") if file.is_file())


def test_new_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "chest-xray").mkdir()
    error = refused("new", "chest-xray", "--out", tmp_path)
    assert error.code == Exit.BAD_INPUT
    assert "nothing was overwritten" in str(error)
    assert list((tmp_path / "chest-xray").iterdir()) == []


def test_new_says_where_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot be written" in str(refused("new", "chest-xray", "--out", tmp_path / "file"))


@pytest.mark.parametrize(
    "name", ["", "Chest", "9lives", "a--b", "a-", "a_b", "../x", "class", "wardround", "a" * 41, "ümlaut", "a\n"]
)
def test_new_refuses_a_name_that_cannot_be_one(tmp_path: Path, name: str) -> None:
    assert refused("new", "--out", tmp_path, "--", name).code == Exit.BAD_INPUT
    assert list(tmp_path.iterdir()) == []
