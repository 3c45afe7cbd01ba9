import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from wardround.client.cli.errors import CommandError, Exit
from wardround.client.cli.site import app
from wardround.training import describe

EXPERIMENT = """
schema = 1
id     = "adding-up"
study  = "sums"
[cohort]
sites = ["clinic-1", "clinic-2", "clinic-3"]
[rounds]
count = 10
[training]
trainer = "adding"
dataset = "counting"
epochs  = 4
[evaluation]
test = { site = "clinic-1", dataset = "counting-test" }
"""
SITE = """
schema = 1
site   = "clinic-2"
[paths]
inbox = "inbox.sqlite"
log   = "audit.jsonl"
spool = "spool"
"""
POLICY = """
schema = 1
[leave]
metrics = ["value"]
[[allow]]
id           = "other"
study        = "hearts"
requested_by = ["researcher-b"]
trainers     = ["adding"]
datasets     = ["ecg"]
[[allow]]
id           = "sums"
study        = "sums"
requested_by = ["researcher-a"]
trainers     = ["adding"]
datasets     = ["counting"]
at_most      = { rounds = 10 }
at_least     = { cases = 2 }
"""

Explain = Callable[..., Result]


@pytest.fixture
def explain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Explain:
    """`site policy explain` in a clinic's folder."""
    for name, text in {"experiment.toml": EXPERIMENT, "site.toml": SITE, "policy.toml": POLICY}.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, ["policy", "explain", "experiment.toml", *map(str, arguments)])


def change(file: str, old: str, new: str) -> None:
    text = Path(file).read_text()
    assert old in text
    Path(file).write_text(text.replace(old, new))


def bad_input(result: Result) -> str:
    assert isinstance(result.exception, CommandError)
    assert result.exception.code == Exit.BAD_INPUT
    assert "\n" not in str(result.exception)
    return str(result.exception)


def test_an_experiment_that_is_allowed_shows_the_rule_that_decides_and_what_may_leave(explain: Explain) -> None:
    result = explain()
    assert result.exit_code == Exit.DONE
    assert "adding-up: allowed: rule 'sums' allows it" in result.output
    assert "rule 'other' does not match: study is 'sums', not 'hearts'; requested_by 'researcher-a'" in result.output
    assert "rule 'sums' matches" in result.output
    assert "metrics: value" in result.output
    assert "at least 2 needed" in result.output


def test_an_experiment_that_is_refused_shows_the_unmet_condition_and_exits_3(explain: Explain) -> None:
    change("experiment.toml", "count = 10", "count = 11")
    result = explain()
    assert result.exit_code == Exit.REFUSED
    assert "adding-up: refused: rule 'sums' does not allow it: rounds is 11, at most 10 allowed" in result.output


def test_an_experiment_that_a_person_must_approve_is_pending(explain: Explain) -> None:
    change("policy.toml", "at_most ", 'approval = "manual"\nat_most ')
    result = explain()
    assert result.exit_code == Exit.DONE
    assert "adding-up: pending: rule 'sums' leaves it to a person" in result.output


def test_who_asks_may_be_named(explain: Explain) -> None:
    result = explain("--requested-by", "eve")
    assert result.exit_code == Exit.REFUSED
    assert "requested_by 'eve' is not among those allowed" in result.output


def test_the_common_test_is_judged_at_the_site_that_holds_it(explain: Explain) -> None:
    change("site.toml", "clinic-2", "clinic-1")
    result = explain()
    assert result.exit_code == Exit.REFUSED
    assert "dataset 'counting-test' is not among those allowed" in result.output


def test_json_holds_the_verdict_and_each_rule(explain: Explain) -> None:
    said = json.loads(explain("--json").stdout)
    assert (said["experiment"], said["verdict"], said["rule"], said["code"]) == (
        "adding-up",
        "allow",
        "sums",
        "allowed",
    )
    rules = {rule["id"]: rule["unmet"] for rule in said["requests"][0]["rules"]}
    assert rules["sums"] == []
    assert len(rules["other"]) == 3
    assert said["leave"]["metrics"] == ["value"]


def test_site_and_policy_may_lie_elsewhere(explain: Explain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/experiment.toml").write_text(EXPERIMENT)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert explain().exit_code == Exit.REFUSED  # here is no policy
    assert explain("--site", tmp_path).exit_code == Exit.DONE
    assert explain("--site", tmp_path / "site.toml").exit_code == Exit.DONE
    assert explain("--policy", tmp_path / "policy.toml").exit_code == Exit.DONE


def test_a_pinned_trainer_is_compared_with_what_is_installed(explain: Explain) -> None:
    installed = next(each for each in describe() if each.name == "adding").code_sha256
    change("policy.toml", '["adding"]', f'{{ adding = "sha256:{installed}" }}')
    assert explain().exit_code == Exit.DONE
    change("policy.toml", installed, "0" * 64)
    result = explain()
    assert result.exit_code == Exit.REFUSED
    assert f"is sha256:{installed[:12]}..., sha256:000000000000... is allowed" in result.output


@pytest.mark.parametrize(
    ("text", "said"),
    [(None, "has no policy"), ("", "is empty"), ("[[allow]]\n", "schema: must be 1"), ("x", "is not TOML")],
)
def test_a_policy_that_says_nothing_refuses_and_shows_why(explain: Explain, text: str | None, said: str) -> None:
    Path("policy.toml").unlink()
    if text is not None:
        Path("policy.toml").write_text(text)
    result = explain()
    assert result.exit_code == Exit.REFUSED
    assert said in result.output
    assert json.loads(explain("--json").stdout)["verdict"] == "deny"


def test_bad_input_is_told_in_one_line(explain: Explain) -> None:
    assert "there is no file absent.toml" in bad_input(explain("--policy", "absent.toml"))
    assert "there is no site.toml at" in (told := bad_input(explain("--site", "absent")))
    assert "name it with --site" in told
    change("site.toml", "spool", "spol")
    assert "unknown key 'spol'" in bad_input(explain())
    change("experiment.toml", "count = 10", "count = 0")
    assert "rounds.count" in bad_input(explain())
