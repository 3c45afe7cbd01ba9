"""`wardround trainer`: the trainers installed here, a new one begun, one tried out."""

import json
import keyword
import re
from dataclasses import asdict
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from wardround.client.cli.errors import CommandError, Exit
from wardround.runtime.toml_file import toml_value
from wardround.training.errors import TaskError
from wardround.training.registry import InstalledTrainer, installed_trainer, trainer_names
from wardround.training.rehearsal import Rehearsal, RehearsalError, rehearse
from wardround_messages.parts import TrainerDescription

app = typer.Typer(no_args_is_help=True, help="Trainers: list, describe, begin and try them.")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
NAME = r"[a-z](?:-?[a-z0-9])*"
NAME_AT_MOST = 40
NUMPY_WORDS = {"extra": "training", "does": "fits a line by gradient descent", "places": "`trainer.py`"}
TORCH_WORDS = {"extra": "torch", "does": "trains a small network", "places": "`network.py` and `trainer.py`"}
BOUNDS = {
    "exclusiveMinimum": "> {}",
    "minimum": ">= {}",
    "exclusiveMaximum": "< {}",
    "maximum": "<= {}",
    "multipleOf": "a multiple of {}",
    "minLength": "length >= {}",
    "maxLength": "length <= {}",
    "pattern": "like {}",
    "minItems": "items >= {}",
    "maxItems": "items <= {}",
}


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the trainers installed here."""
    found, broken = [], []
    for name in trainer_names():
        try:
            found.append(installed_trainer(name).description)
        except TaskError as error:
            broken.append(f"{error.hint}: {error.__cause__ or 'two packages'}")
    if as_json:
        typer.echo(json.dumps([each.model_dump(mode="json") for each in found], indent=2))
    else:
        table = _table("trainer", "version", "code", "metrics")
        for each in found:
            table.add_row(each.name, each.version, each.code_sha256[:8], _directions(each))
        Console().print(table)
    for line in broken:
        typer.echo(f"wardround: {' '.join(line.split())}", err=True)


@app.command()
def describe(name: Annotated[str, typer.Argument(help="The trainer.")], as_json: AsJson = False) -> None:
    """Say what parameters a trainer takes and what it measures."""
    described = _installed(name).description
    if as_json:
        typer.echo(json.dumps(described.model_dump(mode="json"), indent=2))
        return
    typer.echo(f"{described.name} {described.version}, code {described.code_sha256[:16]}")
    table = _table("parameter", "type", "bounds", "default", "")
    schema: dict[str, Any] = described.parameters_schema
    for parameter, known in schema.get("properties", {}).items():
        default = json.dumps(known["default"]) if "default" in known else "needed"
        table.add_row(parameter, _type(known), _bounds(known), default, known.get("description", ""))
    Console().print(table)
    typer.echo(f"metrics: {_directions(described)}")


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="The trainer's name, such as chest-xray.")],
    torch: Annotated[bool, typer.Option("--torch", help="A network in PyTorch instead of arrays in NumPy.")] = False,
    out: Annotated[Path, typer.Option(help="Where to make the package's folder.")] = Path(),
) -> None:
    """Write a package with a trainer that works, to put one's own in its place."""
    module = name.replace("-", "_")
    if len(name) > NAME_AT_MOST or not re.fullmatch(NAME, name) or keyword.iskeyword(module):
        raise CommandError(
            f"NAME {name!r}: must be lower-case letters, digits and single dashes, a letter first, at most "
            f"{NAME_AT_MOST}, and no word of Python"
        )
    if find_spec(module) is not None:
        raise CommandError(f"NAME {name!r}: there is a Python module '{module}' already; choose another name")
    folder = out / name
    class_name = "".join(map(str.capitalize, name.split("-")))
    words = {"name": name, "module": module, "class_name": class_name} | (TORCH_WORDS if torch else NUMPY_WORDS)
    files = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        f"{module}/trainer.py": "trainer_torch.py" if torch else "trainer.py",
        **({f"{module}/network.py": "network.py"} if torch else {}),
        "tests/test_trainer.py": "test_trainer.py",
    }
    try:
        folder.mkdir(parents=True)
        for path, template in files.items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_text(_template(template).substitute(words))
        (folder / module / "__init__.py").touch()
    except FileExistsError:
        raise CommandError(f"{folder} is there already; nothing was overwritten") from None
    except OSError as error:
        raise CommandError(f"{folder} cannot be written: {error.strerror}") from None
    typer.echo(f"{folder} is ready. Next: uv pip install -e {folder}, then: wardround trainer describe {name}")


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="The trainer.")],
    data: Annotated[Path, typer.Option(help="A folder laid out as the trainer reads it.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One of the trainer's parameters.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, max=10_000, help="Epochs of each training.")] = 1,
    keep: Annotated[Path | None, typer.Option(help="Leave the folders of the tasks here, to look into.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a first model, train it twice, measure it, and list what would leave a clinic.

    Exits 1 where a task fails or the two trainings differ.
    """
    installed = _installed(name)
    if not data.is_dir():
        raise CommandError(f"--data: there is no folder {data}")
    if keep is not None and keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise CommandError(f"--keep: {keep} is there already; name an empty or a new folder")
    parameters = _parameters(installed, settings or [])
    console = Console(stderr=True)
    try:
        with console.status("starting") as status:
            rehearsal = rehearse(
                name, data, parameters, epochs=epochs, keep=keep, say=lambda task: status.update(f"{name}: {task}")
            )
    except RehearsalError as error:
        raise CommandError(str(error), Exit.ENDED_BADLY) from None
    if as_json:
        typer.echo(json.dumps(_as_json(rehearsal), indent=2))
    else:
        _print(rehearsal)
    if not rehearsal.same_bytes:
        raise CommandError("the two trainings left different bytes; draw from job.rng only", Exit.ENDED_BADLY)


def _installed(name: str) -> InstalledTrainer:
    try:
        return installed_trainer(name)
    except TaskError as error:
        why = error.__cause__ or f"installed are {', '.join(trainer_names()) or 'none'}"
        raise CommandError(f"NAME: {error.hint}: {why}") from None


def _parameters(installed: InstalledTrainer, settings: list[str]) -> dict[str, Any]:
    """The parameters set, once the trainer's own model accepts them."""
    parameters = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise CommandError(f"--set {setting}: must be key=value, such as learning_rate=0.0003")
        parameters[key.strip()] = toml_value(text)
    try:
        installed.type.parameters_type().read(parameters)
    except TaskError as error:
        known = ", ".join(installed.type.parameters_type().model_fields) or "none"
        raise CommandError(f"--set: {error.hint} (parameters are {known})") from None
    return parameters


def _template(name: str) -> Template:
    return Template(resources.files("wardround.training").joinpath("template", f"{name}.in").read_text())


def _as_json(rehearsal: Rehearsal) -> dict[str, Any]:
    return {
        **asdict(rehearsal),
        "trainer": rehearsal.trainer.model_dump(mode="json"),
        "received": rehearsal.received and rehearsal.received.model_dump(mode="json"),
        "measured": rehearsal.measured and rehearsal.measured.model_dump(mode="json"),
    }


def _print(rehearsal: Rehearsal) -> None:
    same = "the same bytes twice" if rehearsal.same_bytes else "different bytes each time"
    typer.echo(
        f"{rehearsal.trainer.name} {rehearsal.trainer.version}: trained {rehearsal.cases} cases in {rehearsal.steps} "
        f"steps, {same}"
    )
    typer.echo("What would leave a clinic, where its policy lets it:")
    typer.echo(f"  an update of {rehearsal.update_size:,} bytes")
    table = _table("  tensor", "type", "shape", "bytes")
    for tensor in rehearsal.tensors:
        shape = " x ".join(map(str, tensor.shape)) or "a number"
        table.add_row(f"  {tensor.name}", tensor.dtype, shape, f"{tensor.size:,}")
    Console().print(table)
    typer.echo(f"  the number of cases trained on: {rehearsal.cases}")
    for what, measured in (("the first model", rehearsal.received), ("the trained model", rehearsal.measured)):
        if measured is not None:
            figures = _figures(measured.values)
            typer.echo(f"  metrics of {what} on {measured.cases} validation cases: {figures}")
    if rehearsal.trained:
        typer.echo(f"  metrics of the training: {_figures(rehearsal.trained)}")


def _figures(metrics: Any) -> str:
    return ", ".join(f"{name} {'not finite' if value is None else f'{value:.4g}'}" for name, value in metrics.items())


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _directions(described: TrainerDescription) -> str:
    return ", ".join(f"{name} ({goal})" for name, goal in described.metrics.items()) or "none"


def _type(known: dict[str, Any]) -> str:
    if "enum" in known or "const" in known:
        return " | ".join(json.dumps(value) for value in known.get("enum", [known.get("const")]))
    if "anyOf" in known:
        return " | ".join(_type(each) for each in known["anyOf"])
    if known.get("type") == "array":
        return f"list of {_type(known.get('items', {}))}"
    return str(known.get("type", "see --json"))


def _bounds(known: dict[str, Any]) -> str:
    return ", ".join(words.format(known[bound]) for bound, words in BOUNDS.items() if bound in known)
