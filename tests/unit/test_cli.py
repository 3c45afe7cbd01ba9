"""The command line as a whole: exit codes, one line where something is wrong, never a traceback."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from wardround.client import cli
from wardround.simulation.run import claimed

EXAMPLE = Path(__file__).parents[2] / "examples" / "breast-cancer.toml"
QUICK = ["--set", "rounds.count=2", "--set", "training.epochs=1"]


@pytest.fixture
def wardround(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> object:
    """Runs the command in an empty folder; gives its exit code and what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["wardround", *arguments])
        with pytest.raises(SystemExit) as left:
            cli.run()
        printed = capsys.readouterr()
        assert "Traceback" not in printed.out + printed.err
        return int(left.value.code or 0), printed.out, printed.err

    return run


def test_simulate_ends_with_one_json_object_that_holds_the_outcome(wardround) -> None:  # type: ignore[no-untyped-def]
    code, out, err = wardround("simulate", str(EXAMPLE), "--json", *QUICK)
    assert (code, err) == (0, "")
    lines = [json.loads(line) for line in out.splitlines()]
    assert {"at", "experiment", "text"} == set(lines[0])
    outcome = lines[-1]
    assert (outcome["experiment"], outcome["state"], outcome["round"], outcome["rounds"]) == (
        "breast-cancer",
        "finished",
        2,
        2,
    )
    assert set(outcome["metrics"]) == set(outcome["pooled"]) == {"auc", "accuracy", "loss"}
    assert len(outcome["model"]["sha256"]) == 64
    assert Path(outcome["model"]["file"]).is_file()


def test_results_lie_in_a_folder_that_a_person_can_look_into(wardround, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    wardround("simulate", str(EXAMPLE), "--no-pooled", *QUICK)
    hub = tmp_path / "runs" / "breast-cancer" / "hub" / "wr-breast-cancer"
    assert json.loads((hub / "journal" / "00000000.json").read_text())["body"]["kind"] == "ExperimentAccepted"
    for folder in ("answers", "consent", "figures", "global", "results", "updates"):
        assert any((hub / folder).rglob("*.*")), folder
    assert json.loads((hub / "figures" / "r000002.json").read_text())["round"] == 2


def test_the_same_experiment_again_changes_nothing_and_another_of_that_id_is_refused(wardround) -> None:  # type: ignore[no-untyped-def]
    assert wardround("simulate", str(EXAMPLE), "--no-pooled", *QUICK)[0] == 0
    code, out, _ = wardround("simulate", str(EXAMPLE), "--no-pooled", "--json", *QUICK)
    assert (code, json.loads(out.splitlines()[-1])["state"]) == (0, "finished")
    code, _, err = wardround("simulate", str(EXAMPLE), "--no-pooled", *QUICK, "--set", "seed=8")
    assert code == 3
    assert "exists" in err
    assert wardround("simulate", str(EXAMPLE), "--no-pooled", *QUICK, "--set", "seed=8", "--fresh")[0] == 0


def test_a_variant_has_its_own_folder(wardround, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert wardround("simulate", str(EXAMPLE), "--no-pooled", "--id", "variant", *QUICK)[0] == 0
    assert (tmp_path / "runs" / "variant" / "model.safetensors").is_file()


def test_fresh_deletes_no_folder_that_is_not_a_runs(wardround, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    precious = tmp_path / "runs" / "breast-cancer" / "thesis.tex"
    precious.parent.mkdir(parents=True)
    precious.write_text("years of work")
    code, _, err = wardround("simulate", str(EXAMPLE), "--fresh", *QUICK)
    assert code == 2
    assert "nothing was deleted" in err
    assert precious.exists()


def test_a_fork_starts_from_an_earlier_runs_model(wardround) -> None:  # type: ignore[no-untyped-def]
    assert wardround("simulate", str(EXAMPLE), "--no-pooled", *QUICK)[0] == 0
    fork = ["--id", "fork", "--set", 'model.initial="experiment:breast-cancer@2"']
    code, _, err = wardround("simulate", str(EXAMPLE), "--no-pooled", "--json", *fork, *QUICK)
    assert (code, err) == (0, "")
    code, _, err = wardround("simulate", str(EXAMPLE), "--id", "none", "--set", 'model.initial="experiment:gone@2"')
    assert code == 2
    assert "no model 2 of 'gone'" in err


def test_a_run_begins_with_the_last_model_of_an_earlier_one(wardround, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert wardround("simulate", str(EXAMPLE), "--no-pooled", *QUICK)[0] == 0
    again = ("simulate", str(EXAMPLE), "--no-pooled", "--id", "next", "--json", *QUICK)
    code, out, err = wardround(*again, "--from", "breast-cancer@last")
    assert (code, err) == (0, "")
    assert "it begins with model 2 of breast-cancer" in out
    first = (tmp_path / "runs" / "breast-cancer" / "model.safetensors").read_bytes()
    (begun_with,) = (tmp_path / "runs" / "next" / "hub" / "wr-next" / "global" / "r000000").glob("*.safetensors")
    assert begun_with.read_bytes() == first
    assert wardround(*again, "--from", "breast-cancer@2")[0] == 0  # the same model, so the same experiment
    code, _, err = wardround(*again, "--from", "breast-cancer@9")
    assert (code, "--from: there is no model 9 of 'breast-cancer': the latest is 2" in err) == (2, True)
    code, _, err = wardround(*again, "--from", "gone@2")
    assert (code, "no model 2 of 'gone'" in err) == (2, True)
    assert not (tmp_path / "runs" / "gone").exists()


def test_a_model_that_does_not_fit_the_trainer_ends_in_round_1_with_the_reason(wardround) -> None:  # type: ignore[no-untyped-def]
    assert wardround("simulate", str(EXAMPLE), "--no-pooled", *QUICK)[0] == 0
    other = ("--id", "other", "--set", "training.parameters.hidden=8", "--from", "breast-cancer@2")
    code, _, err = wardround("simulate", str(EXAMPLE), "--no-pooled", *QUICK, *other)
    assert code == 1
    assert "other is paused (quorum_out_of_reach: 0 of 2 sites done in round 1; model_unsuitable at clinic-" in err


def test_parameters_that_the_trainer_does_not_take_are_refused_before_any_round(wardround) -> None:  # type: ignore[no-untyped-def]
    code, _, err = wardround("simulate", str(EXAMPLE), "--set", "training.parameters.learning_rate=-1", *QUICK)
    assert code == 3
    assert "learning_rate" in err


def test_a_trainer_that_is_not_installed_is_refused_before_any_round(wardround) -> None:  # type: ignore[no-untyped-def]
    code, _, err = wardround("simulate", str(EXAMPLE), "--set", "training.trainer=no-such-trainer", *QUICK)
    assert code == 3
    assert "no-such-trainer" in err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["simulate"], "Missing argument"),
        (["simulate", "gone.toml"], "cannot be read"),
        (["simulate", "."], "is a folder"),
        (["simulate", str(EXAMPLE), "--sites", "0"], "--sites 0"),
        (["simulate", str(EXAMPLE), "--sites", "nowhere"], "clinic-1"),
        (["simulate", str(EXAMPLE), "--set", "nonsense"], "--set nonsense"),
        (["simulate", str(EXAMPLE), "--set", "rounds.count=0"], "rounds.count"),
        (["simulate", str(EXAMPLE), "--set", "training.dataset=none-such"], "none-such"),
        (["simulate", str(EXAMPLE), "--store", "tape"], "tape"),
        (["simulate", str(EXAMPLE), "--sites", "2", "--set", "cohort=1"], "cohort: must be a table"),
        (["simulate", str(EXAMPLE), "--set", "a" + ".a" * 5000 + "=1"], "--set a.a"),
        (["simulate", str(EXAMPLE), "--set", "\x1b[31m=1"], "\\x1b[31m"),
        (["simulate", str(EXAMPLE), "--out", str(EXAMPLE)], "--out"),
        (["simulate", str(EXAMPLE), "--out", "x" * 300], "--out"),
        (["conquer"], "conquer"),
    ],
)
def test_bad_input_exits_2_with_one_line(wardround, arguments: list[str], told: str) -> None:  # type: ignore[no-untyped-def]
    code, out, err = wardround(*arguments)
    assert code == 2
    assert (told in err, out) == (True, "")
    assert len(err.strip().splitlines()) == 1


def start(folder: Path, *arguments: str, before: Callable[[], object] | None = None) -> subprocess.Popen[str]:
    """The command as a process of its own that hears Ctrl-C, whatever the one of the tests does."""

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if before is not None:
            before()

    command = [sys.executable, "-c", "from wardround.client.cli import run; run()", *arguments]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=prepare
    )


def test_two_commands_do_not_work_in_one_folder(wardround, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with claimed(tmp_path / "runs" / "breast-cancer"):
        for arguments in ([], ["--fresh"]):
            code, _, err = wardround("simulate", str(EXAMPLE), *QUICK, *arguments)
            assert code == 75
            assert "another command is running" in err


@pytest.mark.slow
def test_ctrl_c_leaves_with_130_and_the_same_command_goes_on(tmp_path: Path) -> None:
    arguments = ["simulate", str(EXAMPLE), "--no-pooled", "--json", "--set", "rounds.count=2000"]
    journal = tmp_path / "runs" / "breast-cancer" / "hub" / "wr-breast-cancer" / "journal"
    entries = 0
    for _ in range(2):
        process = start(tmp_path, *arguments)
        wait_for(lambda wanted=entries + 10: journal.is_dir() and len(list(journal.iterdir())) > wanted)  # type: ignore[misc]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert (process.returncode, "Traceback" in err) == (130, False)
        entries = len(list(journal.iterdir()))


@pytest.mark.slow
def test_ctrl_c_in_a_campaign_shows_what_was_done_and_tells_how_far_it_came(tmp_path: Path) -> None:
    process = start(tmp_path, "simtest", "--seeds", "160")
    assert process.stderr is not None
    assert "of 160 seeds" in process.stderr.readline()  # a tenth of them
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in err) == (130, False)
    assert re.search(r"interrupted after \d+ of 160 seeds", err)
    assert "schedules" in out


def wait_for(condition: Callable[[], bool], *, within: float = 90) -> None:
    until = time.monotonic() + within
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.slow
def test_a_closed_standard_input_and_a_broken_pipe_are_no_tracebacks(tmp_path: Path) -> None:
    closed = start(tmp_path, "simulate", "-", before=lambda: os.close(0))
    _, err = closed.communicate(timeout=30)
    assert closed.returncode == 2
    assert "Traceback" not in err
    broken = start(tmp_path, "simulate", str(EXAMPLE), "--no-pooled", "--json", *QUICK)
    assert broken.stdout is not None
    broken.stdout.close()
    assert broken.stderr is not None
    err = broken.stderr.read()
    broken.wait(timeout=30)
    broken.stderr.close()
    assert broken.returncode != 0
    assert "Traceback" not in err


def test_without_arguments_it_says_what_there_is(wardround) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = wardround()
    assert code == 0
    assert "simulate" in out
