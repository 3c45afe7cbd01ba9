"""`wardround simtest`: one table, one object, one seed again with all that happened."""

import json

import pytest

from wardround.client.cli.main import ended
from wardround.simulation.faults import every_step

pytestmark = pytest.mark.slow


@pytest.fixture
def wardround(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> object:
    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["wardround", *arguments])
        return ended(), capsys.readouterr().out

    return run


def test_the_table_says_what_was_injected_and_what_became_of_it(wardround) -> None:  # type: ignore[no-untyped-def]
    code, printed = wardround("simtest", "--seeds", "3", "--processes", "1")
    assert code == 0
    rows = [line.split() for line in printed.splitlines()]
    assert ["schedules", "3"] in rows
    assert ["lost", "0"] in rows
    assert ["counted", "twice", "0"] in rows
    assert "faults injected" in printed


def test_a_seed_alone_tells_its_history_and_is_the_same_again(wardround) -> None:  # type: ignore[no-untyped-def]
    code, printed = wardround("simtest", "--seed", "5", "--history", "--json")
    told = json.loads(printed)
    assert (code, told["seed"], told["violations"]) == (0, 5, [])
    assert any("store.create" in line and "journal/00000000.json" in line for line in told["history"])
    code, printed = wardround("simtest", "--seed", "5")
    assert code == 0
    assert f"seed 5 is the schedule {told['schedule_sha256']}" in printed


def test_the_number_of_steps_is_printed(wardround, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    cuts, undisturbed = every_step.every_cut()
    monkeypatch.setattr(every_step, "every_cut", lambda: (cuts[:5], undisturbed))
    code, printed = wardround("simtest", "--every-step", "--json", "--processes", "1")
    told = json.loads(printed)
    assert (code, told["steps"], told["failed"]) == (0, 5, [])


@pytest.mark.parametrize(
    "options",
    [
        ["--seeds", "99999999999999999999999"],
        ["--processes", "100000"],
        ["--seed", "1", "--every-step"],
        ["--history", "--seeds", "1"],
        ["--history", "--every-step"],
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_runs(wardround, options: list[str]) -> None:  # type: ignore[no-untyped-def]
    assert wardround("simtest", *options) == (2, "")
