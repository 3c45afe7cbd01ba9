"""A clinic's files and its scheduler as the doctor meets them."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from airflow_scripted import PASSWORD, ScriptedAirflow, says, serving

from wardround.client.doctor import probe as probing
from wardround.client.doctor.agent import look_at_agent
from wardround.client.doctor.airflow import AirflowLook
from wardround.client.doctor.findings import Verdict
from wardround.client.doctor.probe import AMOUNT, DATA, Probe, clear_left
from wardround.client.doctor.room import look_at_room
from wardround.client.doctor.site_files import look_at_dataset, look_at_records, look_at_secrets, look_at_user
from wardround.client.doctor.trainers import TRAINER_OF_PROBE, Trainers
from wardround.runtime.http_settings import HttpSettings
from wardround.runtime.secrets import Secret
from wardround.site_agent.scheduler.inline import InlineScheduler
from wardround.site_agent.scheduler.port import (
    Began,
    RunEnd,
    Scheduler,
    SchedulerError,
    SchedulerUnavailableError,
    UnknownRunError,
    nobody_asks,
)
from wardround.site_agent.settings import Airflow, Dataset, Paths, load_site
from wardround.training.datasets.counting import write
from wardround.training.runner import run_folder
from wardround.training.trainers import adding

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def forbidden(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """What is named is refused to this user, be it root."""

    def forbid(path: Path) -> None:
        allowed = os.access
        monkeypatch.setattr(os, "access", lambda asked, mode: Path(asked) != path and allowed(asked, mode))

    return forbid


def dataset(*folders: Path, salt: Path | None = None) -> Dataset:
    return Dataset.model_construct(
        path=folders, layout=None, split_salt=None if salt is None else Secret.model_construct(file=salt)
    )


def secret(file: Path, text: str = "a secret of some length", *, mode: int = 0o600) -> Path:
    file.write_text(text)
    file.chmod(mode)
    return file


# --- data sets -------------------------------------------------------------------------------------------------------


async def test_data_set_with_readable_files_is_well(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "case.nii").touch()
    (tmp_path / "also.nii").symlink_to(tmp_path / "inner" / "case.nii")
    salt = secret(tmp_path.parent / "salt")
    assert (await look_at_dataset(dataset(tmp_path, salt=salt))).what == "2 files can be read"
    assert (await look_at_dataset(dataset(tmp_path))).what == "2 files can be read, no split_salt"


async def test_data_set_without_its_folder_is_wrong(tmp_path: Path) -> None:
    verdict = await look_at_dataset(dataset(tmp_path / "gone"))
    assert (verdict.state, verdict.what) == ("wrong", f"there is no folder {tmp_path / 'gone'}")


async def test_data_set_without_a_file_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert (await look_at_dataset(dataset(tmp_path))).what == "there is no file in it"


@pytest.mark.parametrize("where", ["/etc", "../elsewhere", "loop"])
async def test_link_out_of_the_data_set_is_wrong_and_named(tmp_path: Path, where: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "case.nii").touch()
    (folder / "loop").symlink_to(where)
    verdict = await look_at_dataset(dataset(folder))
    assert verdict.state == "wrong"
    assert str(folder / "loop") in verdict.what


async def test_file_that_may_not_be_read_is_wrong_and_named(tmp_path: Path, forbidden: Callable[[Path], None]) -> None:
    (tmp_path / "case.nii").touch()
    forbidden(tmp_path / "case.nii")
    verdict = await look_at_dataset(dataset(tmp_path))
    assert verdict.what == f"cannot be read: {tmp_path / 'case.nii'}"


async def test_data_set_whose_salt_is_gone_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "case.nii").touch()
    verdict = await look_at_dataset(dataset(tmp_path, salt=tmp_path / "gone" / "salt"))
    assert verdict.state == "wrong"
    assert "cannot be read" in verdict.what


async def test_of_a_huge_data_set_the_first_files_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wardround.client.doctor.site_files.LOOKED_AT_MOST", 10)
    for number in range(3):
        (tmp_path / f"case-{number}").mkdir()
        for scan in range(5):
            (tmp_path / f"case-{number}" / f"{scan}.nii").touch()
    assert (await look_at_dataset(dataset(tmp_path))).what == "the first 10 files can be read, no split_salt"


# --- secrets, user, room ---------------------------------------------------------------------------------------------


async def test_empty_or_exposed_secret_is_wrong_and_never_shown(tmp_path: Path) -> None:
    for name in ("broker", "store"):
        secret(tmp_path / name, f"the-secret-of-{name}")
    (tmp_path / "site.toml").write_text(
        """schema = 1
site = "clinic-1"
[hub]
broker = "amqp://127.0.0.1:1"
store = "http://127.0.0.1:1"
username = "clinic-1"
password = { file = "broker" }
store_key = { id = "clinic-1", file = "store" }
[paths]
inbox = "inbox"
log = "log"
spool = "spool"
"""
    )
    settings = load_site(tmp_path / "site.toml")
    assert (await look_at_secrets(settings)).what == "2 files, each its owner's alone"
    (tmp_path / "broker").write_text("")
    (tmp_path / "store").chmod(0o644)

    verdict = await look_at_secrets(settings)

    assert verdict.state == "wrong"
    assert "broker is empty" in verdict.what
    assert f"chmod 600 {tmp_path / 'store'}" in verdict.what
    assert "the-secret-of" not in verdict.what + verdict.to_do


@pytest.mark.parametrize("spoilt", ["inbox.sqlite", "audit.jsonl"])
async def test_inbox_or_log_that_an_agent_cannot_use_is_wrong_and_named(tmp_path: Path, spoilt: str) -> None:
    paths = Paths.model_construct(
        inbox=tmp_path / "inbox.sqlite", log=tmp_path / "audit.jsonl", spool=tmp_path / "spool"
    )
    assert (await look_at_records(paths)).state == "ok"
    (tmp_path / spoilt).mkdir()
    verdict = await look_at_records(paths)
    assert verdict.state == "wrong"
    assert spoilt in verdict.what


async def test_whoever_is_not_the_agents_user_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inbox = tmp_path / "inbox"
    assert (await look_at_user(inbox)).state == "skipped"
    inbox.touch()
    assert (await look_at_user(inbox)).state == "ok"
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000)
    verdict = await look_at_user(inbox)
    assert verdict.state == "warning"
    assert "4000000" in verdict.what


async def test_disk_with_too_little_room_is_a_warning(tmp_path: Path) -> None:
    assert (await look_at_room({"spool": tmp_path / "made" / "later"}, wanted=1)).state == "ok"
    verdict = await look_at_room({"spool": tmp_path, "log": tmp_path}, wanted=10**18)
    assert verdict.state == "warning"
    assert "1000000.0 TB should be" in verdict.what


async def test_folder_that_may_not_be_written_to_is_wrong(tmp_path: Path, forbidden: Callable[[Path], None]) -> None:
    forbidden(tmp_path)
    verdict = await look_at_room({"spool": tmp_path / "made" / "later"}, wanted=1)
    assert verdict.state == "wrong"
    assert "cannot be written to by this user" in verdict.what


async def test_interpreter_that_is_not_there_lists_no_trainers(tmp_path: Path) -> None:
    verdict = await Trainers(tmp_path / "python").look()
    assert verdict.state == "wrong"
    assert "cannot be started" in verdict.what


# --- the probe -------------------------------------------------------------------------------------------------------

Step = Callable[[str], None]


class Odd(Scheduler):
    """A scheduler with one thing amiss; `folders` are the spool's at each call."""

    def __init__(self, spool: Path, *, trigger: Exception | None = None, end: RunEnd | Exception | None = None) -> None:
        self.spool = spool
        self.cancelled: list[str] = []
        self.waited_for = asyncio.Event()
        self.begins = end is not None
        self._trigger = trigger
        self._end = end

    async def trigger(self, task: str, *, again: bool = False) -> None:
        assert (self.spool / task / "job.json").is_file()
        if self._trigger is not None:
            raise self._trigger

    async def wait(self, task: str, *, began: Began = nobody_asks) -> RunEnd:
        self.waited_for.set()
        if self.begins:
            began()
        if self._end is None:
            await asyncio.Event().wait()
        if isinstance(self._end, Exception):
            raise self._end
        assert self._end is not None
        return self._end

    async def cancel(self, task: str) -> None:
        self.cancelled.append(task)

    async def close(self) -> None:
        """Nothing is open."""


async def looked(scheduler: Odd, **options: object) -> Verdict:
    """What the probe comes to; it leaves nothing in the spool."""
    verdict = await Probe(scheduler, scheduler.spool, "clinic-1", **options).look_at_spool(code=None)  # type: ignore[arg-type]
    assert list(scheduler.spool.iterdir()) == []
    return verdict


async def test_probe_comes_back_with_its_result_and_leaves_nothing(tmp_path: Path) -> None:
    scheduler = InlineScheduler(tmp_path, run_folder)
    probe = Probe(scheduler, tmp_path, "clinic-1")
    verdict = await probe.look_at_spool(code=None)
    await scheduler.close()
    assert verdict.state == "ok"
    assert list(tmp_path.iterdir()) == []


def test_probe_asks_for_what_the_trainer_reads() -> None:
    assert AMOUNT == adding.AMOUNT
    assert TRAINER_OF_PROBE == "adding"


@pytest.mark.parametrize(
    ("amiss", "words"),
    [
        (SchedulerError("dag_paused", "unpause it"), "the run was not triggered: unpause it"),
        (SchedulerUnavailableError("it is away"), "the run was not triggered: it is away"),
    ],
)
async def test_probe_that_is_not_triggered(tmp_path: Path, amiss: Exception, words: str) -> None:
    verdict = await looked(Odd(tmp_path, trigger=amiss))
    assert (verdict.state, verdict.what) == ("wrong", words)


async def test_probe_that_stays_in_the_queue_is_taken_out_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "BEGINS_WITHIN", 0.05)
    scheduler = Odd(tmp_path)
    verdict = await looked(scheduler)
    assert verdict.state == "wrong"
    assert "waited in the queue" in verdict.what
    assert len(scheduler.cancelled) == 1


async def test_probe_that_waits_because_trainings_go_on_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "BEGINS_WITHIN", 0.05)

    async def busy() -> bool:
        return True

    verdict = await looked(Odd(tmp_path), busy=busy)
    assert verdict.state == "warning"
    assert "not tried" in verdict.what


async def test_probe_that_never_ends_is_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "ENDS_WITHIN", 0.05)
    scheduler = Odd(tmp_path)
    scheduler.begins = True
    verdict = await looked(scheduler)
    assert "still at work" in verdict.what
    assert len(scheduler.cancelled) == 1


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (RunEnd(True), "left no result that is seen here"),
        (RunEnd(False, "no_folder", "not there"), "does not see the folder"),
        (UnknownRunError("x"), "forgot the run"),
        (SchedulerError("airflow_queued", "it waited"), "airflow_queued: it waited"),
    ],
)
async def test_probe_that_ends_badly_says_how(tmp_path: Path, end: RunEnd | Exception, words: str) -> None:
    verdict = await looked(Odd(tmp_path, end=end))
    assert verdict.state == "wrong"
    assert words in verdict.what


async def test_probe_in_a_spool_that_cannot_be_made_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    scheduler = Odd(tmp_path)
    verdict = await Probe(scheduler, tmp_path / "file" / "spool", "clinic-1").look_at_spool(code=None)
    assert verdict.state == "wrong"
    assert "the spool cannot be written" in verdict.what


async def test_probe_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    scheduler = Odd(tmp_path)
    looking = asyncio.create_task(Probe(scheduler, tmp_path, "clinic-1").look_at_spool(code=None))
    async with asyncio.timeout(10):
        await scheduler.waited_for.wait()
    looking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looking
    assert len(scheduler.cancelled) == 1
    assert list(tmp_path.iterdir()) == []


async def test_folder_that_the_agents_user_cannot_remove_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a worker of another user makes may be its own alone."""
    monkeypatch.setattr("wardround.client.doctor.probe.shutil.rmtree", lambda *_, **__: None)
    scheduler = InlineScheduler(tmp_path, run_folder)
    verdict = await Probe(scheduler, tmp_path, "clinic-1").look_at_spool(code=None)
    await scheduler.close()
    (left,) = tmp_path.iterdir()
    assert verdict.state == "warning"
    assert str(left) in verdict.what
    assert "chmod g+rws" in verdict.to_do


def test_what_a_killed_doctor_left_is_removed_an_hour_later(tmp_path: Path) -> None:
    def left(name: str, *, minutes: int, probe: bool = True) -> Path:
        folder = tmp_path / "spool" / name
        (folder / (DATA if probe else "carry")).mkdir(parents=True)
        then = time.time() - 60 * minutes
        os.utime(folder, (then, then))
        return folder

    old = left("doctor-0a1b2c3d.r000000.check.clinic-1.a01", minutes=61)
    kept = [
        left("doctor-0a1b2c3e.r000000.check.clinic-1.a01", minutes=30),
        left("doctor-0a1b2c3f.r000000.check.clinic-1.a01", minutes=90, probe=False),  # a study's of that name
        left("glioma.r000001.train.clinic-1.a01", minutes=90),
        left("doctor-0a1b2c3d", minutes=90),
    ]
    link = tmp_path / "spool" / "doctor-0a1b2c40.r000000.check.clinic-1.a01"
    link.symlink_to(kept[0])
    clear_left(tmp_path / "spool")
    assert not old.exists()
    assert sorted((tmp_path / "spool").iterdir()) == sorted([*kept, link])
    clear_left(tmp_path / "not-made-yet")


async def test_data_that_who_trains_does_not_see_is_wrong_and_named(tmp_path: Path) -> None:
    """Who trains sees of one data set the empty folder alone in which it is mounted at the agent."""
    spool, data = tmp_path / "spool", tmp_path / "data"
    folders = write(data, ["clinic-1"], 1)["clinic-1"]
    (data / "scans").mkdir()
    (data / "scans" / "scan.nii").touch()

    def without_scans(folder: Path, **options: object) -> object:
        if "scan.nii" in (folder / "job.json").read_text():
            (data / "scans" / "scan.nii").unlink()
        return run_folder(folder)

    scheduler = InlineScheduler(spool, without_scans)
    probe = Probe(scheduler, spool, "clinic-1")
    sets = {name: dataset(folder) for name, folder in folders.items()} | {"scans": dataset(data / "scans")}
    verdict = await probe.look_at_data(sets)
    await scheduler.close()
    assert verdict.state == "wrong"
    assert "'scans'" in verdict.what
    assert "'counting'" not in verdict.what


async def test_data_that_who_trains_sees_is_well_whatever_it_is(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "scan.nii").touch()
    scheduler = InlineScheduler(tmp_path / "spool", run_folder)
    probe = Probe(scheduler, tmp_path / "spool", "clinic-1")
    verdict = await probe.look_at_data({"scans": dataset(tmp_path / "scans")})
    none = await probe.look_at_data({})
    await scheduler.close()
    assert (verdict.state, none.state) == ("ok", "skipped")


# --- Airflow ---------------------------------------------------------------------------------------------------------


@pytest.fixture
async def airflow(tmp_path: Path) -> AsyncIterator[tuple[ScriptedAirflow, AirflowLook]]:
    scripted = ScriptedAirflow()
    (tmp_path / "airflow").write_text(PASSWORD)
    (tmp_path / "airflow").chmod(0o600)
    async with serving(scripted.answer) as scripted.port:
        look = AirflowLook(
            Airflow(
                kind="airflow",
                url=scripted.url,
                username="agent",
                password=Secret.model_construct(file=tmp_path / "airflow"),
            )
        )
        yield scripted, look
        await look.close()


async def test_dag_whose_file_cannot_be_read_is_wrong(airflow: tuple[ScriptedAirflow, AirflowLook]) -> None:
    scripted, look = airflow
    assert (await look.look_at_dag("wardround_task")).state == "ok"
    scripted.dags["wardround_task"]["has_import_errors"] = True
    verdict = await look.look_at_dag("wardround_task")
    assert verdict.state == "wrong"
    assert "cannot read the file of its DAG wardround_task" in verdict.what


async def test_login_that_may_not_see_import_errors_is_enough(airflow: tuple[ScriptedAirflow, AirflowLook]) -> None:
    scripted, look = airflow
    assert (await look.look_at_dag("wardround_task")).state == "ok"
    assert "GET /importErrors" not in scripted.heard
    scripted.next["GET /importErrors"].append(says({"detail": "Forbidden"}, 403))
    verdict = await look.look_at_dag("nowhere")
    assert verdict.state == "wrong"
    assert "Airflow has no DAG nowhere" in verdict.what
    assert "GET /importErrors" in scripted.heard


async def test_airflow_is_busy_where_all_runs_that_may_be_are_at_work(
    airflow: tuple[ScriptedAirflow, AirflowLook],
) -> None:
    scripted, look = airflow
    scripted.dags["wardround_task"]["max_active_runs"] = 2
    for at_work, busy in ((1, False), (2, True)):
        scripted.next["GET /dagRuns"].append(says({"dag_runs": [], "total_entries": at_work}))
        assert await look.is_busy("wardround_task") is busy


async def test_what_answers_in_airflows_place_is_wrong(airflow: tuple[ScriptedAirflow, AirflowLook]) -> None:
    scripted, look = airflow
    for what in ("version", "health"):
        scripted.next[f"GET /{what}"].append(says("<html>the page of a proxy</html>"))
    assert "something else than Airflow's interface answers" in (await look.look_at_login()).what
    assert (await look.look_at_health()).state == "wrong"


# --- agent -----------------------------------------------------------------------------------------------------------


async def test_inbox_without_an_agent_is_a_warning(tmp_path: Path) -> None:
    verdict = await look_at_agent(tmp_path / "inbox", HttpSettings())
    assert verdict.state == "warning"
    assert "no agent runs" in verdict.what
    assert list(tmp_path.iterdir()) == []
