"""`wardround site log`: what a data protection officer and an auditor are told."""

import csv
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from wardround.client.cli.errors import CommandError, Exit
from wardround.client.cli.site import app
from wardround.site_agent.audit.log import AuditLog
from wardround.site_agent.audit.views import COLUMNS, TASKS_AT_MOST
from wardround_messages.base import canonical_json, digest
from wardround_messages.objects import Answer, LogHead

SITE = """
schema = 1
site   = "clinic-1"
[paths]
inbox = "inbox.sqlite"
log   = "audit.jsonl"
spool = "spool"
"""
TASK = "tumour.r000001.train.clinic-1.a01"
ABOUT = {
    "task": TASK,
    "experiment": "tumour",
    "study": "glioma",
    "requested_by": "researcher-a",
    "rule": "brain",
}
DAY = datetime(2026, 3, 2, 8, tzinfo=UTC)

Command = Callable[..., Result]


class Telling:
    """A clinic's log, told line by line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = DAY
        self.log = AuditLog(path, clock=lambda: self.now, durable=False)

    def tell(self, what: str, **facts: Any) -> LogHead:
        self.now += timedelta(minutes=1)
        return self.log.write(what, **facts)

    def answer(self) -> Answer:
        """The answer to the task, with its line."""
        answer = Answer.model_validate(
            {
                "experiment": "tumour",
                "round": 1,
                "task": "evaluate",
                "site": "clinic-1",
                "attempt": 1,
                "manifest_sha256": "a" * 64,
                "outcome": "done",
                "log": self.log.head,
                "at": self.now,
            },
            strict=False,
        )
        self.tell("answer", **ABOUT, key="answers/a01.json", size=700, sha256=digest(canonical_json(answer)))
        return answer


@pytest.fixture
def telling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Telling:
    """A log of one task: what was asked, allowed, and what left."""
    (tmp_path / "site.toml").write_text(SITE)
    monkeypatch.chdir(tmp_path)
    telling = Telling(tmp_path / "audit.jsonl")
    asked = {name: value for name, value in ABOUT.items() if name != "task"}
    telling.tell("offer", **asked, verdict="granted", code="allowed")
    telling.tell(
        "consent", **asked, verdict="granted", code="allowed", key="consent/01.json", size=400, sha256="1" * 64
    )
    telling.tell("person", action="stop", by="=HYPERLINK(1)", reason="- audit\nof the house")
    telling.tell("task", **ABOUT, trainer="unet", trainer_sha256="2" * 64)
    for step in (1, 2):
        telling.tell("metrics", **ABOUT, metrics={"loss": 0.5 / step}, step=step, size=200, sha256="3" * 64)
    telling.tell("update", **ABOUT, cases_used=14, key="updates/u.safetensors", size=4_771_336, sha256="4" * 64)
    telling.tell(
        "answer",
        **ABOUT,
        outcome="done",
        cases=14,
        cases_used=14,
        trained={"loss": 0.25},
        received={"cases": 4, "values": {"dice/mean": 0.5}},
        key="answers/a01.json",
        size=1000,
        sha256="5" * 64,
    )
    return telling


def log(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["log", *map(str, arguments)])


def refused(result: Result, code: Exit = Exit.BAD_INPUT) -> str:
    assert isinstance(result.exception, CommandError), result.output
    assert result.exception.code == code
    return str(result.exception)


# --- verify ----------------------------------------------------------------------------------------------------------


def test_a_whole_log_is_told_with_its_head_and_its_dates(telling: Telling) -> None:
    result = log("verify")
    assert result.exit_code == Exit.DONE
    head = telling.log.head
    assert head is not None
    assert "8 lines" in result.output
    assert "first 2026-03-02 08:01:00, last 2026-03-02 08:08:00 UTC" in result.output
    assert f"head: line 8, sha256 {head.sha256}" in result.output
    assert "--answers or a digest noted before (--head)" in result.output
    said = json.loads(log("verify", "--json").output)
    assert (said["whole"], said["lines"], said["head"], said["anchors"]) == (True, 8, head.model_dump(), 0)


def test_the_log_may_lie_elsewhere(telling: Telling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert "--log FILE names the log itself" in refused(log("verify"))
    for arguments in (("--site", tmp_path), ("--site", tmp_path / "site.toml"), ("--log", telling.path)):
        assert "8 lines" in log("verify", *arguments).output


def test_a_changed_byte_is_named_by_its_line_and_exits_1(telling: Telling) -> None:
    data = telling.path.read_bytes()
    telling.path.write_bytes(data.replace(b"4771336", b"4771335"))
    assert "line 7 was changed" in refused(log("verify"), Exit.ENDED_BADLY)
    result = log("verify", "--json")
    assert (result.exit_code, json.loads(result.output)["line"]) == (Exit.ENDED_BADLY, 7)


def test_a_cut_end_is_found_with_a_digest_noted_before(telling: Telling) -> None:
    head = telling.log.head
    assert head is not None
    assert "vouched for by 1" in log("verify", "--head", head.sha256.upper()).output
    lines = telling.path.read_bytes().splitlines(keepends=True)
    telling.path.write_bytes(b"".join(lines[:-1]))
    assert log("verify").exit_code == Exit.DONE
    assert "the end was cut off" in refused(log("verify", "--head", head.sha256), Exit.ENDED_BADLY)
    assert "is no SHA-256" in refused(log("verify", "--head", "7"))


def test_answers_at_the_hub_show_that_a_log_was_written_anew(telling: Telling, tmp_path: Path) -> None:
    answer = telling.answer()
    hub = tmp_path / "hub"
    hub.mkdir()
    (hub / "a01.json").write_text(answer.model_dump_json(indent=1))
    other = answer.model_copy(update={"site": "clinic-2", "log": LogHead(number=3, sha256="0" * 64)})
    (hub / "other.json").write_bytes(canonical_json(other))
    (hub / "journal.json").write_text("{}")
    assert "vouched for by 1" in log("verify", "--answers", hub).output

    before = telling.path.read_text()
    forged = Telling(tmp_path / "forged.jsonl")
    for line in map(json.loads, before.splitlines()):
        facts = {name: value for name, value in line.items() if name not in ("v", "number", "at", "what", "previous")}
        forged.tell(line["what"], **{**facts, **({"rule": "other"} if line["what"] == "task" else {})})
    telling.path.write_bytes(forged.path.read_bytes())
    assert log("verify").exit_code == Exit.DONE
    said = refused(log("verify", "--answers", hub / "a01.json"), Exit.ENDED_BADLY)
    assert "line 8 was changed" in said
    assert "a01.json gives another digest for it" in said


def test_an_answer_without_a_line_of_its_own_is_found(telling: Telling, tmp_path: Path) -> None:
    (tmp_path / "a01.json").write_bytes(canonical_json(telling.answer().model_copy(update={"steps": 3})))
    said = refused(log("verify", "--answers", "a01.json"), Exit.ENDED_BADLY)
    assert "no line tells of a01.json" in said


def test_answers_of_other_sites_and_what_is_no_answer_are_bad_input(telling: Telling, tmp_path: Path) -> None:
    other = telling.answer().model_copy(update={"site": "clinic-2"})
    (tmp_path / "other.json").write_bytes(canonical_json(other))
    assert "these are of clinic-1, clinic-2" in refused(log("verify", "--answers", "other.json"))
    assert "is no answer" in refused(log("verify", "--answers", "site.toml"))
    (tmp_path / "empty").mkdir()
    assert "there is no answer of this site" in refused(log("verify", "--answers", "empty"))


def test_a_log_that_is_not_there_is_bad_input(telling: Telling) -> None:
    telling.path.unlink()
    for command in (["verify"], ["export"], ["left", "--since", "2026-03-01"]):
        assert "there is no log" in refused(log(*command))
    telling.path.touch()
    assert "no line yet" in log("verify").output


def test_the_log_is_found_where_the_services_environment_puts_it(
    telling: Telling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = telling.path.rename(tmp_path / "state.jsonl")
    monkeypatch.setenv("WARDROUND_SITE_AGENT__PATHS__LOG", str(moved))
    assert f"{moved}: 8 lines" in log("verify").output
    assert len(exported(log("export", "--site", tmp_path).output)) == 8
    monkeypatch.setenv("WARDROUND_SITE_AGENT__PATHS__LOG", "7")
    assert "(--log FILE names the log itself)" in refused(log("verify"))


# --- export ----------------------------------------------------------------------------------------------------------


def exported(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_the_table_has_a_row_for_each_line_and_always_the_same_columns(telling: Telling) -> None:
    rows = exported(log("export", "--csv").output)
    assert tuple(rows[0]) == COLUMNS
    assert [row["what"] for row in rows] == [
        *("offer", "consent", "person", "task", "metrics", "metrics", "update", "answer")
    ]
    update, answer = rows[6], rows[7]
    assert (update["size"], update["rule"], update["cases_used"]) == ("4771336", "brain", "14")
    assert json.loads(answer["received"]) == {"cases": 4, "values": {"dice/mean": 0.5}}
    assert json.loads(rows[4]["more"]) == {"step": 1}
    assert answer["previous"] == update["line_sha256"]


def test_no_cell_is_taken_for_a_formula(telling: Telling) -> None:
    for name in ("+1", "@SUM(1)", "\t=1", "-1"):
        telling.tell("person", by=name)
    rows = exported(log("export").output)
    assert (rows[2]["by"], rows[2]["reason"]) == ("'=HYPERLINK(1)", "'- audit\nof the house")
    assert [row["by"] for row in rows[-4:]] == ["'+1", "'@SUM(1)", "'\t=1", "'-1"]


def test_the_table_goes_into_a_file_that_is_there_only_when_it_is_whole(telling: Telling, tmp_path: Path) -> None:
    assert log("export", "-o", "log.csv").exit_code == Exit.DONE
    assert (tmp_path / "log.csv").read_text() == log("export").output
    assert isinstance(log("export", "-o", "absent/log.csv").exception, OSError)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["audit.jsonl", "log.csv", "site.toml"]


def test_a_line_that_cannot_be_read_has_a_row_that_says_so(telling: Telling) -> None:
    with telling.path.open("ab") as file:
        file.write(b'{"at":"20')
    telling.tell("person", by="somebody")
    rows = exported(log("export").output)[-3:]
    assert [row["what"] for row in rows] == ["unreadable", "torn", "person"]
    assert (rows[0]["line"], rows[0]["number"], rows[0]["reason"]) == ("9", "", "is not JSON")


# --- what left -------------------------------------------------------------------------------------------------------


def test_what_left_is_told_in_words_with_totals(telling: Telling) -> None:
    result = log("left", "--since", "2026-03-02")
    assert result.exit_code == Exit.DONE
    paragraphs = result.output.split("\n\n")
    assert [paragraph.split("  ")[1].split(",")[0] for paragraph in paragraphs[:-1]] == [
        "the clinic's word",
        "the weights",
        "reports during the training: 2",
        "the answer",
    ]
    weights = paragraphs[1]
    assert f"2026-03-02 08:07:00  the weights, for {TASK}" in weights
    assert "study 'glioma'; asked by researcher-a; allowed by rule 'brain'" in weights
    assert "cases used: 14" in weights
    assert "4771336 bytes: updates/u.safetensors" in weights
    assert f"sha256 {'4' * 64}" in weights
    assert "08:05:00 to 2026-03-02 08:06:00" in paragraphs[2]
    assert "with loss, step" in paragraphs[2]
    assert "figures of the model received, on 4 cases, a number that left: dice/mean 0.5" in paragraphs[3]
    assert "update: 1 (4,771,336 bytes); answer: 1 (1,000 bytes); metrics: 2 (400 bytes)" in paragraphs[-1]


def test_it_says_what_leaves_without_a_line() -> None:
    said = " ".join(log("left", "--help").output.split())
    assert "no object and no figure left without one" in said
    assert "Without a line leaves that the clinic is there" in said


def test_a_no_is_told_as_a_no(telling: Telling) -> None:
    telling.tell("answer", **ABOUT, outcome="refused", code="too_few_cases", key="k", size=1, sha256="6" * 64)
    last = log("left", "--since", "2026-03-02").output.split("\n\n")[-2]
    assert "it is a no by rule 'brain'" in last
    assert "refused too_few_cases" in last


def test_days_are_whole_and_times_are_exact(telling: Telling) -> None:
    def count(*arguments: str) -> int:
        return len(log("left", "--json", *arguments).output.splitlines()) - 1

    assert count("--since", "2026-03-02") == 5
    assert count("--since", "2026-03-03") == 0
    assert count("--since", "2026-03-01", "--until", "2026-03-02") == 5
    assert count("--since", "2026-03-01", "--until", "2026-03-01") == 0
    assert count("--since", "2026-03-02T08:06:00Z", "--until", "2026-03-02T08:08:00") == 2
    assert count("--since", "2026-03-02T10:06:00+02:00") == 3
    assert count("--since", "2026-03-02", "--experiment", "tumour") == 5
    assert count("--since", "2026-03-02", "--experiment", "heart") == 0


def test_what_left_is_told_to_programs_line_by_line(telling: Telling) -> None:
    *departed, last = map(json.loads, log("left", "--since", "2026-03-02", "--json").output.splitlines())
    assert [each["what"] for each in departed] == ["consent", "metrics", "metrics", "update", "answer"]
    assert (departed[3]["number"], departed[3]["key"], "previous" in departed[3]) == (7, "updates/u.safetensors", False)
    assert last["totals"]["update"] == {"count": 1, "bytes": 4_771_336}


@pytest.mark.parametrize("date", ["yesterday", "2026-02-30", "", "2026-03-02T25:00:00Z", "26-3-1"])
def test_a_date_that_is_none_is_bad_input(telling: Telling, date: str) -> None:
    assert "is no date" in refused(log("left", "--since", date))
    assert "is no date" in refused(log("left", "--since", "2026-03-01", "--until", date or "x"))


def test_reports_of_tasks_that_never_ended_are_told_all_the_same(telling: Telling) -> None:
    for number in range(TASKS_AT_MOST + 5):
        telling.tell("metrics", task=f"task-{number}", metrics={}, size=1)
    told = log("left", "--since", "2026-03-02").output
    assert all(f"for task-{number}\n" in told for number in range(TASKS_AT_MOST + 5))


def test_what_cannot_be_read_is_counted_and_cannot_steer_the_terminal(telling: Telling) -> None:
    telling.tell("consent", reason="\x1b[2J", key="k", size=1, sha256="7" * 64)
    with telling.path.open("ab") as file:
        file.write(b"garbage\n")
    result = log("left", "--since", "2026-03-02")
    assert "\x1b" not in result.output
    assert "Lines that cannot be read: 1" in result.output
