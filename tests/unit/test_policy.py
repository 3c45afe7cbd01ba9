from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.site_agent.policy import Leave, Policy, Request, load_policy, requests_of
from wardround_messages.manifest import Cohort, CommonTest, Evaluation, Manifest, Rounds, Training
from wardround_messages.names import Task

CODE = "ab" * 32

POLICY = f"""
schema  = 1
default = "deny"
[leave]
update_at_most = "200 MB"
metrics        = ["loss", "dice/*"]
errors         = "code"
[[allow]]
id           = "glioma"
study        = "glioma"
requested_by = ["researcher-a"]
trainers     = ["brain-tumour-unet"]
datasets     = ["brain-mri"]
at_most      = {{ rounds = 500, epochs = 8 }}
at_least     = {{ cases = 10, sites = 3 }}
[[allow]]
id           = "pinned"
study        = "lung"
requested_by = ["researcher-a", "researcher-b"]
trainers     = {{ chest-cnn = "sha256:{CODE}" }}
datasets     = ["ct"]
approval     = "manual"
[allow.leave]
errors         = "text"
update_at_most = "1 MiB"
"""

GLIOMA = Request(
    kind="offer",
    study="glioma",
    requested_by="researcher-a",
    trainer="brain-tumour-unet",
    code_sha256=CODE,
    dataset="brain-mri",
    rounds=500,
    epochs=8,
    sites=3,
)
LUNG = replace(GLIOMA, study="lung", trainer="chest-cnn", dataset="ct")


def policy_of(tmp_path: Path, text: str = POLICY) -> Policy:
    (tmp_path / "policy.toml").write_text(text)
    return load_policy(tmp_path / "policy.toml")


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    return policy_of(tmp_path)


# --- deny by default ---------------------------------------------------------------------------------------------


def test_without_rules_nothing_is_allowed() -> None:
    decision = Policy().judge(GLIOMA)
    assert (decision.verdict, decision.rule, decision.code) == ("deny", None, "policy")


def test_a_missing_policy_denies_everything_and_says_so(tmp_path: Path) -> None:
    decision = load_policy(tmp_path / "policy.toml").judge(GLIOMA)
    assert (decision.verdict, decision.code) == ("deny", "policy_missing")
    assert "has no policy" in decision.reason


@pytest.mark.parametrize("text", ["", "\n# nothing yet\n"])
def test_an_empty_policy_denies_everything_and_says_so(tmp_path: Path, text: str) -> None:
    decision = policy_of(tmp_path, text).judge(GLIOMA)
    assert (decision.verdict, decision.code) == ("deny", "policy_missing")
    assert "is empty" in decision.reason


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        (('"deny"', '"allow"'), "default: Input should be 'deny'"),
        (("schema  = 1", "schema  = 3"), "schema: must be 1"),
        (("[leave]", "[leaves]"), "unknown key 'leaves'; valid keys are default, leave, allow"),
        (
            ("at_most      = { rounds", "at_most      = { round"),
            "allow[1].at_most: unknown key 'round'",
        ),
        (('id           = "glioma"\n', ""), "allow[1].id: is missing"),
        (('study        = "glioma"\n', ""), "allow[1].study: is missing"),
        (('requested_by = ["researcher-a"]\n', ""), "allow[1].requested_by: is missing"),
        (('["researcher-a"]', "[]"), "allow[1].requested_by: "),
        (('["researcher-a"]', '"researcher-a"'), "allow[1].requested_by: "),
        (('["brain-tumour-unet"]', "7"), "allow[1].trainers: must be a list of names, or a table"),
        (('["brain-tumour-unet"]', "[7]"), "allow[1].trainers: must be a list of names, or a table"),
        (('["brain-tumour-unet"]', "[]"), "allow[1].trainers: "),
        ((f"sha256:{CODE}", "sha256:abc"), "allow[2].trainers.chest-cnn: "),
        (('"200 MB"', '"200 mb"'), "leave.update_at_most: must be a size such as '200 MB'"),
        (('"200 MB"', "200"), "leave.update_at_most: must be a size such as '200 MB'"),
        (('errors         = "code"', "errors = 'all'"), "leave.errors: Input should be 'code' or 'text'"),
        (('"manual"', '"never"'), "allow[2].approval: Input should be 'automatic' or 'manual'"),
        (("rounds = 500", "rounds = 0"), "allow[1].at_most.rounds: "),
        (("sites = 3", "sites = true"), "allow[1].at_least.sites: "),
        (('id           = "pinned"', 'id = "glioma"'), "two rules have the id 'glioma'"),
        (("[leave]", "[leave"), "is not TOML"),
        (("[leave]", "[leave]\nerrors = 'text'"), "is not TOML"),
    ],
)
def test_a_broken_policy_denies_everything_and_tells_the_clinic_alone_what_is_wrong(
    tmp_path: Path, change: tuple[str, str], detail: str
) -> None:
    assert change[0] in POLICY
    policy = policy_of(tmp_path, POLICY.replace(*change, 1))
    decision = policy.judge(GLIOMA)
    assert (decision.verdict, decision.code) == ("deny", "policy_unreadable")
    assert policy.fault is not None
    assert detail in policy.fault.detail
    assert str(tmp_path) in policy.fault.detail
    assert str(tmp_path) not in decision.reason


def test_a_policy_that_is_a_folder_denies_everything(tmp_path: Path) -> None:
    assert load_policy(tmp_path).judge(GLIOMA).code == "policy_unreadable"


# --- rules -------------------------------------------------------------------------------------------------------


def test_a_rule_whose_conditions_are_all_met_allows_and_is_named(policy: Policy) -> None:
    decision = policy.judge(GLIOMA)
    assert (decision.verdict, decision.rule, decision.code) == ("allow", "glioma", "allowed")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"requested_by": "researcher-b"}, "requested_by 'researcher-b' is not among those allowed"),
        ({"trainer": "other"}, "trainer 'other' is not among those allowed"),
        ({"dataset": "brain-ct"}, "dataset 'brain-ct' is not among those allowed"),
        ({"rounds": 501}, "rounds is 501, at most 500 allowed"),
        ({"epochs": 9}, "epochs is 9, at most 8 allowed"),
        ({"sites": 2}, "sites is 2, at least 3 needed"),
        ({"cases": 9}, "cases is 9, at least 10 needed"),
        ({"cases": 9, "task": Task.TRAIN}, "cases is 9, at least 10 needed"),
    ],
)
def test_each_condition_denies_with_the_rule_and_what_is_allowed(
    policy: Policy, change: dict[str, object], reason: str
) -> None:
    decision = policy.judge(replace(GLIOMA, **change))  # type: ignore[arg-type]
    assert (decision.verdict, decision.rule, decision.code) == ("deny", "glioma", "policy")
    assert decision.reason == f"rule 'glioma' does not allow it: {reason}"


def test_a_study_that_no_rule_is_about_learns_nothing_of_other_studies(policy: Policy) -> None:
    decision = policy.judge(replace(GLIOMA, study="heart"))
    assert (decision.verdict, decision.rule) == ("deny", None)
    assert decision.reason == "no rule allows anything for study 'heart'"


def test_the_rule_that_comes_closest_says_what_was_amiss(tmp_path: Path) -> None:
    begin = POLICY.index("[[allow]]")
    rule = POLICY[begin : POLICY.index("[[allow]]", begin + 1)]
    closer = POLICY + rule.replace('"glioma"', '"closer"', 1).replace("researcher-a", "researcher-c")
    decision = policy_of(tmp_path, closer).judge(replace(GLIOMA, requested_by="researcher-c", rounds=501))
    assert decision.rule == "closer"
    assert "researcher" not in decision.reason


def test_the_first_rule_that_matches_decides(tmp_path: Path) -> None:
    first = POLICY.replace('id           = "pinned"\nstudy        = "lung"', 'id = "pinned"\nstudy = "glioma"')
    second_too = first.replace("chest-cnn", "brain-tumour-unet").replace('["ct"]', '["brain-mri"]')
    policy = policy_of(tmp_path, second_too)
    assert policy.judge(GLIOMA).rule == "glioma"
    assert policy.judge(replace(GLIOMA, requested_by="researcher-b")).rule == "pinned"


def test_cases_do_not_matter_where_no_patient_is_counted(policy: Policy) -> None:
    for task in (Task.INITIALISE, Task.CHECK):
        assert policy.judge(replace(GLIOMA, cases=0, task=task)).verdict == "allow"


def test_manual_approval_leaves_it_to_a_person(policy: Policy) -> None:
    decision = policy.judge(LUNG)
    assert (decision.verdict, decision.rule, decision.code) == ("ask", "pinned", "approval")


@pytest.mark.parametrize(("installed", "said"), [("cd" * 32, "is sha256:cdcdcdcdcdcd..."), (None, "is not known here")])
def test_a_pinned_trainer_is_allowed_with_that_code_only(policy: Policy, installed: str | None, said: str) -> None:
    decision = policy.judge(replace(LUNG, code_sha256=installed))
    assert decision.verdict == "deny"
    assert said in decision.reason
    assert CODE not in decision.reason


def test_examining_lists_every_rule_with_its_unmet_conditions(policy: Policy) -> None:
    examined = {rule.id: unmet for rule, unmet in policy.examine(LUNG)}
    assert examined["pinned"] == ()
    assert [problem.split()[0] for problem in examined["glioma"]] == ["study", "trainer", "dataset"]


def test_the_longest_reason_fits_into_an_answer(tmp_path: Path) -> None:
    long = "a" * 40
    decision = policy_of(tmp_path).judge(
        replace(GLIOMA, requested_by=long, trainer=long, dataset=long, rounds=10**9, epochs=10**9, sites=1, cases=1)
    )
    assert len(decision.reason) <= 400


# --- what an offer asks for --------------------------------------------------------------------------------------


def test_an_offer_asks_for_the_common_test_too_where_it_is_held() -> None:
    manifest = Manifest(
        id="brain-tumour",
        study="glioma",
        purpose="",
        cohort=Cohort(sites=("clinic-1", "clinic-2")),
        rounds=Rounds(count=10),
        training=Training(trainer="brain-tumour-unet", dataset="brain-mri", epochs=4),
        evaluation=Evaluation(test=CommonTest(site="clinic-1", dataset="brain-mri-test")),
    )
    at_its_site = requests_of(manifest, "clinic-1", requested_by="researcher-a", code_sha256=CODE, rounds=20)
    elsewhere = requests_of(manifest, "clinic-2", requested_by="researcher-a", code_sha256=None)
    assert [request.dataset for request in at_its_site] == ["brain-mri", "brain-mri-test"]
    assert [request.dataset for request in elsewhere] == ["brain-mri"]
    assert (at_its_site[0].rounds, elsewhere[0].rounds) == (20, 10)
    assert (elsewhere[0].epochs, elsewhere[0].sites) == (4, 2)


# --- what may leave ----------------------------------------------------------------------------------------------


def test_without_a_word_on_it_no_metric_and_no_error_text_leaves() -> None:
    assert Leave().metrics_allowed({"loss": 0.5}) == ({}, 1)
    assert Leave().errors == "code"


def test_metrics_leave_by_name_and_the_others_are_counted(policy: Policy) -> None:
    values = {"loss": 0.5, "dice/mean": None, "dice/core/left": 0.1, "dice": 1.0, "loss2": 2.0, "Loss": 3.0}
    kept, kept_back = policy.leave.metrics_allowed(values)
    assert kept == {"loss": 0.5, "dice/mean": None, "dice/core/left": 0.1}
    assert kept_back == 3


@given(st.dictionaries(st.text("abc/", max_size=6), st.none() | st.floats(allow_nan=False)))
def test_each_metric_either_leaves_as_it_is_or_is_counted(values: dict[str, float | None]) -> None:
    kept, kept_back = Leave(metrics=("a*", "b")).metrics_allowed(values)
    assert kept.items() <= values.items()
    assert len(kept) + kept_back == len(values)
    assert all(name == "b" or name.startswith("a") for name in kept)


def test_a_rule_may_set_bounds_of_its_own_and_has_those_of_all_besides(policy: Policy) -> None:
    assert policy.leave_of("glioma") == policy.leave_of(None) == policy.leave
    own = policy.leave_of("pinned")
    assert (own.errors, own.update_at_most, own.metrics) == ("text", 2**20, ("loss", "dice/*"))
