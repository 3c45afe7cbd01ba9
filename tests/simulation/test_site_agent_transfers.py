"""A clinic on a bad line: models that come in pieces, updates that are sent again, and what is said of both."""

import asyncio
import errno
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from clinic import BUCKET, Clinic, eventually, tensors

from wardround.runtime.store.content import Content, opened
from wardround.runtime.store.download import part_of
from wardround.runtime.store.memory import MemoryStore
from wardround.runtime.store.port import StoreUnavailableError
from wardround.simulation.faults.virtual_time import run_virtually
from wardround_messages.base import digest
from wardround_messages.events import TaskAnswered, TransferReported
from wardround_messages.task_folder import UPDATE

MODEL = tensors(weight=[float(number) for number in range(400_000)])  # 1.6 MB


class Line(MemoryStore):
    """Between the clinic and the hub. Lets `budget` bytes of models through, then hangs."""

    def __init__(self) -> None:
        super().__init__()
        self.models_read = 0
        self.budget = len(MODEL) * 10
        self.hangs = asyncio.Event()
        self.puts: list[str] = []
        self.lost_replies = 0
        self.before_put: Callable[[], None] = lambda: None
        self.seconds_per_byte = 0.0

    async def read(self, bucket: str, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        data = await super().read(bucket, key, offset=offset, length=length)
        if key.startswith("global/"):
            if self.models_read + len(data) > self.budget:
                self.hangs.set()
                await asyncio.Event().wait()
            self.models_read += len(data)
            await asyncio.sleep(len(data) * self.seconds_per_byte)
        return data

    async def put(self, bucket: str, key: str, source: Content, **more: Any) -> None:
        self.puts.append(key)
        self.before_put()
        with opened(source) as (_, size):
            pass
        await asyncio.sleep(size * self.seconds_per_byte)
        await super().put(bucket, key, source, **more)
        if self.lost_replies:
            self.lost_replies -= 1
            raise StoreUnavailableError("the reply was lost")


async def clinic_on(folder: Path) -> tuple[Clinic, Line]:
    clinic, line = Clinic(folder), Line()
    clinic.store, clinic.model = line, MODEL
    await clinic.open_experiment()
    line.puts.clear()
    return clinic, line


def parts(clinic: Clinic) -> list[Path]:
    return list(clinic.settings.paths.spool.rglob("*.part"))


async def test_an_agent_that_is_killed_while_it_fetches_goes_on_by_range(tmp_path: Path) -> None:
    clinic, line = await clinic_on(tmp_path)
    line.budget = len(MODEL) // 2
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        await line.hangs.wait()
    (part,) = parts(clinic)
    kept = part.stat().st_size
    assert 0 < kept == line.models_read
    assert not part.with_name("model.safetensors").exists()
    line.budget = 10 * len(MODEL)
    async with clinic.running():
        answer = await clinic.answer(clinic.start())
    assert answer.outcome == "done"
    assert line.models_read == len(MODEL)
    assert clinic.training.models == [MODEL]


async def test_what_was_kept_and_rotted_is_fetched_again(tmp_path: Path) -> None:
    clinic, line = await clinic_on(tmp_path)
    line.budget = len(MODEL) // 2
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        await line.hangs.wait()
    (part,) = parts(clinic)
    data = bytearray(part.read_bytes())
    data[1000] ^= 1
    part.write_bytes(data)
    line.budget = 10 * len(MODEL)
    async with clinic.running():
        await clinic.answer(clinic.start())
    assert clinic.training.models == [MODEL]
    assert line.models_read == len(MODEL) + len(MODEL)


def a_link(task: Path, elsewhere: Path) -> None:
    task.symlink_to(elsewhere)


def a_folder_for_the_part(task: Path, elsewhere: Path) -> None:
    part_of(task / "model.safetensors", digest(MODEL)).mkdir(parents=True)


@pytest.mark.parametrize("there", [a_link, a_folder_for_the_part])
async def test_what_a_training_put_where_the_next_tasks_folder_will_be_gives_way(
    tmp_path: Path, there: Callable[[Path, Path], None]
) -> None:
    clinic, _ = await clinic_on(tmp_path)
    scans = tmp_path / "scans"
    scans.mkdir()
    (scans / "patient-7").touch()
    clinic.settings.paths.spool.mkdir(parents=True)
    there(clinic.settings.paths.spool / str(clinic.start().task_id), scans)
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        answer = await clinic.answer(clinic.start())
    assert answer.outcome == "done"
    assert list(scans.iterdir()) == [scans / "patient-7"]


async def test_a_disk_without_room_for_the_job_does_not_have_the_model_fetched_again_and_again(tmp_path: Path) -> None:
    clinic, line = await clinic_on(tmp_path)
    task = clinic.settings.paths.spool / str(clinic.start().task_id)
    write, tries = Path.write_bytes, 0

    def full_at_first(path: Path, data: bytes) -> int:
        nonlocal tries
        if path.parent == task and (tries := tries + 1) <= 3:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "write_bytes", full_at_first)
        async with clinic.running():
            await clinic.enrol()
            await clinic.hub.send(clinic.start())
            assert (await clinic.answer(clinic.start())).outcome == "done"
    assert tries > 3
    assert line.models_read == len(MODEL)


async def test_what_was_fetched_in_part_goes_with_its_task(tmp_path: Path) -> None:
    clinic, line = await clinic_on(tmp_path)
    line.budget = len(MODEL) // 2
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        await line.hangs.wait()
        assert parts(clinic)
        await clinic.hub.send(clinic.cancel(clinic.start()))
        await clinic.answer(clinic.start())
        await eventually(no_folder(clinic))


def no_folder(clinic: Clinic) -> Any:
    async def look() -> bool:
        return not clinic.settings.paths.spool.joinpath(str(clinic.start().task_id)).exists()

    return look


async def test_an_update_that_arrived_is_not_sent_again_though_its_reply_was_lost(tmp_path: Path) -> None:
    clinic, line = await clinic_on(tmp_path)
    line.lost_replies = 1
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        answer = await clinic.answer(clinic.start())
    assert answer.update is not None
    assert line.puts == [answer.update.key]
    assert await line.read(BUCKET, answer.update.key) == clinic.training.update


# --- what is said ----------------------------------------------------------------------------------------------------


async def test_an_update_that_others_replace_before_it_has_left_is_held_back(tmp_path: Path) -> None:
    clinic, line = await clinic_on(tmp_path)
    clinic.training.update = MODEL
    (tmp_path / "patients.csv").write_bytes(b"name;born\n" * (len(MODEL) // 10))
    update = clinic.settings.paths.spool / str(clinic.start().task_id) / UPDATE

    def replace_by_a_link() -> None:
        update.unlink()
        update.symlink_to(tmp_path / "patients.csv")

    line.before_put = replace_by_a_link
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        answer = await clinic.answer(clinic.start())
        assert await clinic.objects("updates/") == ()
    assert len(line.puts) == 1
    assert (answer.outcome, answer.update) == ("failed", None)
    assert (answer.failure.phase, answer.failure.code) == ("submitting", "update_changed")


async def test_the_disk_has_the_model_before_the_job_that_names_it(tmp_path: Path) -> None:
    clinic, _ = await clinic_on(tmp_path)
    fsync, replace = os.fsync, os.replace
    folder = clinic.settings.paths.spool / str(clinic.start().task_id)
    done: list[tuple[str, str]] = []

    def noting_fsync(descriptor: int) -> None:
        done.append(("fsync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        fsync(descriptor)

    def noting_replace(source: Path, target: Path) -> None:
        done.append(("name", Path(target).name))
        replace(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", noting_fsync)
        patch.setattr(os, "replace", noting_replace)
        async with clinic.running(durable=True):
            await clinic.enrol()
            await clinic.hub.send(clinic.start())
            await clinic.answer(clinic.start())
    part = part_of(folder / "model.safetensors", digest(MODEL)).name
    of_the_folder = [one for one in done if one[1] in (part, "model.safetensors", folder.name, "job.json")]
    assert of_the_folder == [
        ("fsync", part),
        ("name", "model.safetensors"),
        ("fsync", folder.name),
        ("name", "job.json"),
    ]


def reports_of(work: Coroutine[Any, Any, Clinic]) -> list[tuple[str, int, int, int | None]]:
    clinic = run_virtually(work)
    return [(said.phase, said.done, said.of, said.per_second) for said in clinic.of_type(TransferReported)]


async def one_task(folder: Path, *, seconds: float, limit: int | None = None) -> Clinic:
    """A clinic whose line takes so many seconds for a model, and whose update is as large, when its task is done."""
    clinic, line = await clinic_on(folder)
    line.seconds_per_byte = seconds / len(MODEL)
    clinic.training.update = MODEL
    async with clinic.running(limit=limit):
        await clinic.hub.send(clinic.offer())
        await clinic.hub.send(clinic.start())
        while not clinic.of_type(TaskAnswered):  # noqa: ASYNC110 - a second costs nothing
            await asyncio.sleep(1)
    return clinic


def test_a_transfer_of_a_few_seconds_is_not_worth_a_message(tmp_path: Path) -> None:
    assert reports_of(one_task(tmp_path, seconds=4)) == []


def test_a_long_transfer_says_every_few_seconds_how_far_it_is_and_that_it_is_through(tmp_path: Path) -> None:
    said = reports_of(one_task(tmp_path, seconds=24))
    fetching = [(done, of, per_second) for phase, done, of, per_second in said if phase == "fetching"]
    assert [of for _, of, _ in fetching] == [len(MODEL)] * 5
    done = [done for done, _, _ in fetching]
    assert done == sorted(set(done))
    assert done[-1] == len(MODEL)
    assert all(per_second == pytest.approx(len(MODEL) / 24, rel=0.35) for _, _, per_second in fetching)
    assert [(phase, done) for phase, done, _, _ in said[-5:]] == [("submitting", 0)] * 4 + [("submitting", len(MODEL))]


def test_an_hour_on_a_slow_line_takes_few_messages(tmp_path: Path) -> None:
    assert 100 < len(reports_of(one_task(tmp_path, seconds=3600))) < 2 * 250


def test_a_clinics_limit_holds_for_what_it_fetches(tmp_path: Path) -> None:
    said = reports_of(one_task(tmp_path, seconds=0, limit=100_000))
    assert len(said) == 4  # 16 s
    assert said[1][3] == pytest.approx(100_000, rel=0.1)
