import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from wardround.site_agent.inbox import IdReusedError, Inbox
from wardround.site_agent.inbox_file import InboxError, InboxInUseError
from wardround_messages.commands import CancelTask, OfferExperiment, StartTask
from wardround_messages.manifest import Cohort, Manifest, Rounds, Training
from wardround_messages.names import GlobalKey, Task
from wardround_messages.objects import Consent
from wardround_messages.parts import Failure, ObjectRef

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MANIFEST = Manifest(
    id="glioma-1",
    study="glioma",
    purpose="",
    cohort=Cohort(sites=("clinic-1",)),
    rounds=Rounds(count=5),
    training=Training(trainer="adding", dataset="counting"),
)
MODEL = ObjectRef(key=str(GlobalKey(0, "c" * 16)), size=9, sha256="c" * 64)


def start(**parts: Any) -> StartTask:
    return StartTask(
        **{
            "experiment": "glioma-1",
            "site": "clinic-1",
            "round": 1,
            "task": Task.TRAIN,
            "attempt": 1,
            "requested_by": "researcher-a",
            "manifest_sha256": MANIFEST.sha256,
            "model": MODEL,
            "seed": 7,
        }
        | parts
    )


def offer(number: int = 0) -> OfferExperiment:
    return OfferExperiment(
        experiment="glioma-1",
        site="clinic-1",
        requested_by="researcher-a",
        manifest=MANIFEST,
        manifest_sha256=MANIFEST.sha256,
        rounds=5,
        offer=number,
    )


def cancel(reason: str = "step_closed") -> CancelTask:
    return CancelTask.model_validate(
        {
            "experiment": "glioma-1",
            "site": "clinic-1",
            "round": 1,
            "task": Task.TRAIN,
            "attempt": 1,
            "reason": reason,
        }
    )


def consent(number: int = 1, **parts: Any) -> Consent:
    return Consent(
        **{
            "experiment": "glioma-1",
            "site": "clinic-1",
            "manifest_sha256": MANIFEST.sha256,
            "number": number,
            "offer": 0,
            "verdict": "granted",
            "rounds": 5,
            "code": "allowed",
            "at": NOW,
        }
        | parts
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "inbox.sqlite"


@pytest.fixture
def inbox(path: Path) -> Iterator[Inbox]:
    with Inbox.open(path, durable=False) as inbox:
        yield inbox


def test_a_command_is_taken_once(inbox: Inbox) -> None:
    assert inbox.take(start(), at=NOW)
    assert not inbox.take(start(), at=NOW)
    assert inbox.tasks_in_hand() == (start(),)


def test_an_id_never_stands_for_two_contents(inbox: Inbox) -> None:
    inbox.take(start(), at=NOW)
    with pytest.raises(IdReusedError, match=r"start\.glioma-1"):
        inbox.take(start(seed=8), at=NOW)
    assert inbox.tasks_in_hand() == (start(),)


def test_what_was_taken_is_there_after_a_restart(path: Path) -> None:
    with Inbox.open(path) as inbox:
        inbox.take(offer(), at=NOW)
        inbox.take(start(), at=NOW)
        inbox.take(start(round=2), at=NOW)
        inbox.end(start(round=2).task_id, "done")
    with Inbox.open(path) as again:
        assert again.open_offers() == (offer(),)
        assert again.manifest(MANIFEST.sha256) == MANIFEST
        assert again.tasks_in_hand() == (start(),)
        assert again.has_ended(start(round=2).task_id)
        assert not again.has_ended(start().task_id)
        assert not again.take(start(), at=NOW)


def test_ids_are_forgotten_after_thirty_days_but_not_what_they_led_to(inbox: Inbox) -> None:
    inbox.take(start(), at=NOW)
    inbox.end(start().task_id, "done")
    inbox.forget_messages(now=NOW + timedelta(days=29))
    assert not inbox.take(start(), at=NOW)
    inbox.forget_messages(now=NOW + timedelta(days=31))
    assert inbox.take(start(), at=NOW)
    assert inbox.tasks_in_hand() == ()


def test_an_offer_that_comes_again_when_its_id_is_forgotten_is_not_open_again(inbox: Inbox) -> None:
    inbox.take(offer(), at=NOW)
    inbox.keep_consent(consent())
    inbox.forget_messages(now=NOW + timedelta(days=31))
    assert inbox.take(offer(), at=NOW + timedelta(days=31))
    assert not inbox.is_open(offer())


def carried_out(inbox: Inbox) -> None:
    """An experiment of which nothing is left to do."""
    for command in (offer(), start(), cancel()):
        inbox.take(command, at=NOW)
    inbox.keep_consent(consent())
    inbox.consent_is_stored(consent())
    inbox.end(start().task_id, "done")


def test_an_experiment_is_silent_thirty_days_after_its_last_message(inbox: Inbox) -> None:
    carried_out(inbox)
    assert inbox.silent_experiments(now=NOW + timedelta(days=29)) == ()
    assert inbox.silent_experiments(now=NOW + timedelta(days=31)) == ("glioma-1",)
    inbox.take(start(), at=NOW + timedelta(days=20))
    assert inbox.silent_experiments(now=NOW + timedelta(days=31)) == ()


@pytest.mark.parametrize("left", ["task", "offer", "consent"])
def test_an_experiment_of_which_something_is_left_to_do_is_not_silent(inbox: Inbox, left: str) -> None:
    carried_out(inbox)
    match left:
        case "task":
            inbox.take(start(round=2), at=NOW)
        case "offer":
            inbox.take(offer(7), at=NOW)
        case "consent":
            inbox.keep_consent(consent(2))
    assert inbox.silent_experiments(now=NOW + timedelta(days=31)) == ()


def test_nothing_is_left_of_a_forgotten_experiment_and_all_of_the_others(path: Path, inbox: Inbox) -> None:
    other = MANIFEST.model_copy(update={"id": "glioma-2"})
    carried_out(inbox)
    inbox.keep_manifest(other)
    inbox.take(start(experiment="glioma-2"), at=NOW)
    inbox.forget_experiment("glioma-1")
    inbox.forget_messages(now=NOW + timedelta(days=31))
    assert inbox.manifest(other.sha256) == other
    assert inbox.tasks_in_hand() == (start(experiment="glioma-2"),)
    inbox.forget_experiment("glioma-2")
    with sqlite3.connect(path) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        left = {table: database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}
    database.close()
    assert set(left.values()) == {0}


def test_a_cancel_of_an_unknown_task_is_remembered(inbox: Inbox) -> None:
    inbox.take(cancel(), at=NOW)
    assert inbox.cancelled(start().task_id) == "step_closed"
    assert inbox.cancelled(start(attempt=2).task_id) is None


def test_the_first_reason_of_a_cancel_stands(inbox: Inbox) -> None:
    inbox.take(cancel(), at=NOW)
    assert inbox.take(cancel("stale_round"), at=NOW)
    assert inbox.cancelled(start().task_id) == "step_closed"


def test_tasks_are_taken_up_again_in_the_order_in_which_they_came(inbox: Inbox) -> None:
    came = ("glioma-3", "glioma-1", "glioma-2")
    for seconds, experiment in enumerate(came):
        inbox.take(start(experiment=experiment), at=NOW + timedelta(seconds=seconds))
    assert tuple(task.experiment for task in inbox.tasks_in_hand()) == came


def test_it_knows_which_experiment_was_served_last(inbox: Inbox) -> None:
    for seconds, (experiment, round_) in enumerate((("b", 1), ("a", 1), ("d", 1), ("c", 1), ("b", 2))):
        task = start(experiment=experiment, round=round_)
        inbox.take(task, at=NOW + timedelta(seconds=seconds))
        if experiment in ("a", "b"):
            inbox.count_training(task.task_id)
    assert inbox.experiments_served() == ("d", "c", "a", "b")


def test_tasks_in_training_come_first_after_a_restart(inbox: Inbox) -> None:
    for round_ in (1, 2, 3):
        inbox.take(start(round=round_), at=NOW)
    inbox.count_training(start(round=3).task_id)
    assert [task.round for task in inbox.tasks_in_hand()] == [3, 1, 2]
    assert inbox.trainings(start(round=3).task_id) == 1
    assert inbox.trainings(start(round=9).task_id) == 0


def test_the_highest_attempt_and_the_newest_round_are_known(inbox: Inbox) -> None:
    assert (inbox.newest_attempt(start().task_id), inbox.newest_round("glioma-1")) == (0, -1)
    inbox.take(start(attempt=3), at=NOW)
    inbox.take(start(round=4, task=Task.TEST), at=NOW)
    assert inbox.newest_attempt(start().task_id) == 3
    assert inbox.newest_round("glioma-1") == 4
    assert inbox.newest_round("glioma-2") == -1


def test_an_offer_stays_open_until_its_consent_is_kept(inbox: Inbox) -> None:
    inbox.take(offer(3), at=NOW)
    inbox.take(offer(7), at=NOW)
    inbox.keep_consent(consent(offer=3))
    assert [each.offer for each in inbox.open_offers()] == [7]
    inbox.keep_consent(consent(2, offer=7))
    assert inbox.open_offers() == ()


@pytest.mark.parametrize("came", [(3, 7), (7, 3)])
def test_of_the_offers_of_a_manifest_only_the_newest_waits_whichever_came_first(
    inbox: Inbox, came: tuple[int, int]
) -> None:
    for number in came:
        inbox.take(offer(number), at=NOW)
    assert [each.offer for each in inbox.open_offers()] == [7]
    assert not inbox.is_open(offer(3))
    assert inbox.is_open(offer(7))


def test_a_consent_answers_what_was_offered_of_its_manifest_before_and_nothing_of_another(
    path: Path, inbox: Inbox
) -> None:
    other = MANIFEST.model_copy(update={"purpose": "another"})
    another = offer(2).model_copy(update={"manifest": other, "manifest_sha256": other.sha256, "id": "another"})
    for each in (offer(3), another, offer(7)):
        inbox.take(each, at=NOW)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE offers SET answered = 0")  # as an agent before this version left them
    assert [each.offer for each in inbox.open_offers()] == [2, 7]
    inbox.keep_consent(consent(offer=7))
    assert not inbox.is_open(offer(3))
    assert [each.offer for each in inbox.open_offers()] == [2]


def test_the_newest_consent_counts(inbox: Inbox) -> None:
    assert inbox.consent("glioma-1", MANIFEST.sha256) is None
    inbox.keep_consent(consent(1))
    inbox.keep_consent(consent(2, verdict="withdrawn", code="withdrawn"))
    newest = inbox.consent("glioma-1", MANIFEST.sha256)
    assert newest is not None
    assert newest.verdict == "withdrawn"
    assert inbox.consent("glioma-2", MANIFEST.sha256) is None


def test_a_consent_is_to_be_stored_until_it_is_known_to_be(inbox: Inbox) -> None:
    inbox.keep_consent(consent())
    renumbered = inbox.renumber_consent(consent(), 4)
    assert inbox.experiments_to_store() == ("glioma-1",)
    assert inbox.consents_to_store("glioma-1") == (consent(4),) == (renumbered,)
    assert inbox.consents_to_store("glioma-2") == ()
    inbox.consent_is_stored(renumbered)
    assert inbox.experiments_to_store() == inbox.consents_to_store("glioma-1") == ()
    assert inbox.consent("glioma-1", MANIFEST.sha256) == renumbered


def test_a_manifest_is_kept_once(inbox: Inbox) -> None:
    assert inbox.manifest(MANIFEST.sha256) is None
    inbox.keep_manifest(MANIFEST)
    inbox.keep_manifest(MANIFEST)
    assert inbox.manifest(MANIFEST.sha256) == MANIFEST


def test_two_agents_cannot_share_an_inbox(path: Path, inbox: Inbox) -> None:
    with pytest.raises(InboxInUseError, match="stop it first"), Inbox.open(path):
        pass
    assert inbox.take(start(), at=NOW)


def test_a_file_that_is_no_inbox_is_said_to_be_none(path: Path) -> None:
    path.write_bytes(b"this is not SQLite, whatever its name says" * 10)
    with pytest.raises(InboxError, match="no inbox"), Inbox.open(path):
        pass


def test_an_inbox_of_a_later_version_is_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 2")
    database.close()
    with pytest.raises(InboxError, match="version 2"), Inbox.open(path):
        pass


def test_what_fails_half_way_leaves_nothing(path: Path, inbox: Inbox) -> None:
    other = sqlite3.connect(path)
    other.execute("DROP TABLE tasks")
    other.commit()
    other.close()
    with pytest.raises(sqlite3.OperationalError):
        inbox.take(start(), at=NOW)
    assert inbox.take(cancel(), at=NOW)
    with pytest.raises(sqlite3.OperationalError):
        inbox.take(start(), at=NOW)


def test_an_inbox_that_cannot_be_looked_at_is_told(tmp_path: Path) -> None:
    path = tmp_path / "inbox.sqlite"
    with pytest.raises(InboxError, match="has not run yet"), Inbox.read(path):
        pass
    path.write_bytes(b"no database at all, but long enough to be looked at as if it were one" * 20)
    with pytest.raises(InboxError, match="cannot be read"), Inbox.read(path):
        pass
    path.unlink()
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(InboxError, match="version 99"), Inbox.read(path):
        pass


def test_looking_at_an_inbox_changes_nothing_and_needs_no_right_to_write(tmp_path: Path) -> None:
    path = tmp_path / "inbox.sqlite"
    with Inbox.open(path) as inbox:
        inbox.take(offer(), at=NOW)
    before = path.read_bytes()
    with Inbox.read(path) as looked_at:
        assert looked_at.offers_of("glioma-1") == (offer(),)
        assert looked_at.came_at(offer()) == NOW
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            looked_at.end(start().task_id, "done")
    assert path.read_bytes() == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["inbox.sqlite", "inbox.sqlite.lock"]


def test_what_is_granted_stands_until_it_is_withdrawn(inbox: Inbox) -> None:
    inbox.keep_consent(consent(1))
    inbox.keep_consent(consent(2, verdict="pending", rounds=9))
    inbox.keep_consent(consent(3, verdict="declined", rounds=9))
    assert inbox.grant("glioma-1", MANIFEST.sha256) == consent(1)
    inbox.keep_consent(consent(4, verdict="withdrawn", code="withdrawn"))
    assert inbox.grants("glioma-1") == ()
    inbox.keep_consent(consent(5))
    assert inbox.grants("glioma-1") == (consent(5),)


def test_consents_found_in_the_store_do_not_replace_those_recorded_here(inbox: Inbox) -> None:
    inbox.keep_consent(consent(2))
    inbox.keep_recovered([consent(1), consent(2, reason="another")])
    assert inbox.consents_of("glioma-1") == (consent(1), consent(2))
    assert inbox.consents_to_store("glioma-1") == (consent(2),)
    assert inbox.next_number("glioma-1", MANIFEST.sha256) == 3


def test_what_was_given_up_is_remembered_until_its_experiment_is_forgotten(path: Path) -> None:
    failure = Failure(phase="training", code="crashed", hint="out of memory")
    with Inbox.open(path) as inbox:
        assert inbox.given_up(start().task_id) is None
        inbox.give_up(start().task_id, failure)
    with Inbox.open(path) as inbox:
        assert inbox.given_up(start().task_id) == failure
        assert inbox.given_up(start(attempt=2).task_id) is None
        inbox.forget_experiment("glioma-1")
        assert inbox.given_up(start().task_id) is None


def test_an_inbox_of_before_things_were_given_up_is_opened(path: Path) -> None:
    with Inbox.open(path):
        pass
    with closing(sqlite3.connect(path)) as database:
        database.execute("DROP TABLE given_up")
    with Inbox.open(path) as inbox:
        assert inbox.given_up(start().task_id) is None
