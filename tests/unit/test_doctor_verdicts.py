"""What the doctor makes of what it sees: decisions alone."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from wardround import __version__
from wardround.client.clinic.door import AgentState
from wardround.client.doctor.addresses import Place, judge_certificate, judge_skew
from wardround.client.doctor.agent import judge_agent
from wardround.client.doctor.airflow import Health, judge_health, judge_limit, judge_version
from wardround.client.doctor.hub import judge_clinics
from wardround.client.doctor.probe import judge_data, judge_end, judge_result
from wardround.client.doctor.rights import Found, judge_rights, rights_to_try, should_have
from wardround.client.doctor.room import GB, judge_room, size_text
from wardround.client.doctor.site import room_wanted
from wardround.client.doctor.site_files import judge_policy
from wardround.client.doctor.store import judge_store_rights, rights_of_site
from wardround.client.doctor.stream import judge_newest
from wardround.client.doctor.trainers import judge_trainers
from wardround.client.sites import SiteShown
from wardround.site_agent.policy import Policy, PolicyFile, load_policy
from wardround.site_agent.scheduler.port import RunEnd
from wardround.site_agent.settings import Dataset
from wardround.site_agent.standstill import Stopped
from wardround_messages.parts import Failure, Trainer, TrainerDescription
from wardround_messages.task_folder import TaskResult
from wardround_messages.topology import topology

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
CODE = "c0" * 32
DATASET = Dataset.model_construct(path=(Path("/data/brain-mri"),), layout=None, split_salt=None)
RULE = {
    "id": "glioma",
    "study": "glioma",
    "requested_by": ["researcher-a"],
    "trainers": ["adding"],
    "datasets": ["counting"],
}


def policy(*rules: dict[str, object], update_at_most: str = "200 MB") -> Policy:
    file = PolicyFile.model_validate({"allow": rules, "leave": {"update_at_most": update_at_most}})
    return Policy(file.allow, file.leave)


def described(name: str, code: str = CODE) -> TrainerDescription:
    return TrainerDescription(name=name, version="1", code_sha256=code, parameters_schema={}, metrics={})


# --- addresses, clocks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("not_after", "state"),
    [
        ("May  9 14:00:00 2026 GMT", "ok"),
        ("Mar 10 14:00:00 2026 GMT", "warning"),
        ("Mar  1 12:10:00 2026 GMT", "warning"),
    ],
)
def test_certificate_that_ends_within_two_weeks_is_warned_of(not_after: str, state: str) -> None:
    verdict = judge_certificate(Place.of("amqps://hub.example.org:443"), not_after, NOON)
    assert verdict.state == state


@pytest.mark.parametrize(
    ("ahead", "state", "words"),
    [
        (0.4, "ok", "agrees with the store's"),
        (30.0, "ok", "to 30 s"),
        (61.0, "warning", "61 s ahead of the store's"),
        (-90.0, "warning", "90 s behind the store's"),
        (601.0, "wrong", "from 15 minutes on the store refuses"),
        (-4000.0, "wrong", "4000 s behind"),
    ],
)
def test_clock_is_warned_of_from_a_minute_on_and_wrong_from_ten(ahead: float, state: str, words: str) -> None:
    verdict = judge_skew(ahead, "the store's")
    assert verdict.state == state
    assert words in verdict.what


# --- rights ----------------------------------------------------------------------------------------------------------


def test_rights_that_a_login_should_have_are_those_of_the_topology() -> None:
    logins = {login.name: login for login in topology(("clinic-1",), ("researcher-a",)).logins}

    def expected(name: str, site: str | None = None) -> list[str]:
        return [right.words for right in rights_to_try(site) if should_have(logins[name], right)]

    assert expected("researcher-a") == ["give the coordinator commands", "read the stream of events"]
    assert expected("clinic-1", "clinic-1") == [
        "speak as this clinic",
        "park this clinic's dead letters",
        "read its queue",
    ]
    assert "read dead letters" in expected("operator")


def test_missing_rights_are_wrong_and_further_ones_a_warning() -> None:
    write, other, *_ = rights_to_try()
    assert judge_rights("me", [Found(write, True, True), Found(other, False, False)]).state == "ok"
    lacking = judge_rights("me", [Found(write, True, False), Found(other, False, True)])
    assert (lacking.state, lacking.what) == ("wrong", "'me' may not give the coordinator commands")
    more = judge_rights("me", [Found(write, True, True), Found(other, False, True)])
    assert (more.state, more.what) == ("warning", "'me' may give clinics commands, which it should not")


def test_rights_at_the_store_are_judged_alike() -> None:
    tried = rights_of_site("clinic-1")
    as_wanted = {right: right.should for right in tried}
    assert judge_store_rights("clinic-1", as_wanted).state == "ok"
    assert judge_store_rights("clinic-1", dict.fromkeys(tried, False)).what.startswith("'clinic-1' may not read models")
    assert (
        "write the journal, list objects, which it should not"
        in judge_store_rights("clinic-1", dict.fromkeys(tried, True)).what
    )


# --- hub -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("age", "state"), [(None, "warning"), (timedelta(seconds=20), "ok"), (timedelta(minutes=12), "warning")]
)
def test_stream_without_a_fresh_event_is_warned_of(age: timedelta | None, state: str) -> None:
    assert judge_newest(None if age is None else NOON - age, NOON).state == state


def shown(site: str, *, quiet: bool = False, status: str = "ok", detail: str = "") -> SiteShown:
    return SiteShown(
        site=site,
        agent_version="1",
        trainers=(),
        datasets=(),
        slots=1,
        free=1,
        tasks=(),
        status=status,
        detail=detail,
        seen_at=NOON,
        seen_ago=7200.0 if quiet else 20.0,
        quiet=quiet,
    )


def test_clinics_that_are_quiet_or_not_well_are_named() -> None:
    assert judge_clinics([shown("clinic-1"), shown("clinic-2")]).what == "2 heard of, each in the last 20s"
    assert judge_clinics([]).state == "warning"
    amiss = judge_clinics(
        [shown("a"), shown("b", quiet=True), shown("c", status="degraded", detail="the disk is full")]
    )
    assert amiss.state == "warning"
    assert amiss.what == "b was last heard of 2h ago; c is degraded: the disk is full"


# --- a clinic's files ------------------------------------------------------------------------------------------------


def test_missing_policy_is_wrong_because_everything_is_refused(tmp_path: Path) -> None:
    verdict = judge_policy(load_policy(tmp_path / "policy.toml"), {})
    assert verdict.state == "wrong"
    assert "nothing is allowed" in verdict.what


def test_policy_that_cannot_be_read_says_where(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text("schema = 1\nallow = 3\n")
    verdict = judge_policy(load_policy(file), {})
    assert verdict.state == "wrong"
    assert "policy.toml: allow" in verdict.what


def test_policy_without_a_rule_is_a_warning() -> None:
    assert judge_policy(policy(), {}).what == "it has no rule, so everything is refused"


def test_rule_for_a_data_set_that_is_not_here_is_a_warning_that_names_both() -> None:
    assert judge_policy(policy(RULE), {"counting": DATASET}).state == "ok"
    verdict = judge_policy(policy(RULE), {"brain-mri": DATASET})
    assert verdict.state == "warning"
    assert verdict.what == "rule 'glioma' allows data set 'counting', which site.toml does not have"


def test_trainer_that_a_rule_allows_must_be_installed_as_pinned() -> None:
    assert judge_trainers(policy(RULE), [described("adding")]).state == "ok"
    assert judge_trainers(policy(RULE), [described("other")]).what == (
        "rule 'glioma' allows trainer 'adding', which is not installed"
    )
    pinned = policy(RULE | {"trainers": {"adding": f"sha256:{CODE}"}})
    assert judge_trainers(pinned, [described("adding")]).state == "ok"
    other = judge_trainers(pinned, [described("adding", "ab" * 32)])
    assert other.state == "warning"
    assert "installed is sha256:abababababab..." in other.what


def test_room_is_wanted_for_three_updates_and_five_gigabytes_at_least() -> None:
    assert room_wanted(policy()) == 5 * GB
    assert room_wanted(policy(RULE, update_at_most="200 MB")) == 5 * GB
    assert room_wanted(policy(RULE, update_at_most="4 GB")) == 12 * GB


def test_too_little_room_is_a_warning_with_both_figures() -> None:
    assert judge_room("the spool", 6 * GB, 5 * GB).state == "ok"
    verdict = judge_room("the spool", 800 * 10**6, 5 * GB)
    assert (verdict.state, verdict.what) == ("warning", "the spool has 800 MB free, 5.0 GB should be")


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (25 * GB, "25 GB"), (3.2e12, "3.2 TB")]
)
def test_sizes_are_told_in_the_largest_unit(size: float, text: str) -> None:
    assert size_text(size) == text


# --- scheduler -------------------------------------------------------------------------------------------------------


def health(scheduler: str | None = "healthy", processor: str | None = "healthy", database: str = "healthy") -> Health:
    return Health.model_validate(
        {
            "metadatabase": {"status": database},
            "scheduler": {"status": scheduler},
            "dag_processor": None if processor is None else {"status": processor},
            "triggerer": {"status": None},
        }
    )


def test_airflow_needs_database_and_scheduler_and_the_processor_for_changes() -> None:
    assert judge_health(health()).state == "ok"
    assert judge_health(health(scheduler="unhealthy")).what == "its scheduler is unhealthy: no run starts"
    assert judge_health(health(database="unhealthy")).state == "wrong"
    assert judge_health(health(processor="unhealthy")).state == "warning"
    assert judge_health(health(processor=None)).what == "its DAG processor is not there: changed DAGs are not read"


@pytest.mark.parametrize(
    ("version", "state"), [("3.3.2", "ok"), ("3.4.0b1", "ok"), ("3.1.0", "warning"), ("2.11.0", "wrong")]
)
def test_airflow_of_another_version_is_told(version: str, state: str) -> None:
    assert judge_version(version, "wardround").state == state


def test_fewer_runs_at_once_than_the_agent_asks_for_is_a_warning() -> None:
    assert judge_limit("wardround_task", 16, 2).state == "ok"
    assert judge_limit("wardround_task", None, 2).state == "ok"
    assert judge_limit("wardround_task", 1, 2).state == "warning"


@pytest.mark.parametrize(
    ("code", "words", "to_do"),
    [
        ("no_folder", "does not see the folder", "WARDROUND_SPOOL"),
        ("not_configured", "not set up", "WARDROUND_PYTHON"),
        ("crashed", "crashed", "install wardround[training]"),
        ("something_new", "the run failed", "the run's log"),
    ],
)
def test_end_of_the_probe_says_which_step_failed_and_what_to_do(code: str, words: str, to_do: str) -> None:
    verdict = judge_end(RunEnd(False, code, "its own words"))
    assert verdict.state == "wrong"
    assert words in verdict.what
    assert "its own words" in verdict.what
    assert to_do in verdict.to_do


def result(code: str = "") -> TaskResult:
    failure = Failure(phase="data", code=code, hint="") if code else None
    return TaskResult(trainer=Trainer(name="adding", version="1", code_sha256=CODE), failure=failure)


def test_result_of_the_probe_tells_of_another_version_at_the_worker() -> None:
    assert judge_result(result(), CODE, took=1.0).state == "ok"
    assert judge_result(result(), None, took=1.0).state == "ok"
    assert judge_result(result(), "ab" * 32, took=1.0).state == "warning"
    assert judge_result(result("trainer_unknown"), CODE, took=1.0).state == "wrong"
    assert judge_result(result("data_missing"), CODE, took=1.0).what.endswith("another path at the worker")


def test_data_set_is_seen_where_the_trainer_only_misses_its_own_files() -> None:
    assert judge_data("brain-mri", DATASET, result("data_empty")).state == "ok"
    assert judge_data("brain-mri", DATASET, result()).state == "ok"
    missing = judge_data("brain-mri", DATASET, result("data_missing"))
    assert missing.state == "wrong"
    assert "/data/brain-mri" in missing.what


# --- agent -----------------------------------------------------------------------------------------------------------


def agent(**changed: object) -> AgentState:
    well = {"site": "clinic-1", "version": __version__, "pid": 1, "stopped": None, "trouble": None, "waits_for": None}
    return AgentState.model_validate({**well, "tasks": [{"task": "x", "phase": "training"}], **changed})


def test_agent_that_stands_still_waits_or_is_old_is_a_warning() -> None:
    assert judge_agent(agent(), {}).what == f"it runs, version {__version__}, 1 task in hand"
    assert judge_agent(agent(tasks=[]), {}).what.endswith("no tasks in hand")
    stopped = Stopped(by="dr-a", at=NOON, reason="")
    assert judge_agent(agent(stopped=stopped), {}).to_do == "wardround site resume"
    assert judge_agent(agent(trouble="the disk is full"), {}).what == "it waits: the disk is full"
    assert judge_agent(agent(waits_for="Airflow"), {}).state == "warning"
    assert judge_agent(agent(version="0.0.1"), {}).state == "warning"
    assert judge_agent(agent(), {"status": "degraded", "detail": "broker: away"}).what == "it is degraded: broker: away"
