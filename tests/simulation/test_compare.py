"""`wardround compare`: the same budget federated, pooled and at each clinic alone."""

import errno
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wardround.client import cli
from wardround.client.cli import comparing
from wardround.simulation.researcher import Ending
from wardround.simulation.run import Run

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

pytestmark = pytest.mark.slow


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


def test_a_reference_that_fails_takes_nothing_from_the_others(
    compare: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    carried_out = comparing.run_reference

    async def one_fails(*arguments: Any, **options: Any) -> Run:
        run = await carried_out(*arguments, **options)
        return Run(Ending("failed", "aggregation", "no room")) if arguments[4].label == "clinic-2 alone" else run

    monkeypatch.setattr(comparing, "run_reference", one_fails)
    code, out, err = compare("--json")
    assert code == 1
    assert "count (clinic-2 alone, seed 0) is failed (aggregation: no room)" in err
    assert outcome(out)["states"]["clinic-2 alone"] == ["failed"]
    values = outcome(out)["metrics"]["value"]
    assert (values["clinic-2 alone"], values["clinic-3 alone"]) == ([None], [6.0])


def test_what_goes_wrong_while_several_train_is_told_plainly(compare: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_room(*arguments: Any, **options: Any) -> Run:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "hub")

    monkeypatch.setattr(comparing, "run_reference", no_room)
    assert compare()[2].endswith("hub: No space left on device\n")


def test_without_a_common_test_all_are_measured_on_cases_of_their_own(compare: Command, tmp_path: Path) -> None:
    experiment = tmp_path / "count.toml"
    experiment.write_text(EXPERIMENT.partition("[evaluation]")[0])
    code, out, _ = compare()
    assert code == 0
    assert "each on validation cases of its own" in " ".join(out.split())


def test_a_clinic_may_be_called_pooled(compare: Command) -> None:
    code, out, _ = compare("--json", "--set", 'cohort.sites=["clinic-1", "pooled"]')
    assert (code, list(outcome(out)["metrics"]["value"])) == (
        0,
        ["federated", "pooled", "clinic-1 alone", "pooled alone"],
    )


def test_no_test_data_are_trained_on(compare: Command) -> None:
    code, _, err = compare("--set", "evaluation.test.dataset=counting")
    assert code == 2
    assert "evaluation.test.dataset: must be another data set than training.dataset" in err


def test_what_a_clinic_refuses_ends_the_comparison_with_the_reason(compare: Command) -> None:
    code, _, err = compare("--set", 'training.parameters.amount="x"')
    assert code == 3
    assert "count (federated, seed 0) is" in err
