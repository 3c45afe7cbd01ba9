"""A site's agent on a real bus, store and scheduler: what it answers, what leaves, what a restart changes."""

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from threading import Event

import pytest
from clinic import (
    ADDING,
    BUCKET,
    EXPERIMENT,
    POLICY,
    SITE,
    Clinic,
    eventually,
    failing,
    manifest_of,
    tensors,
    write_site,
)
from structlog.testing import capture_logs

from wardround.runtime.bus.memory import MemoryBus
from wardround.runtime.clock import wall_clock
from wardround.runtime.store.memory import MemoryStore
from wardround.runtime.store.port import ObjectInfo, StoreUnavailableError
from wardround.site_agent import duty, training
from wardround.site_agent.inbox import REMEMBERED, Inbox
from wardround.site_agent.inbox_file import InboxInUseError
from wardround.site_agent.judgement import RefusedError
from wardround.site_agent.scheduler.inline import InlineScheduler
from wardround_messages.base import canonical_bytes, canonical_json, digest
from wardround_messages.events import MetricsReported, Progress, SiteSeen, TaskAccepted, TaskAnswered, TaskStarted
from wardround_messages.manifest import Cohort
from wardround_messages.names import AnswerKey, Task, UpdateKey, parse_task_id, site_queue
from wardround_messages.parts import Measured, ObjectRef, Trainer


@pytest.fixture
async def clinic(tmp_path: Path) -> Clinic:
    clinic = Clinic(tmp_path)
    await clinic.open_experiment()
    return clinic


# --- consent ---------------------------------------------------------------------------------------------------------


async def test_an_offer_within_the_policy_is_granted(clinic: Clinic) -> None:
    async with clinic.running():
        consent = await clinic.enrol()
    assert (consent.verdict, consent.code, consent.rule, consent.rounds) == ("granted", "allowed", "glioma", 5)
    assert consent.trainer == Trainer(name="adding", version="1.0", code_sha256="a" * 64)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"study": "other"}, "policy"),
        ({"training": {"epochs": 9}}, "policy"),
        ({"training": {"dataset": "secret"}}, "policy"),
        ({"training": {"parameters": {"constant": "a lot"}}}, "parameters"),
        ({"training": {"parameters": {"speed": 1}}}, "parameters"),
    ],
)
async def test_an_offer_that_does_not_fit_is_declined_with_the_reason(
    clinic: Clinic, change: dict[str, object], code: str
) -> None:
    clinic.manifest = manifest_of(**change)
    async with clinic.running():
        consent = await clinic.enrol()
    assert (consent.verdict, consent.code) == ("declined", code)
    assert consent.reason


async def test_an_offer_for_more_rounds_than_allowed_names_the_rule(clinic: Clinic) -> None:
    async with clinic.running():
        await clinic.hub.send(clinic.offer(rounds=21))
        consent = await clinic.consent()
    assert (consent.verdict, consent.code, consent.rule) == ("declined", "policy", "glioma")
    assert "rounds" in consent.reason


async def test_without_a_policy_file_the_agent_runs_and_denies_everything(clinic: Clinic) -> None:
    clinic.policy.unlink()
    async with clinic.running():
        consent = await clinic.enrol()
        await clinic.hub.send(clinic.start())
        answer = await clinic.answer(clinic.start())
    assert (consent.verdict, consent.code) == ("declined", "policy_missing")
    assert (answer.outcome, answer.failure.code) == ("refused", "no_consent")
    assert clinic.training.trained == []


async def test_a_missing_trainer_and_an_unknown_data_set_decline(tmp_path: Path) -> None:
    clinic = Clinic(tmp_path, policy=POLICY.replace('"counting-test"]', '"counting-test", "lung-ct"]'))
    await clinic.open_experiment()
    clinic.trainers = ()
    other = manifest_of(training={"dataset": "lung-ct"})
    async with clinic.running():
        missing = await clinic.enrol()
        clinic.trainers = (ADDING,)
        clinic.manifest = other
        await clinic.hub.send(clinic.offer(offer=1))
        unknown = await clinic.consent()
    assert (missing.verdict, missing.code) == ("declined", "trainer_missing")
    assert (unknown.verdict, unknown.code) == ("declined", "dataset_unknown")


async def test_a_manual_rule_makes_consent_pending_until_a_person_approves(clinic: Clinic) -> None:
    clinic.policy.write_text(POLICY + 'approval = "manual"\n')
    async with clinic.running() as agent:
        pending = await clinic.enrol()
        await clinic.hub.send(clinic.start())
        refused = await clinic.answer(clinic.start())
        await agent.approve(EXPERIMENT)
        approved = await clinic.consent(2)
        await clinic.hub.send(clinic.start(attempt=2))
        done = await clinic.answer(clinic.start(attempt=2))
    assert (pending.verdict, pending.code) == ("pending", "approval")
    assert (refused.outcome, refused.failure.code) == ("refused", "no_consent")
    assert (approved.verdict, approved.number) == ("granted", 2)
    assert done.outcome == "done"


async def test_consent_given_by_rule_does_not_stand_for_a_person_once_the_policy_asks_for_one(clinic: Clinic) -> None:
    async with clinic.running():
        await clinic.enrol()
        clinic.policy.write_text(POLICY + 'approval = "manual"\n')
        await clinic.hub.send(clinic.start())
        answer = await clinic.answer(clinic.start())
    assert (answer.outcome, answer.failure.code) == ("refused", "approval")


async def test_a_new_offer_is_answered_under_a_new_number(clinic: Clinic) -> None:
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.offer(offer=9, rounds=10))
        second = await clinic.consent(2)
    assert (second.verdict, second.offer, second.rounds) == ("granted", 9, 10)


async def test_a_number_taken_by_another_content_is_left_alone_and_the_next_is_used(clinic: Clinic) -> None:
    async with clinic.running():
        first = await clinic.enrol()
    (clinic.folder / "inbox.sqlite").unlink()
    async with clinic.running():
        await clinic.hub.send(clinic.offer(offer=4))
        second = await clinic.consent(2)
    assert second.offer == 4
    assert await clinic.consent(1) == first


async def test_a_consent_that_was_followed_is_not_stored_after_what_followed_it(clinic: Clinic) -> None:
    async with clinic.running():
        await clinic.enrol()
    (clinic.folder / "inbox.sqlite").unlink()
    with Inbox.open(clinic.settings.paths.inbox, durable=False) as inbox:
        first = await clinic.consent()
        inbox.keep_consent(first.model_copy(update={"reason": "said anew"}))
        inbox.keep_consent(first.model_copy(update={"number": 2, "verdict": "withdrawn", "code": "withdrawn"}))
    async with clinic.running():
        second = await clinic.consent(2)
        await clinic.hub.send(clinic.start())
        answer = await clinic.answer(clinic.start())
        assert len(await clinic.objects("consent/")) == 2
    assert second.verdict == "withdrawn"
    assert (answer.outcome, answer.failure.code) == ("refused", "no_consent")


@pytest.mark.parametrize("approval", ["automatic", "manual"])
async def test_a_person_grants_anew_what_was_withdrawn(clinic: Clinic, approval: str) -> None:
    async with clinic.running() as agent:
        await clinic.enrol()
        await agent.withdraw(EXPERIMENT, "the ethics board asks for it")
        clinic.policy.write_text(POLICY + f'approval = "{approval}"\n')
        await agent.approve(EXPERIMENT)
        granted = await clinic.consent(3)
        await clinic.hub.send(clinic.start())
        answer = await clinic.answer(clinic.start())
    assert (granted.verdict, granted.code, granted.rule, granted.rounds) == ("granted", "approved", "glioma", 5)
    assert answer.outcome == "done"


async def test_a_person_grants_what_was_declined_once_the_policy_no_longer_denies_it(clinic: Clinic) -> None:
    clinic.policy.write_text(POLICY.replace("researcher-a", "researcher-b"))
    async with clinic.running() as agent:
        declined = await clinic.enrol()
        with pytest.raises(RefusedError, match="policy"):
            await agent.approve(EXPERIMENT)
        assert len(await clinic.objects("consent/")) == 1
        clinic.policy.write_text(POLICY)
        await agent.approve(EXPERIMENT)
        granted = await clinic.consent(2)
        await agent.approve(EXPERIMENT)
        assert len(await clinic.objects("consent/")) == 2
    assert (declined.verdict, granted.verdict, granted.offer) == ("declined", "granted", declined.offer)
    assert granted.reason == ""


async def test_what_was_never_offered_cannot_be_approved(clinic: Clinic) -> None:
    async with clinic.running() as agent:
        with pytest.raises(RefusedError, match="no offer of this experiment"):
            await agent.approve(EXPERIMENT)


async def test_withdrawing_ends_the_tasks_in_hand_and_refuses_later_ones(tmp_path: Path) -> None:
    clinic = Clinic(tmp_path, threads=True)
    await clinic.open_experiment()
    clinic.training.before = until_cancelled
    async with clinic.running() as agent:
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        await clinic.said(TaskStarted)
        await agent.withdraw(EXPERIMENT, "the ethics board asks for it")
        ended = await clinic.answer(clinic.start())
        withdrawn = await clinic.consent(2)
        await clinic.hub.send(clinic.start(round=2))
        later = await clinic.answer(clinic.start(round=2))
    assert (ended.outcome, ended.by_hub, ended.failure.code) == ("cancelled", False, "withdrawn")
    assert (withdrawn.verdict, withdrawn.reason) == ("withdrawn", "the ethics board asks for it")
    assert (later.outcome, later.failure.code) == ("refused", "no_consent")


# --- a task ----------------------------------------------------------------------------------------------------------


async def test_a_training_ends_with_an_update_and_an_answer_that_names_it(clinic: Clinic) -> None:
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        answer = await clinic.answer(clinic.start())
        answered = await clinic.said(TaskAnswered)
    sha256 = digest(clinic.training.update)
    assert answer.outcome == "done"
    assert answer.update == ObjectRef(
        key=str(UpdateKey(1, SITE, sha256[:16])), size=len(clinic.training.update), sha256=sha256
    )
    assert await clinic.store.read(BUCKET, answer.update.key) == clinic.training.update
    assert answer.built_on == clinic.model_ref.sha256
    assert (answer.cases, answer.received, answer.steps) == (14, Measured(cases=12, values={"loss": 0.5}), 3)
    assert clinic.training.models == [clinic.model]
    assert [type(event) for event in clinic.events[1:]] == [TaskAccepted, TaskStarted, MetricsReported, TaskAnswered]
    assert (answered.outcome, answered.update_size) == ("done", len(clinic.training.update))


async def test_the_job_tells_the_training_what_the_manifest_and_the_site_say(clinic: Clinic) -> None:
    clinic.manifest = manifest_of(training={"parameters": {"constant": 2}, "optimizer_state": "keep"})
    async with clinic.running():
        await clinic.enrol()
        (await clinic.store.delete(BUCKET, "journal/00000000.json"))
        await clinic.hub.send(clinic.start(task=Task.TEST))
        await clinic.hub.send(clinic.start())
        await clinic.answer(clinic.start())
        await clinic.answer(clinic.start(task=Task.TEST))
    test, train = sorted(clinic.training.jobs, key=lambda job: job.task)
    assert (test.data.name, test.data.folders) == ("counting-test", (str(clinic.folder / "counting-test"),))
    assert (train.data.name, train.data.layout, train.data.split_salt) == ("counting", "folders", "grain")
    assert (train.parameters, train.seed, train.optimizer_state) == ({"constant": 2}, 7, "keep")
    assert train.model_sha256 == clinic.model_ref.sha256
    assert train.carry == f"carry/{EXPERIMENT}"
    assert (clinic.settings.paths.spool / train.carry).is_dir()


async def test_initialise_starts_without_a_model_and_offers_one(clinic: Clinic) -> None:
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start(task=Task.INITIALISE))
        answer = await clinic.answer(clinic.start(task=Task.INITIALISE))
    assert clinic.training.models == [None]
    assert (answer.outcome, answer.built_on, answer.cases) == ("done", None, None)
    assert answer.update is not None


async def test_a_check_leaves_codes_only(clinic: Clinic) -> None:
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start(task=Task.CHECK))
        answer = await clinic.answer(clinic.start(task=Task.CHECK))
    assert (answer.outcome, answer.received, answer.trained, answer.cases) == ("done", None, {}, None)


async def test_metrics_that_the_policy_does_not_name_stay_and_are_counted(clinic: Clinic) -> None:
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        answer = await clinic.answer(clinic.start())
    assert answer.trained == {"loss": 0.25}
    assert answer.received is not None
    assert answer.received.values == {"loss": 0.5}
    assert answer.metrics_kept_back == 2


async def test_no_count_leaves_where_sites_weigh_equally(clinic: Clinic) -> None:
    clinic.manifest = manifest_of(weight="equal")
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        answer = await clinic.answer(clinic.start())
    assert (answer.outcome, answer.cases) == ("done", None)
    assert answer.received is not None
    assert answer.received.cases is None


async def test_the_folder_is_cleared_and_the_log_names_what_left(clinic: Clinic) -> None:
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        answer = await clinic.answer(clinic.start())
        await clinic.said(TaskAnswered)
        assert [path.name for path in clinic.settings.paths.spool.iterdir()] == ["carry"]
    told = [line["what"] for line in clinic.audit]
    assert told == ["offer", "consent", "task", "model", "metrics", "update", "answer"]
    lines = dict(zip(told, clinic.audit, strict=True))
    assert lines["model"]["sha256"] == clinic.model_ref.sha256
    assert lines["update"]["sha256"] == answer.update.sha256
    assert (lines["answer"]["trained"], lines["answer"]["cases_used"]) == ({"loss": 0.25}, 14)
    for line in lines.values():
        asked = (line["experiment"], line["study"], line["requested_by"], line["rule"], line["dataset"])
        assert asked == (EXPERIMENT, "glioma", "researcher-a", "glioma", "counting")


async def test_tasks_beyond_the_slots_wait_their_turn(tmp_path: Path) -> None:
    clinic = Clinic(tmp_path, threads=True)
    await clinic.open_experiment()
    go_on, going, most = Event(), [], []

    def hold(folder: Path, cancelled: Event) -> None:
        going.append(folder)
        most.append(len(going))
        go_on.wait(5)
        going.remove(folder)

    clinic.training.before = hold
    starts = [clinic.start(), clinic.start(task=Task.EVALUATE), clinic.start(task=Task.TEST)]
    async with clinic.running():
        await clinic.enrol()
        for start in starts:
            await clinic.hub.send(start)
        await clinic.said(TaskStarted)
        await asyncio.sleep(0.02)
        assert len(clinic.of_type(TaskStarted)) == 1
        go_on.set()
        for start in starts:
            assert (await clinic.answer(start)).outcome == "done"
    assert most == [1, 1, 1]


# --- refusals and failures -------------------------------------------------------------------------------------------


async def test_without_consent_a_task_is_refused_and_nothing_is_triggered(clinic: Clinic) -> None:
    async with clinic.running():
        await clinic.hub.send(clinic.start())
        answer = await clinic.answer(clinic.start())
    assert (answer.outcome, answer.failure.code) == ("refused", "no_consent")
    assert clinic.training.trained == []


async def test_a_round_beyond_the_consent_is_refused(clinic: Clinic) -> None:
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start(round=6))
        answer = await clinic.answer(clinic.start(round=6))
    assert (answer.outcome, answer.failure.code) == ("refused", "no_consent")


async def test_a_past_round_is_refused_as_stale(clinic: Clinic) -> None:
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start(round=3))
        await clinic.answer(clinic.start(round=3))
        await clinic.hub.send(clinic.start(round=2))
        answer = await clinic.answer(clinic.start(round=2))
    assert (answer.outcome, answer.failure.code) == ("refused", "stale_round")


async def test_the_policy_is_read_anew_for_every_task(clinic: Clinic) -> None:
    async with clinic.running():
        await clinic.enrol()
        clinic.policy.write_text(POLICY.replace("researcher-a", "researcher-b"))
        await clinic.hub.send(clinic.start())
        answer = await clinic.answer(clinic.start())
    assert (answer.outcome, answer.failure.code) == ("refused", "policy")
    assert "glioma" in answer.failure.hint
    assert clinic.training.trained == []


async def test_a_policy_changed_while_training_keeps_the_update_at_the_clinic(clinic: Clinic) -> None:
    clinic.training.before = lambda folder, cancelled: clinic.policy.unlink()
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        answer = await clinic.answer(clinic.start())
        assert await clinic.objects("updates/") == ()
    assert (answer.outcome, answer.failure.code) == ("refused", "policy_missing")


async def test_too_few_cases_are_refused_without_the_number(clinic: Clinic) -> None:
    clinic.training.change = {"cases": 9}
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        answer = await clinic.answer(clinic.start())
        assert await clinic.objects("updates/") == ()
    assert (answer.outcome, answer.failure.code) == ("refused", "too_few_cases")
    assert "9" not in answer.failure.hint


@pytest.mark.parametrize(
    "code", ["too_few_cases", "case_unreadable", "link_out_of_folder", "data_missing", "data_empty"]
)
async def test_what_is_wrong_with_the_data_is_refused_without_a_path(clinic: Clinic, code: str) -> None:
    clinic.training.change = failing(code, text="/data/patient-7 is broken")
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        answer = await clinic.answer(clinic.start())
    assert (answer.outcome, answer.failure.code, answer.failure.hint) == ("refused", code, "")
    assert b"patient-7" not in canonical_json(answer)


async def test_words_leave_where_the_policy_says_so(clinic: Clinic) -> None:
    clinic.policy.write_text(POLICY.replace("[leave]", '[leave]\nerrors = "text"'))
    clinic.training.change = failing("trainer_error", phase="train")
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        answer = await clinic.answer(clinic.start())
    assert (answer.outcome, answer.failure.phase, answer.failure.hint) == ("failed", "train", "see /data/patient-7")


@pytest.mark.parametrize(
    ("update", "code"),
    [
        (tensors(weight=[1.0, float("nan")]), "not_finite"),
        (tensors(weight=[1.0, float("-inf")]), "not_finite"),
        (b"", "not_safetensors"),
        (b"\x80\x04\x95 a pickle, not tensors.", "not_safetensors"),
        (tensors(weight=[1.0])[:-1], "layout"),
    ],
)
async def test_an_update_that_is_not_in_order_does_not_leave(clinic: Clinic, update: bytes, code: str) -> None:
    clinic.training.update = update
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        answer = await clinic.answer(clinic.start())
        assert await clinic.objects("updates/") == ()
    assert (answer.outcome, answer.failure.code) == ("failed", code)


async def test_an_update_larger_than_the_policy_lets_leave_is_refused(clinic: Clinic) -> None:
    clinic.policy.write_text(POLICY.replace("[leave]", '[leave]\nupdate_at_most = "50 B"'))
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        answer = await clinic.answer(clinic.start())
    assert (answer.outcome, answer.failure.code) == ("refused", "update_too_large")


async def test_a_training_without_cases_is_not_offered(tmp_path: Path) -> None:
    clinic = Clinic(tmp_path, policy=POLICY.replace("{ cases = 10, sites = 2 }", "{ sites = 2 }"))
    await clinic.open_experiment()
    clinic.training.change = {"cases": 0}
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        answer = await clinic.answer(clinic.start())
    assert (answer.outcome, answer.failure.code) == ("failed", "no_cases")


async def test_a_result_of_another_trainer_is_not_believed(clinic: Clinic) -> None:
    clinic.training.change = {"trainer": Trainer(name="other", version="1.0", code_sha256="a" * 64)}
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        answer = await clinic.answer(clinic.start())
    assert (answer.outcome, answer.failure.code) == ("failed", "bad_result")


async def test_an_unreadable_result_fails_the_task(clinic: Clinic) -> None:
    clinic.training.leaves_result = False
    clinic.training.before = lambda folder, cancelled: (folder / "result.json").write_bytes(b'{"v":1,"v":1}')
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        answer = await clinic.answer(clinic.start())
    assert (answer.outcome, answer.failure.code) == ("failed", "bad_result")


async def test_a_run_without_a_result_fails_with_that_reason(clinic: Clinic) -> None:
    clinic.training.leaves_result = False
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        answer = await clinic.answer(clinic.start())
    assert (answer.outcome, answer.failure.code) == ("failed", "no_result")


async def test_a_crashed_training_is_done_once_more_with_the_same_seed(clinic: Clinic) -> None:
    def crash_first(folder: Path, cancelled: Event) -> None:
        if len(clinic.training.trained) == 1:
            raise MemoryError

    clinic.training.before = crash_first
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        answer = await clinic.answer(clinic.start())
    assert answer.outcome == "done"
    assert [job.seed for job in clinic.training.jobs] == [7, 7]


async def test_a_training_that_crashes_again_fails(clinic: Clinic) -> None:
    def crash(folder: Path, cancelled: Event) -> None:
        raise MemoryError

    clinic.training.before = crash
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        answer = await clinic.answer(clinic.start())
    assert (answer.outcome, answer.failure.code, answer.failure.hint) == ("failed", "crashed", "")
    assert len(clinic.training.trained) == 2


@pytest.mark.parametrize(("stored", "code"), [(None, "model_missing"), (tensors(weight=[0.0, 9.0]), "model_digest")])
async def test_a_model_that_is_not_there_or_not_that_model_fails_the_task(
    clinic: Clinic, stored: bytes | None, code: str
) -> None:
    await clinic.store.delete(BUCKET, clinic.model_ref.key)
    if stored is not None:
        await clinic.store.put(BUCKET, clinic.model_ref.key, stored)
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        answer = await clinic.answer(clinic.start())
    assert (answer.outcome, answer.failure.code) == ("failed", code)
    assert clinic.training.trained == []


# --- cancelling, attempts --------------------------------------------------------------------------------------------


def until_cancelled(folder: Path, cancelled: Event) -> None:
    assert cancelled.wait(30)
    raise SystemExit


async def test_a_cancelled_training_stops_and_is_answered_by_the_hubs_wish(tmp_path: Path) -> None:
    clinic = Clinic(tmp_path, threads=True)
    await clinic.open_experiment()
    clinic.training.before = until_cancelled
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        await clinic.said(TaskStarted)
        await clinic.hub.send(clinic.cancel(clinic.start()))
        answer = await clinic.answer(clinic.start())
    assert (answer.outcome, answer.by_hub, answer.failure.code) == ("cancelled", True, "step_closed")


async def test_a_cancel_that_comes_before_its_task_is_remembered(clinic: Clinic) -> None:
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.cancel(clinic.start()))
        await clinic.all_handled()
    async with clinic.running():
        await clinic.hub.send(clinic.start())
        answer = await clinic.answer(clinic.start())
    assert (answer.outcome, answer.by_hub) == ("cancelled", True)
    assert clinic.training.trained == []


async def test_a_late_answer_stands_when_the_hub_calls_it_stale(clinic: Clinic) -> None:
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        done = await clinic.answer(clinic.start())
        await clinic.hub.send(clinic.cancel(clinic.start()))
        await clinic.hub.send(clinic.cancel(clinic.start(), "stale_round"))
        await clinic.all_handled()
        assert await clinic.answer(clinic.start()) == done
    assert clinic.broker.dead_letters() == ()


async def test_a_lower_attempt_that_comes_after_a_higher_one_is_not_begun(clinic: Clinic) -> None:
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start(attempt=2))
        await clinic.answer(clinic.start(attempt=2))
        await clinic.hub.send(clinic.start())
        answer = await clinic.answer(clinic.start())
    assert (answer.outcome, answer.failure.code) == ("cancelled", "superseded")
    assert len(clinic.training.trained) == 1


# --- messages --------------------------------------------------------------------------------------------------------


async def test_the_same_message_again_is_ignored_and_counted(clinic: Clinic) -> None:
    async with clinic.running() as agent:
        await clinic.enrol()
        for _ in range(3):
            await clinic.hub.send(clinic.start())
        await clinic.answer(clinic.start())
        await clinic.hub.send(clinic.start())
        await clinic.all_handled()
        assert agent.ignored == 3
    assert len(clinic.training.trained) == 1
    assert clinic.broker.dead_letters() == ()


async def test_a_task_whose_answer_the_store_has_lost_is_done_again_when_it_is_asked_for_again(clinic: Clinic) -> None:
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        lost = await clinic.answer(clinic.start())
        await clinic.store.delete(BUCKET, str(AnswerKey(1, Task.TRAIN, SITE, 1)))
        await clinic.store.delete(BUCKET, lost.update.key)
        await clinic.hub.send(clinic.start())
        again = await clinic.answer(clinic.start())
        assert await clinic.store.read(BUCKET, again.update.key) == clinic.training.update
    assert (again.outcome, again.update) == ("done", lost.update)


async def test_a_cancelled_task_that_is_asked_for_again_keeps_its_answer(clinic: Clinic) -> None:
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.cancel(clinic.start()))
        await clinic.hub.send(clinic.start())
        cancelled = await clinic.answer(clinic.start())
        await clinic.hub.send(clinic.start())
        await clinic.hub.send(clinic.start(task=Task.EVALUATE))
        await clinic.answer(clinic.start(task=Task.EVALUATE))
        assert await clinic.answer(clinic.start()) == cancelled
    assert [line["outcome"] for line in clinic.audit if line["what"] == "answer"] == ["cancelled", "done"]


async def test_another_content_under_a_known_id_is_a_dead_letter_and_a_security_event(clinic: Clinic) -> None:
    with capture_logs() as logs:
        async with clinic.running():
            await clinic.enrol()
            await clinic.hub.send(clinic.start())
            await clinic.answer(clinic.start())
            await clinic.hub.send(clinic.start(seed=8))
            assert await clinic.dead_letters() == ["id_reused"]
    assert ("security", "id_reused") in [(line["event"], line.get("event_kind")) for line in logs]
    assert len(clinic.training.trained) == 1


async def test_a_site_outside_the_cohort_is_not_offered_anything(clinic: Clinic) -> None:
    packet = clinic.hub.packet(clinic.offer())
    outside = clinic.manifest.model_copy(update={"cohort": Cohort(sites=("clinic-2",))})
    offer = clinic.offer().model_dump(mode="json") | {
        "manifest": outside.model_dump(mode="json"),
        "manifest_sha256": outside.sha256,
    }
    async with clinic.running():
        await clinic.hub.bus.publish(replace(packet, body=canonical_bytes(offer)))
        assert await clinic.dead_letters() == ["invalid"]
        assert await clinic.objects("consent/") == ()


async def test_a_manifest_with_another_digest_is_a_dead_letter(clinic: Clinic) -> None:
    packet = clinic.hub.packet(clinic.offer())
    offer = clinic.offer().model_dump(mode="json") | {"manifest_sha256": "0" * 64}
    async with clinic.running():
        await clinic.hub.bus.publish(replace(packet, body=canonical_bytes(offer)))
        assert await clinic.dead_letters() == ["invalid"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"body": b""}, "not_json"),
        ({"body": b"\xff\xfe"}, "not_utf8"),
        ({"body": b"[" * 60_000}, "not_json"),
        ({"body": b" " * 70_000}, "too_large"),
        ({"content_encoding": "gzip"}, "content_type"),
        ({"user_id": None}, "no_sender"),
        ({"user_id": "clinic-2"}, "wrong_sender"),
        ({"routing_key": f"cmd.site-agent.{SITE}.other.start"}, "wrong_address"),
    ],
)
async def test_what_is_malformed_or_not_the_hubs_word_is_parked(
    clinic: Clinic, change: dict[str, object], reason: str
) -> None:
    packet = replace(clinic.hub.packet(clinic.start()), **change)
    async with clinic.running():
        clinic.broker.route(packet)
        assert await clinic.dead_letters() == [reason]
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        assert (await clinic.answer(clinic.start())).outcome == "done"


async def test_a_task_for_another_site_is_parked(clinic: Clinic) -> None:
    other = clinic.start().model_copy(update={"site": "clinic-2"})
    packet = clinic.hub.packet(other)
    async with clinic.running():
        clinic.broker._queues[site_queue(SITE)].put(packet)
        assert await clinic.dead_letters() == ["wrong_site"]


async def test_an_event_on_a_sites_queue_is_parked(clinic: Clinic) -> None:
    seen = TaskAccepted(site=SITE, experiment=EXPERIMENT, round=1, task=Task.TRAIN, attempt=1)
    packet = replace(clinic.hub.packet(seen), user_id=SITE)
    async with clinic.running():
        clinic.broker._queues[site_queue(SITE)].put(packet)
        assert await clinic.dead_letters() == ["unexpected_type"]


async def test_a_task_builds_on_nothing_but_a_global_model(clinic: Clinic) -> None:
    update = ObjectRef(key=str(UpdateKey(1, "clinic-2", "b" * 16)), size=9, sha256="b" * 64)
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start(model=update))
        assert await clinic.dead_letters() == ["no_global_model"]


# --- being seen ------------------------------------------------------------------------------------------------------


async def test_a_site_says_what_it_has_and_does(clinic: Clinic) -> None:
    async with clinic.running():
        seen = await clinic.said(SiteSeen)
    assert [trainer.name for trainer in seen.trainers] == ["adding"]
    assert seen.datasets == ("counting", "counting-test")
    assert (seen.slots, seen.free, seen.tasks, seen.status) == (1, 1, (), "ok")
    assert "io.wardround.task.start.v1" in seen.reads


async def test_a_site_is_seen_again_and_again_with_its_tasks_in_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duty, "SEEN_EVERY", 0.01)
    clinic = Clinic(tmp_path, threads=True)
    await clinic.open_experiment()
    clinic.training.before = until_cancelled

    async def seen_training() -> bool:
        return any(seen.tasks and seen.tasks[0].phase == "training" for seen in clinic.of_type(SiteSeen))

    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        await eventually(seen_training)
        assert clinic.of_type(SiteSeen)[-1].free == 0
        await clinic.hub.send(clinic.cancel(clinic.start()))
        await clinic.answer(clinic.start())


async def test_tasks_are_listed_in_the_order_of_their_turns_and_only_as_many_as_slots_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duty, "SEEN_EVERY", 0.01)
    clinic = Clinic(tmp_path, threads=True)
    await clinic.open_experiment()
    clinic.training.before = until_cancelled
    tasks = [clinic.start(task=task) for task in (Task.TRAIN, Task.EVALUATE, Task.TEST)]

    async def seen_waiting() -> bool:
        seen = [(hand.task, hand.phase) for hand in clinic.of_type(SiteSeen)[-1].tasks]
        return seen == [(Task.TRAIN, "training"), (Task.EVALUATE, "queued"), (Task.TEST, "queued")]

    async with clinic.running():
        await clinic.enrol()
        for number, start in enumerate(tasks):
            await clinic.hub.send(start)
            await eventually(lambda of=number: in_hand(clinic, of + 1))  # type: ignore[misc]
        await eventually(seen_waiting)
        await clinic.hub.send(clinic.cancel(tasks[1]))  # it leaves the line, and the next moves up
        assert (await clinic.answer(tasks[1])).outcome == "cancelled"
        clinic.training.before = lambda folder, cancelled: None
        await clinic.hub.send(clinic.cancel(tasks[0]))
        assert (await clinic.answer(tasks[2])).outcome == "done"
    assert [parse_task_id(name).task for name in clinic.training.trained] == [Task.TRAIN, Task.TEST]


async def in_hand(clinic: Clinic, waiting_or_training: int) -> bool:
    """Whether so many tasks have a slot or wait for one."""
    tasks = clinic.of_type(SiteSeen)[-1].tasks
    return sum(hand.phase in ("queued", "training") for hand in tasks) == waiting_or_training


async def test_a_site_is_seen_again_after_a_reconnection(clinic: Clinic) -> None:
    async def seen_twice() -> bool:
        return len(clinic.of_type(SiteSeen)) == 2

    async with clinic.running():
        await clinic.said(SiteSeen)
        clinic.broker.disconnect(SITE)
        clinic.broker.reconnect(SITE)
        await eventually(seen_twice)


# --- restarts --------------------------------------------------------------------------------------------------------


async def test_a_second_agent_on_the_same_inbox_does_not_start(clinic: Clinic) -> None:
    async with clinic.running():
        with pytest.raises(InboxInUseError, match="another agent"):
            await clinic.agent(MemoryBus(clinic.broker, SITE)).run()


async def test_two_agents_with_one_site_id_run_no_task_twice(clinic: Clinic, tmp_path: Path) -> None:
    (tmp_path / "twin").mkdir()
    twin = write_site(tmp_path / "twin")
    spool = InlineScheduler(twin.paths.spool, clinic.training, threads=False)
    async with clinic.running(), clinic.running(settings=twin, scheduler=spool):
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        assert (await clinic.answer(clinic.start())).outcome == "done"
        await clinic.hub.send(clinic.start())
        await clinic.all_handled()
    async with clinic.running(settings=twin, scheduler=spool):
        await clinic.hub.send(clinic.start(round=2))
        assert (await clinic.answer(clinic.start(round=2))).outcome == "done"
    assert len(clinic.training.trained) == 2


async def test_after_a_lost_inbox_consent_and_manifest_are_read_from_the_store(clinic: Clinic) -> None:
    async with clinic.running():
        await clinic.enrol()
    (clinic.folder / "inbox.sqlite").unlink()
    async with clinic.running():
        await clinic.hub.send(clinic.start())
        answer = await clinic.answer(clinic.start())
    assert answer.outcome == "done"


async def test_after_a_lost_inbox_a_task_answered_before_is_not_done_again(clinic: Clinic) -> None:
    later = clinic.start(task=Task.EVALUATE)
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        before = await clinic.answer(clinic.start())
    (clinic.folder / "inbox.sqlite").unlink()
    fresh = InlineScheduler(clinic.settings.paths.spool, clinic.training, threads=False)
    async with clinic.running(scheduler=fresh):
        await clinic.hub.send(clinic.start())
        await clinic.hub.send(later)
        await clinic.answer(later)
    assert await clinic.answer(clinic.start()) == before
    assert clinic.training.trained == [str(clinic.start().task_id), str(later.task_id)]


async def test_a_withdrawn_consent_stands_after_a_lost_inbox(clinic: Clinic) -> None:
    async with clinic.running() as agent:
        await clinic.enrol()
        await agent.withdraw(EXPERIMENT, "")
    (clinic.folder / "inbox.sqlite").unlink()
    async with clinic.running():
        await clinic.hub.send(clinic.start())
        answer = await clinic.answer(clinic.start())
    assert (answer.outcome, answer.failure.code) == ("refused", "no_consent")


async def test_a_manifest_that_is_not_the_experiments_is_refused(clinic: Clinic) -> None:
    async with clinic.running():
        await clinic.enrol()
    (clinic.folder / "inbox.sqlite").unlink()
    await clinic.store.delete(BUCKET, "journal/00000000.json")
    async with clinic.running():
        await clinic.hub.send(clinic.start())
        answer = await clinic.answer(clinic.start())
    assert (answer.outcome, answer.failure.code) == ("refused", "no_manifest")


async def test_what_a_killed_agent_left_in_the_spool_is_cleared_at_the_next_start(clinic: Clinic) -> None:
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        await clinic.answer(clinic.start())
        await clinic.said(TaskAnswered)
    left = clinic.settings.paths.spool / str(clinic.start().task_id)
    left.mkdir()
    async with clinic.running():
        assert not left.exists()


async def test_what_a_clinic_keeps_of_an_experiment_goes_a_month_after_its_last_message(clinic: Clinic) -> None:
    def later() -> datetime:
        return wall_clock() + REMEMBERED + timedelta(days=1)

    carry = clinic.settings.paths.spool / "carry" / EXPERIMENT

    async def gone() -> bool:
        return not carry.exists()

    async with clinic.running() as agent:
        consent = await clinic.enrol()
        await clinic.hub.send(clinic.start())
        await clinic.answer(clinic.start())
        await clinic.said(TaskAnswered)
        assert len(agent._on_duty.enrolment._turn._locks) == 0
    async with clinic.running():
        assert carry.is_dir()
    log = clinic.audit
    async with clinic.running(clock=later):
        await eventually(gone)
    with Inbox.open(clinic.settings.paths.inbox) as inbox:
        assert inbox.consents_of(EXPERIMENT) == ()
    assert clinic.audit == log
    async with clinic.running():
        await clinic.hub.send(clinic.start(round=2))
        assert (await clinic.answer(clinic.start(round=2))).outcome == "done"
        assert await clinic.consent() == consent


async def test_metrics_are_told_while_the_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "REPORTED_EVERY", 0.01)
    clinic = Clinic(tmp_path, threads=True)
    await clinic.open_experiment()
    go_on = Event()

    def write_some(folder: Path, cancelled: Event) -> None:
        (folder / "metrics.jsonl").write_text(
            '{"v":1,"t":1.0,"kind":"progress","phase":"train","done":3,"of":12}\n'
            '{"v":1,"t":1.0,"kind":"metric","name":"age","value":61.0}\n'
            "no metric at all\n"
        )
        go_on.wait(5)

    clinic.training.before = write_some
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        reported = await clinic.said(MetricsReported)
        assert await clinic.objects("answers/") == ()
        go_on.set()
        await clinic.answer(clinic.start())
    assert reported.progress == Progress(phase="train", done=3, of=12)
    assert reported.metrics == {}


async def test_a_training_that_ended_while_the_agent_was_down_is_not_done_again(tmp_path: Path) -> None:
    clinic = Clinic(tmp_path, threads=True)
    await clinic.open_experiment()
    go_on = Event()
    clinic.training.before = lambda folder, cancelled: wait_for(go_on)
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        await clinic.said(TaskStarted)
    go_on.set()
    assert (await clinic.scheduler.wait(str(clinic.start().task_id))).succeeded
    fresh = InlineScheduler(clinic.settings.paths.spool, clinic.training)
    async with clinic.running(scheduler=fresh):
        answer = await clinic.answer(clinic.start())
    assert answer.outcome == "done"
    assert len(clinic.training.trained) == 1


async def test_a_task_that_was_in_training_and_is_over_holds_no_slot_until_its_answer_is_stored(tmp_path: Path) -> None:
    """The store is away for all that concerns its answer, and another task is ready to train."""

    class Away(MemoryStore):
        for_answer = ""

        async def head(self, bucket: str, key: str) -> ObjectInfo:
            return await super().head(bucket, self._reached(key))

        async def create(self, bucket: str, key: str, data: bytes) -> None:
            await super().create(bucket, self._reached(key), data)

        def _reached(self, key: str) -> str:
            if self.for_answer and key.startswith(self.for_answer):
                raise StoreUnavailableError("away")
            return key

    clinic, store = Clinic(tmp_path, threads=True), Away()
    clinic.store, clinic.training.before = store, until_cancelled
    await clinic.open_experiment()
    over, other = clinic.start(), clinic.start(task=Task.EVALUATE)
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(over)
        await clinic.said(TaskStarted)
    store.for_answer = "answers/r000001/train/"
    clinic.training.before = lambda folder, cancelled: None
    await clinic.hub.send(clinic.cancel(over))
    await clinic.hub.send(other)
    async with clinic.running():
        assert (await clinic.answer(other)).outcome == "done"
        assert not await clinic.has(store.for_answer)
        store.for_answer = ""
        assert (await clinic.answer(over)).outcome == "cancelled"


async def test_a_folder_filled_for_another_job_is_filled_and_trained_anew(tmp_path: Path) -> None:
    clinic = Clinic(tmp_path, threads=True)
    await clinic.open_experiment()
    clinic.training.before = lambda folder, cancelled: wait_for(cancelled)
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        await clinic.said(TaskStarted)
    clinic.training.before = lambda folder, cancelled: None
    (clinic.folder / "salt").write_text("another grain")
    async with clinic.running():
        answer = await clinic.answer(clinic.start())
    assert answer.outcome == "done"
    assert [job.data.split_salt for job in clinic.training.jobs] == ["grain", "another grain"]


async def test_an_answer_that_stands_already_is_not_replaced(tmp_path: Path) -> None:
    clinic = Clinic(tmp_path, threads=True)
    await clinic.open_experiment()
    go_on = Event()
    clinic.training.before = lambda folder, cancelled: wait_for(go_on)
    key = str(AnswerKey(1, Task.TRAIN, SITE, 1))
    later = clinic.start(task=Task.EVALUATE)
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        await clinic.said(TaskStarted)
        await clinic.store.create(BUCKET, key, b"written by a twin of this site")
        go_on.set()
        await clinic.hub.send(later)
        await clinic.answer(later)
        answered = [event.task for event in clinic.of_type(TaskAnswered)]
    assert await clinic.store.read(BUCKET, key) == b"written by a twin of this site"
    assert Task.TRAIN not in answered


def wait_for(event: Event) -> None:
    assert event.wait(5)
