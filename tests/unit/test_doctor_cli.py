"""`wardround doctor` and `wardround site doctor`: exit codes, JSON, and a picture that fits its width."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from wardround.client import cli
from wardround.client.doctor.findings import Finding
from wardround.client.doctor.show import findings_table, summary

Ran = tuple[int, str, str]
Run = Callable[..., Ran]

FINDINGS = (
    Finding("site.toml", "ok", "the settings of 'clinic-1'"),
    Finding("disk", "warning", "the spool has 800 MB free, 5.0 GB should be", "make room"),
    Finding("broker login", "wrong", "the broker refuses the login 'clinic-1': " + "a long reason " * 12, "compare"),
    Finding("broker rights", "skipped", "needs: broker login"),
)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> Ran:
        monkeypatch.setattr("sys.argv", ["wardround", *arguments])
        with pytest.raises(SystemExit) as left:
            cli.run()
        said = capsys.readouterr()
        return int(left.value.code or 0), said.out, said.err

    return run


def picture(width: int) -> list[str]:
    console = Console(width=width, color_system=None, highlight=False)
    with console.capture() as captured:
        console.print(findings_table(FINDINGS))
    return captured.get().splitlines()


@pytest.mark.parametrize("width", [80, 120])
def test_picture_fits_its_width_and_puts_what_to_do_below_what_is_wrong(width: int) -> None:
    lines = picture(width)
    assert max(map(len, lines)) <= width
    assert lines[0].startswith("ok       site.toml      the settings")
    assert lines[2].strip() == "→ make room"
    assert any(line.startswith("WRONG    broker login   the broker refuses") for line in lines)
    assert lines[-1].startswith("skipped  broker rights  needs: broker login")


def test_summary_counts_each_kind() -> None:
    assert summary(FINDINGS) == "1 ok, 1 warning, 1 wrong, 1 skipped"
    assert summary(FINDINGS[:1] * 3) == "3 ok"


def test_site_without_its_settings_is_told_in_one_finding_and_exits_2(run: Run, tmp_path: Path) -> None:
    code, said, _ = run("site", "doctor", "--site", str(tmp_path), "--json")
    first, rest = map(json.loads, said.splitlines())
    assert code == 2
    assert (first["name"], first["state"]) == ("site.toml", "wrong")
    assert first["what"] == f"there is none at {tmp_path}"
    assert "--site" in first["to_do"]
    assert rest == {"name": "everything else", "state": "skipped", "what": "needs: site.toml", "to_do": ""}


def test_secret_that_others_read_keeps_the_settings_from_being_used(run: Run, tmp_path: Path) -> None:
    (tmp_path / "salt").write_text("a-salt-of-the-clinic")
    (tmp_path / "salt").chmod(0o644)
    (tmp_path / "site.toml").write_text(
        """schema = 1
site = "clinic-1"
[paths]
inbox = "inbox"
log = "log"
spool = "spool"
[datasets.scans]
path = "scans"
split_salt = { file = "salt" }
"""
    )
    code, said, _ = run("site", "doctor", "--site", str(tmp_path))
    assert code == 2
    assert f"run: chmod 600 {tmp_path / 'salt'}" in said
    assert "a-salt-of-the-clinic" not in said
    assert said.endswith("1 wrong, 1 skipped\n")


def test_clinic_that_has_nothing_yet_is_told_what_it_lacks(run: Run, tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(
        'schema = 1\nsite = "clinic-1"\n[paths]\ninbox = "inbox"\nlog = "log"\nspool = "spool"\n[http]\nport = 0\n'
        '[transfers]\nat_most = "16 Mbit/s"\n'
    )
    code, said, _ = run("site", "doctor", "--site", str(tmp_path), "--json")
    found = {each["name"]: each for each in map(json.loads, said.splitlines())}
    assert code == 1
    assert found["site.toml"]["what"] == "the settings of 'clinic-1'; models and updates move at 2.0 MB/s at most"
    assert found["policy.toml"]["state"] == "wrong"
    assert found["hub"]["what"] == "site.toml has no [hub]"
    assert found["trainers allowed"]["what"] == "needs: policy.toml"
    assert found["user"]["state"] == "skipped"
    assert found["probe run"]["state"] == "ok"
    assert found["agent"]["what"] == f"no agent runs on {tmp_path}"
    assert not (tmp_path / "inbox").exists()
    assert list((tmp_path / "spool").iterdir()) == []


def test_no_training_is_tried_at_a_clinic_that_is_stopped(run: Run, tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(
        'schema = 1\nsite = "clinic-1"\n[paths]\ninbox = "inbox"\nlog = "log"\nspool = "spool"\n[http]\nport = 0\n'
    )
    (tmp_path / "stopped.json").write_text("a drill")
    _, said, _ = run("site", "doctor", "--site", str(tmp_path), "--json")
    found = {each["name"]: each for each in map(json.loads, said.splitlines())}
    assert found["probe run"]["state"] == "skipped"
    assert found["probe run"]["what"] == "the clinic is stopped: wardround site resume"
    assert not (tmp_path / "spool").exists()


def test_hub_that_nobody_knows_is_one_line_and_exits_2(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WARDROUND_HUBS", str(tmp_path / "hubs.toml"))
    code, said, told = run("doctor", "--hub", "elsewhere")
    assert (code, said) == (2, "")
    assert told.startswith("wardround: no hub is known here")


def test_folder_that_is_no_hubs_is_one_line_and_exits_2(run: Run, tmp_path: Path) -> None:
    code, _, told = run("doctor", "--hub-folder", str(tmp_path))
    assert code == 2
    assert "begin with `wardround hub init`" in told
