"""A check: the throwaway's manifest, what an answer comes to, and what a person is shown."""

import json
import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
import typer
from course import BEGIN, Course, manifest_of, only

from wardround.client.advice import advice_on
from wardround.client.check import Check, check_id, check_of
from wardround.client.checked import Checked, SiteChecked, site_checked, why_silent
from wardround.client.cli import check as cli
from wardround.client.cli.errors import CommandError, Exit
from wardround.client.errors import HubError, UnusableError
from wardround.client.sites import SiteShown
from wardround.site_agent.policy import requests_of
from wardround.site_agent.standstill import WORDS
from wardround_messages import journal as facts
from wardround_messages.manifest import Brought, Cohort, Manifest, ModelPlan, Rounds, Training
from wardround_messages.names import Task, is_id
from wardround_messages.objects import Answer, Consent
from wardround_messages.parts import Failure, Trainer

TRUE = Manifest(
    id="brain-tumour",
    study="glioma",
    purpose="Segment",
    seed=7,
    cohort=Cohort(sites=("clinic-1", "clinic-2", "clinic-3"), quorum="66%", sample=2),
    rounds=Rounds(count=300),
    model=ModelPlan(initial=Brought(size=4, sha256="a" * 64)),
    training=Training(trainer="brain-tumour-unet", dataset="brain-mri", epochs=8, parameters={"batch_size": 2}),
)
CHECK = check_of(TRUE, id="brain-tumour-check-1", within=120)
UNET = Trainer(name="brain-tumour-unet", version="1.0", code_sha256="c" * 64)
OTHER = Trainer(name="brain-tumour-unet", version="1.0", code_sha256="d" * 64)


def checked(*sites: SiteChecked, quorum: int = 2) -> Checked:
    return Checked("brain-tumour", "brain-tumour-check-1", quorum, sites)


def consent(verdict: Any = "granted", **parts: Any) -> Consent:
    return Consent(
        experiment=CHECK.id,
        site="clinic-1",
        manifest_sha256=CHECK.sha256,
        number=1,
        offer=0,
        verdict=verdict,
        rounds=300,
        at=BEGIN,
        **{"code": "allowed", "rule": "glioma", "trainer": UNET} | parts,
    )


def answer(outcome: Any = "done", failure: Failure | None = None, **parts: Any) -> Answer:
    return Answer(
        experiment=CHECK.id,
        round=0,
        task=Task.CHECK,
        site="clinic-1",
        attempt=1,
        outcome=outcome,
        failure=failure,
        at=BEGIN,
        **{"manifest_sha256": CHECK.sha256, "trainer": UNET} | parts,
    )


# --- the manifest ----------------------------------------------------------------------------------------------------


def test_a_policy_is_asked_the_same_of_a_check_as_of_the_experiment() -> None:
    asked, true = (
        requests_of(manifest, "clinic-1", requested_by="researcher-a", code_sha256=None) for manifest in (CHECK, TRUE)
    )
    assert asked == true
    assert (CHECK.training, CHECK.study, CHECK.purpose, CHECK.evaluation) == (
        TRUE.training,
        TRUE.study,
        TRUE.purpose,
        TRUE.evaluation,
    )


def test_a_check_ends_in_its_time_and_needs_no_quorum_and_no_model() -> None:
    assert (CHECK.mode, CHECK.cohort.quorum, CHECK.cohort.sample) == ("check", 1, "all")
    assert CHECK.cohort.enrol + CHECK.rounds.deadline == 120
    assert (CHECK.rounds.on_missed, CHECK.rounds.attempts) == ("fail", 1)
    assert CHECK.rounds.grace == CHECK.rounds.deadline
    assert CHECK.model.initial.kind == "trainer"
    assert check_of(TRUE, id="brain-tumour-check-1", within=120).sha256 == CHECK.sha256


@pytest.mark.parametrize("experiment", ["a", "brain-tumour", "a" * 40, f"{'a' * 24}-{'b' * 15}"])
def test_each_check_has_an_id_of_its_own(experiment: str) -> None:
    ids = {check_id(experiment) for _ in range(20)}
    assert len(ids) == 20
    assert all(is_id(each, 40) and each.startswith(experiment[:20]) and "-check-" in each for each in ids)


# --- the coordinator -------------------------------------------------------------------------------------------------


def test_a_check_waits_for_nobody_who_would_have_to_decide() -> None:
    course = Course(manifest_of(mode="check", quorum=1))
    course.consent("clinic-1")
    course.consent("clinic-2", "pending")
    closed = only(course.consent("clinic-3", "declined"), facts.EnrolmentClosed)
    assert (closed.granted, closed.others) == (("clinic-1",), ("clinic-2", "clinic-3"))
    assert [task.site for task in course.asked()] == ["clinic-1"]


def test_a_check_that_only_people_could_grant_is_over_at_once() -> None:
    course = Course(manifest_of(mode="check", quorum=1, rounds={"on_missed": "fail"}))
    for site in ("clinic-1", "clinic-2", "clinic-3"):
        course.consent(site, "pending")
    assert course.known.phase == "failed"


def test_a_training_still_waits_for_the_people() -> None:
    course = Course(manifest_of(quorum=1))
    course.consent("clinic-1")
    course.consent("clinic-2", "pending")
    course.consent("clinic-3", "declined")
    assert course.known.phase == "enrolling"


def test_one_site_that_fails_does_not_end_the_trying_of_the_others() -> None:
    course = Course(check_of(manifest_of(), id="glioma-1-check", within=120))
    course.enrol()
    course.answer("clinic-1", "failed")
    assert [task.site for task in course.asked()] == ["clinic-2", "clinic-3"]
    course.answer("clinic-2")
    assert course.wait(seconds=70) == []
    course.answer("clinic-3")
    assert course.known.phase == "finished"


# --- what an answer comes to -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "result", "asked", "expected"),
    [
        (None, None, False, ("silent", "", "")),
        (consent("declined", code="policy", reason="no"), None, False, ("declined", "policy", "no")),
        (consent("withdrawn", code="withdrawn"), None, True, ("declined", "withdrawn", "")),
        (consent("pending", code="approval"), None, False, ("pending", "approval", "")),
        (consent(), None, False, ("late", "", "")),
        (consent(), None, True, ("unanswered", "", "")),
        (
            consent(),
            answer("cancelled", Failure(phase="training", code="step_closed"), by_hub=True),
            True,
            ("unanswered", "", ""),
        ),
        (consent(), answer(), True, ("ready", "", "")),
        (consent(), answer(manifest_sha256="0" * 64), True, ("failed", "wrong_manifest", "")),
        (
            consent(),
            answer("refused", Failure(phase="data", code="data_missing", hint="there is no folder")),
            True,
            ("refused", "data_missing", "there is no folder"),
        ),
        (consent(), answer("failed", Failure(phase="train", code="gpu_missing")), True, ("failed", "gpu_missing", "")),
        (consent(), answer("cancelled", Failure(phase="data", code="cancelled")), True, ("failed", "cancelled", "")),
    ],
)
def test_what_a_site_said_comes_to_one_result(
    word: Consent | None, result: Answer | None, asked: bool, expected: tuple[str, str, str]
) -> None:
    found = site_checked("clinic-1", CHECK, word, result, asked=asked)
    assert (found.result, found.code, found.reason) == expected
    assert (advice_on(found) is None) == (found.result == "ready")


@pytest.mark.parametrize(
    ("results", "outcome"),
    [
        (("ready", "ready", "ready"), "ready"),
        (("ready", "pending", "ready"), "ready"),
        (("ready", "ready", "declined"), "failed"),
        (("ready", "ready", "silent"), "failed"),
        (("ready", "declined", "refused"), "refused"),
        (("failed", "failed", "declined"), "failed"),
    ],
)
def test_refusals_count_when_the_quorum_is_out_of_reach_with_them(results: Any, outcome: str) -> None:
    sites = [SiteChecked(f"clinic-{number}", result) for number, result in enumerate(results)]
    assert checked(*sites).outcome == outcome


def test_different_code_is_a_warning() -> None:
    same = SiteChecked("clinic-1", "ready", ran=UNET), SiteChecked("clinic-2", "pending", listed=UNET)
    assert checked(*same).warnings == ()
    (warning,) = checked(*same, SiteChecked("clinic-3", "ready", ran=OTHER)).warnings
    assert warning == (
        "the trainer's code differs between clinics: clinic-1, clinic-2: brain-tumour-unet 1.0 · cccccccc; "
        "clinic-3: brain-tumour-unet 1.0 · dddddddd"
    )
    (warning,) = checked(SiteChecked("clinic-1", "ready", listed=UNET, ran=OTHER)).warnings
    assert warning.startswith("clinic-1 lists brain-tumour-unet 1.0 · cccccccc and trains with ")


GUIDE = Path(__file__).parents[2] / "docs" / "guide-clinic.md"


def codes_of_airflow() -> list[str]:
    """Those in the guide's table."""
    section = GUIDE.read_text().partition("\n## Airflow\n")[2].partition("\n## ")[0]
    table = section.partition("| code | means |")[2]
    return [code for row in re.findall(r"^\| (`[^|]*) \|", table, re.MULTILINE) for code in re.findall(r"`(\w+)`", row)]


def test_the_guide_has_a_table_of_codes() -> None:
    assert {"airflow_login", "dag_paused", "crashed", "cancelled"} <= set(codes_of_airflow())


@pytest.mark.parametrize("code", [*codes_of_airflow(), "site_stopped", "agent_error"])
def test_every_code_of_a_clinics_scheduler_has_advice_of_its_own(code: str) -> None:
    advice, of_any_other = (
        advice_on(SiteChecked("clinic-1", "failed", "training", each)) for each in (code, "made_up_by_a_trainer")
    )
    assert advice is not None
    assert advice != of_any_other
    assert advice.who == ("data owner" if code == "site_stopped" else "IT")


def seen(site: str, detail: str) -> SiteShown:
    return SiteShown(
        site=site,
        agent_version="1",
        trainers=(),
        datasets=(),
        slots=1,
        free=1,
        tasks=(),
        status="degraded" if detail else "ok",
        detail=detail,
        seen_at=BEGIN,
        seen_ago=1.0,
        quiet=False,
    )


def test_a_silent_clinic_that_was_stopped_by_its_people_is_told_from_one_that_is_away() -> None:
    before = checked(
        SiteChecked("clinic-1", "silent"), SiteChecked("clinic-2", "silent"), SiteChecked("clinic-3", "ready")
    )
    told = why_silent(before, [seen("clinic-1", WORDS), seen("clinic-2", "the disk is full"), seen("clinic-3", WORDS)])
    assert [(site.result, site.code) for site in told.sites] == [
        ("silent", "site_stopped"),
        ("silent", ""),
        ("ready", ""),
    ]
    stopped, away = (advice_on(site) for site in told.sites[:2])
    assert stopped is not None
    assert "wardround site resume" in stopped.what
    assert away is not None
    assert "is the clinic's agent running?" in away.what
    assert (cli._why(told.sites[0]), cli._why(told.sites[1])) == ("stopped by its people", "it said nothing")


class Quiet:
    """A hub at which a check is over at once, and no clinic has said anything."""

    def __init__(self, shown: tuple[SiteShown, ...] | HubError) -> None:
        self.shown = shown

    async def start(self, manifest: Manifest) -> None:
        """Accepted."""

    async def watch(self, experiment: str) -> AsyncGenerator[object, None]:
        for view in ():
            yield view

    async def checked(self, *_: object) -> Checked:
        return checked(SiteChecked("clinic-1", "silent"))

    async def sites(self) -> tuple[SiteShown, ...]:
        if isinstance(self.shown, HubError):
            raise self.shown
        return self.shown


@pytest.mark.parametrize(
    ("shown", "code"),
    [((seen("clinic-1", WORDS),), "site_stopped"), ((), ""), (UnusableError("no metrics address"), "")],
)
async def test_the_hub_is_asked_why_a_clinic_is_silent_and_need_not_know(shown: Any, code: str) -> None:
    hub: Any = Quiet(shown)
    (site,) = (await Check(hub, TRUE, CHECK).carry_out()).sites
    assert (site.result, site.code) == ("silent", code)


# --- what a person is shown ------------------------------------------------------------------------------------------


def shown(capsys: pytest.CaptureFixture[str], outcome: Checked, **options: Any) -> str:
    cli._show(outcome, cli.Path("glioma.toml"), None, as_json=False, **options)
    return capsys.readouterr().out


def test_all_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, checked(SiteChecked("clinic-1", "ready", ran=UNET), SiteChecked("clinic-2", "ready", ran=UNET)))
    assert "✔  clinic-1  ready   brain-tumour-unet 1.0 · cccccccc" in out
    assert out.endswith("brain-tumour: every clinic could begin. Start it: wardround start glioma.toml\n")


def test_each_clinic_has_its_line_with_who_is_to_act(capsys: pytest.CaptureFixture[str]) -> None:
    mixed = checked(
        SiteChecked("clinic-1", "ready", ran=UNET),
        SiteChecked("clinic-2", "declined", code="policy", reason="rule 'glioma' does not allow it: \x1b[2J"),
        SiteChecked("clinic-3", "failed", "train", "gpu_missing"),
        SiteChecked("clinic-4", "silent"),
        SiteChecked("clinic-5", "pending", code="approval", reason="rule 'x' leaves it to a person at the clinic"),
        SiteChecked("clinic-6", "unanswered", "queued"),
        SiteChecked("clinic-7", "refused", "data", "made_up_by_a_trainer"),
    )
    with pytest.raises(CommandError, match="brain-tumour: something is amiss at clinic-2, clinic-3, clinic-4") as end:
        shown(capsys, mixed)
    assert end.value.code == Exit.ENDED_BADLY
    lines = {line.split()[1]: line for line in capsys.readouterr().out.splitlines()}
    assert "\x1b" not in lines["clinic-2"]
    for site, mark, words, who in (
        ("clinic-2", "✘", "rule 'glioma' does not allow it", "data owner"),
        ("clinic-3", "✘", "train: gpu missing", "IT"),
        ("clinic-4", "?", "silent", "IT"),
        ("clinic-5", "?", "a person must agree", "data owner"),
        ("clinic-6", "?", "it waits for the clinic's scheduler", "researcher"),
        ("clinic-7", "✘", "data: made up by a trainer", "IT"),
    ):
        assert lines[site].startswith(mark)
        assert words in lines[site]
        assert who in lines[site]


def test_refusals_that_spoil_the_quorum_end_with_their_own_code(capsys: pytest.CaptureFixture[str]) -> None:
    refused = checked(
        SiteChecked("clinic-1", "declined", code="parameters", reason="learning_rate: -1 is less than 0"),
        SiteChecked("clinic-2", "declined", code="parameters", reason="learning_rate: -1 is less than 0"),
    )
    with pytest.raises(CommandError, match="would not reach its quorum: clinic-1, clinic-2 refused") as end:
        shown(capsys, refused)
    assert end.value.code == Exit.REFUSED
    assert "learning_rate: -1 is less than 0" in capsys.readouterr().out
    with pytest.raises(typer.Exit) as left:
        cli._show(refused, cli.Path("x"), None, as_json=True)
    assert left.value.exit_code == Exit.REFUSED
    told = json.loads(capsys.readouterr().out)
    assert (told["outcome"], told["ready"], told["sites"][0]["who"]) == ("refused", 0, "researcher")


EXPERIMENT = """
schema = 1
id = "sums"
study = "sums"
[cohort]
sites = ["clinic-1"]
[rounds]
count = 1
[training]
trainer = "adding"
dataset = "counting"
"""


def test_without_a_hub_nobody_is_said_to_be_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sums.toml").write_text(EXPERIMENT)
    monkeypatch.setenv("WARDROUND_HUBS", str(tmp_path / "hubs.toml"))
    with pytest.raises(CommandError, match="no hub is known here"):
        cli.check(tmp_path / "sums.toml", within="10s")
    assert capsys.readouterr().out == ""
