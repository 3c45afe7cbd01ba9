"""`wardround compare`: the same budget federated, pooled and at each clinic alone."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wardround.client import cli

EXPERIMENT = """\
schema  = 1
id      = "count"
study   = "counting"
purpose = "to compare"
[cohort]
sites = ["clinic-1", "clinic-2", "clinic-3"]
[rounds]
count = 2
[training]
trainer = "adding"
dataset = "counting"
[evaluation]
test = { site = "clinic-1", dataset = "counting-test" }
"""
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command in an empty folder that holds the experiment's file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "count.toml").write_text(EXPERIMENT)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["wardround", "compare", "count.toml", "--trainings", "inline", *arguments])
        with pytest.raises(SystemExit) as left:
            cli.run()
        printed = capsys.readouterr()
        return int(left.value.code or 0), printed.out, printed.err

    return run


def outcome(printed: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return told


def test_all_ways_of_training_are_tested_on_the_common_cases(compare: Command) -> None:
    code, out, err = compare("--json")
    assert (code, err) == (0, "")
    told = outcome(out)
    # Site k adds k in each of two rounds: of cases 1, 2, 3 federated adds 14/6 a round, and pooled what all files say.
    assert list(told["metrics"]["value"]) == [
        "federated",
        "pooled",
        "clinic-1 alone",
        "clinic-2 alone",
        "clinic-3 alone",
    ]
    assert [told["metrics"]["value"][f"clinic-{number} alone"] for number in (1, 2, 3)] == [[2.0], [4.0], [6.0]]
    assert told["metrics"]["value"]["federated"] == [pytest.approx(14 / 3, rel=1e-6)]
    assert (told["tested_on"], told["seeds"], told["rounds"]) == (3, [0], 2)


def test_a_seed_more_uses_the_same_clinics_and_keeps_what_is_done(compare: Command, tmp_path: Path) -> None:
    assert compare("--json")[0] == 0
    run = tmp_path / "runs" / "count"
    models = {file: file.stat().st_mtime_ns for file in run.rglob("global/**/*.safetensors")}
    code, out, _ = compare("--json", "--seeds", "2")
    assert (code, outcome(out)["seeds"]) == (0, [0, 1])
    assert {file: file.stat().st_mtime_ns for file in models} == models
    assert (run / "seeds" / "1" / "alone" / "clinic-3" / "model.safetensors").is_file()
    assert not list((run / "seeds").rglob("case-*.txt"))


def test_people_get_a_table_with_its_setting(compare: Command) -> None:
    code, out, _ = compare()
    assert code == 0
    assert "clinic-3 alone" in out
    assert "2 rounds of 1 epoch, seed 0; on 3 common test cases" in " ".join(out.split())


def test_what_a_clinic_refuses_ends_the_comparison_with_the_reason(compare: Command) -> None:
    code, _, err = compare("--set", 'training.parameters.amount="x"')
    assert code == 3
    assert "count (federated, seed 0) is" in err
