import asyncio
import json
import time
from pathlib import Path

import pytest

from wardround.site_agent.trainers import InstalledTrainers, TrainersError, check_parameters, describe_with
from wardround_messages.parts import TrainerDescription

SCHEMA: dict[str, object] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["learning_rate"],
    "properties": {
        "learning_rate": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        "batch_size": {"type": "integer", "minimum": 1},
        "augment": {"type": "boolean"},
        "widths": {"type": "array", "items": {"$ref": "#/$defs/Width"}},
        "loss": {"enum": ["dice", "focal"]},
    },
    "$defs": {"Width": {"type": "integer", "minimum": 1}},
}


def trainer(schema: dict[str, object] = SCHEMA) -> TrainerDescription:
    return TrainerDescription(
        name="chest-cnn", version="1.0", code_sha256="ab" * 32, parameters_schema=schema, metrics={"loss": "min"}
    )


# --- parameters --------------------------------------------------------------------------------------------------


def test_parameters_that_suit_the_trainer_pass() -> None:
    parameters = {"learning_rate": 0.1, "batch_size": 2, "augment": True, "widths": (8, 16), "loss": "dice"}
    assert check_parameters(trainer(), parameters) is None


@pytest.mark.parametrize(
    ("parameters", "field", "said"),
    [
        ({}, "parameters", "'learning_rate' is a required property"),
        ({"learning_rate": -0.1}, "learning_rate", "exclusiveMinimum 0, maximum 1"),
        ({"learning_rate": 2.0}, "learning_rate", "maximum 1"),
        ({"learning_rate": "0.1"}, "learning_rate", "type number"),
        ({"learning_rate": True}, "learning_rate", "type number"),
        ({"learning_rate": float("nan")}, "learning_rate", "finite"),
        ({"learning_rate": float("inf")}, "learning_rate", "finite"),
        ({"learning_rate": 0.1, "batch_size": 0}, "batch_size", "minimum of 1"),
        ({"learning_rate": 0.1, "batch_size": 1.5}, "batch_size", "type integer"),
        ({"learning_rate": 0.1, "widths": (8, 0)}, "widths.1", "minimum of 1"),
        ({"learning_rate": 0.1, "widths": (8, float("nan"))}, "widths", "finite"),
        ({"learning_rate": 0.1, "loss": "mse"}, "loss", "'dice', 'focal'"),
        ({"learning_rate": 0.1, "momentum": 0.9}, "momentum", "valid are learning_rate, batch_size, augment"),
    ],
)
def test_one_line_names_the_parameter_and_what_is_valid(parameters: dict[str, object], field: str, said: str) -> None:
    problem = check_parameters(trainer(), parameters)
    assert problem is not None
    assert problem.startswith(f"{field}: ")
    assert said in problem
    assert "\n" not in problem


def test_what_is_wrong_is_told_in_bounded_length() -> None:
    problem = check_parameters(trainer(), {"learning_rate": "x" * 10_000})
    assert problem is not None
    assert len(problem) <= 400


@pytest.mark.parametrize(
    "schema", [{"type": "nothing"}, {"properties": {"a": {"$ref": "https://example.org/schema"}}}, {"$ref": "#/absent"}]
)
def test_a_broken_schema_is_laid_at_the_trainers_door_and_nothing_is_fetched(schema: dict[str, object]) -> None:
    problem = check_parameters(trainer(schema), {"a": 1})
    assert problem is not None
    assert "broken schema" in problem


# --- the catalogue -----------------------------------------------------------------------------------------------


def interpreter(folder: Path, script: str) -> Path:
    """A stand-in for a clinic's interpreter that counts how often it is asked."""
    python = folder / "python"
    python.write_text(f"#!/bin/sh\necho asked >> {folder}/asked\n{script}\n")
    python.chmod(0o700)
    return python


def listing(folder: Path, *trainers: TrainerDescription) -> str:
    (folder / "list.json").write_text(json.dumps([each.model_dump() for each in trainers]))
    return f"cat {folder}/list.json"


async def test_the_trainers_installed_here_are_described() -> None:
    described = await describe_with()()
    assert "adding" in [each.name for each in described]


async def test_an_interpreter_is_asked_once_by_many_and_again_after_a_refresh(tmp_path: Path) -> None:
    catalogue = describe_with(interpreter(tmp_path, listing(tmp_path, trainer())))
    answers = await asyncio.gather(*(catalogue() for _ in range(5)))
    assert answers == [(trainer(),)] * 5
    assert (tmp_path / "asked").read_text() == "asked\n"
    listing(tmp_path)
    catalogue.refresh()
    assert await catalogue() == ()


async def test_what_was_installed_since_is_seen_after_a_while(tmp_path: Path) -> None:
    catalogue = describe_with(interpreter(tmp_path, listing(tmp_path)), fresh_for=0.05)
    assert await catalogue() == ()
    listing(tmp_path, trainer())
    assert await catalogue() == ()
    await asyncio.sleep(0.06)
    assert await catalogue() == (trainer(),)


async def complaint(catalogue: InstalledTrainers) -> str:
    with pytest.raises(TrainersError) as raised:
        await catalogue()
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo first >&2; echo 'No module named wardround' >&2; exit 1", "exit code 1: No module named wardround"),
        ("echo '[{\"name\": 7}]'", "0.name"),
        ("echo nonsense", "JSON"),
        ("kill -9 $$", "exit code -9"),
        ("head -c 5000000 /dev/zero", "says more than"),
        ("head -c 5000000 /dev/zero >&2; exit 1", "exit code 1"),
    ],
)
async def test_an_interpreter_that_does_not_list_its_trainers_says_why(tmp_path: Path, script: str, said: str) -> None:
    assert said in await complaint(describe_with(interpreter(tmp_path, script)))


async def test_an_interpreter_that_is_not_there_says_so(tmp_path: Path) -> None:
    assert "cannot be started: No such file" in await complaint(describe_with(tmp_path / "python"))


@pytest.mark.parametrize("script", ["sleep 60 & sleep 60", "cat /dev/zero & cat /dev/zero"])
async def test_an_interpreter_that_does_not_end_is_given_up_with_all_it_started(tmp_path: Path, script: str) -> None:
    catalogue = describe_with(interpreter(tmp_path, script), timeout=0.2)
    start = time.monotonic()
    assert "no answer within 0.2 s" in await complaint(catalogue)
    assert time.monotonic() - start < 2


async def test_after_a_failure_it_is_asked_again(tmp_path: Path) -> None:
    catalogue = describe_with(interpreter(tmp_path, "exit 1"))
    await complaint(catalogue)
    interpreter(tmp_path, listing(tmp_path, trainer()))
    assert await catalogue() == (trainer(),)
