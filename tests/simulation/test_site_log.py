"""What a clinic's own log tells of a whole experiment, and of each way in which a task is refused."""

import asyncio
import json
import os
import threading
from io import BufferedReader
from itertools import pairwise
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from clinic import BUCKET, POLICY, Clinic, failing
from structlog.testing import capture_logs
from whole import clinics_for, counting

from wardround.runtime.bus.memory import MemoryBus
from wardround.runtime.regular_file import open_regular
from wardround.runtime.store.port import ObjectStore
from wardround.simulation.federation import Federation
from wardround.simulation.researcher import carry_through
from wardround.site_agent import submission, training
from wardround.site_agent.app import SiteAgent
from wardround.site_agent.audit.chain import Line, opened
from wardround.site_agent.audit.check import anchor_of, verify
from wardround.site_agent.reports import AT_LEAST_EVERY, pause
from wardround.site_agent.submission import CASES_AT_MOST
from wardround_messages.base import digest
from wardround_messages.codec import encode, parse
from wardround_messages.events import MetricsReported
from wardround_messages.manifest import Evaluation
from wardround_messages.names import Task, bucket_of
from wardround_messages.objects import ANSWER_AT_MOST, Answer


@pytest.fixture
async def clinic(tmp_path: Path) -> Clinic:
    clinic = Clinic(tmp_path)
    await clinic.open_experiment()
    return clinic


def lines_of(path: Path) -> list[Line]:
    with opened(path) as lines:
        return list(lines)


async def objects_of(store: ObjectStore, bucket: str, site: str) -> dict[str, bytes]:
    """All that the site put into the store."""
    keys = [info.key for info in await store.list(bucket) if f"/{site}/" in info.key]
    return {key: await store.read(bucket, key) for key in keys}


class Eavesdropper(MemoryBus):
    """Notes for each report that was published how many lines the site's log had then."""

    reports: list[tuple[str, int]]
    log: Path

    async def publish(self, packet: Any, **options: Any) -> None:
        if packet.headers.get("ce-type", "").startswith("io.wardround.metrics.reported"):
            self.reports.append((digest(packet.body), len(lines_of(self.log))))
        await super().publish(packet, **options)


class Overheard(Federation):
    """A federation in which every clinic's reports are overheard as they leave."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.ears: dict[str, Eavesdropper] = {}
        super().__init__(*args, **options)

    def _agent(self, clinic: Any, bus: MemoryBus) -> SiteAgent:
        ears = Eavesdropper(self.broker, clinic.name)
        ears.reports, ears.log = [], clinic.settings.paths.log
        self.ears[clinic.name] = ears
        agent = super()._agent(clinic, ears)
        assert isinstance(agent, SiteAgent)
        return agent


async def test_a_whole_experiment_leaves_logs_that_answer_for_all_that_left(tmp_path: Path) -> None:
    manifest = counting(count=3, evaluation=Evaluation(final=True))
    clinics = clinics_for(tmp_path, manifest)
    federation = Overheard(tmp_path, clinics)
    async with federation.running():
        async with asyncio.timeout(60):
            ending = await carry_through(federation, manifest)
        assert ending.state == "finished"
        stored = {
            clinic.name: await objects_of(federation.store, bucket_of(manifest.id), clinic.name) for clinic in clinics
        }
    for clinic in clinics:
        path = clinic.settings.paths.log
        told = lines_of(path)
        objects = stored[clinic.name]
        answers = [
            parse(Answer, data, at_most=ANSWER_AT_MOST) for key, data in objects.items() if key.startswith("answers/")
        ]
        assert len(answers) == 4 + (clinic is clinics[0])
        with opened(path) as lines:
            found = verify(lines, [anchor_of(answer, str(answer.round)) for answer in answers])
        assert found.lines == len(told)

        named = {(line.facts["key"], line.facts["size"], line.facts["sha256"]) for line in told if "key" in line.facts}
        assert {(key, len(data), digest(data)) for key, data in objects.items()} <= named

        reports = federation.ears[clinic.name].reports
        assert reports
        for sha256, lines_then in reports:
            before = [line for line in told[:lines_then] if line.what == "metrics"]
            assert sha256 in [line.facts["sha256"] for line in before]


async def test_an_answer_anchors_a_line_after_that_of_its_update(clinic: Clinic) -> None:
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        answer = await clinic.answer(clinic.start())
    assert answer.log is not None
    lines = {line.number: line for line in lines_of(clinic.settings.paths.log)}
    anchored = lines[answer.log.number]
    assert (anchored.what, anchored.sha256) == ("update", answer.log.sha256)
    assert lines[anchored.number + 1].what == "answer"


async def test_the_log_holds_every_figure_that_left_and_the_numbers_that_stayed(clinic: Clinic) -> None:
    clinic.training.before = lambda folder, cancelled: (folder / "cases.txt").write_text("case-1\n") and None
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        answer = await clinic.answer(clinic.start())
        reported = await clinic.said(MetricsReported)
    told = {line["what"]: line for line in clinic.audit}
    left = told["answer"]
    assert (left["outcome"], left["cases"], left["trained"]) == ("done", 14, {"loss": 0.25})
    assert left["received"] == {"cases": 12, "values": {"loss": 0.5}}
    assert (left["metrics_kept_back"], left["cases_used"]) == (answer.metrics_kept_back, 14)
    assert left["cases_sha256"] == told["update"]["cases_sha256"] == digest(b"case-1\n")
    assert left["trainer_sha256"] == told["task"]["trainer_sha256"] == "a" * 64
    body = encode(reported)
    assert (told["metrics"]["metrics"], told["metrics"]["step"]) == ({"loss": 0.25}, 3)
    assert (told["metrics"]["size"], told["metrics"]["sha256"]) == (len(body), digest(body))


async def test_a_list_of_cases_too_long_to_be_one_is_not_read_to_its_end(clinic: Clinic) -> None:
    def leave_a_sparse_file(folder: Path, cancelled: Event) -> None:
        with (folder / "cases.txt").open("wb") as cases:
            cases.truncate(2**32)

    clinic.training.before = leave_a_sparse_file
    with capture_logs() as said:
        async with clinic.running():
            await clinic.enrol()
            await clinic.hub.send(clinic.start())
            answer = await clinic.answer(clinic.start())
    assert answer.outcome == "done"
    assert [line["event"] for line in said if line["log_level"] == "warning"] == ["cases_too_large"]
    assert not any("cases_sha256" in line for line in clinic.audit)


async def test_a_long_list_of_cases_is_read_beside_the_loop(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    cases, readers = bytes(CASES_AT_MOST), []

    def noting(path: Path) -> BufferedReader:
        readers.append(threading.current_thread())
        return open_regular(path)

    clinic.training.before = lambda folder, cancelled: (folder / "cases.txt").write_bytes(cases) and None
    monkeypatch.setattr(submission, "open_regular", noting)
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        await clinic.answer(clinic.start())
    assert clinic.audit[-1]["cases_sha256"] == digest(cases)
    assert len(readers) == 1
    assert threading.main_thread() not in readers


async def test_a_declined_offer_is_logged_with_the_rule_that_decided(clinic: Clinic) -> None:
    clinic.policy.write_text(POLICY.replace('["researcher-a"]', '["researcher-b"]'))
    async with clinic.running():
        consent = await clinic.enrol()
    assert consent.verdict == "declined"
    offer, left = clinic.audit
    for line in (offer, left):
        decided = (line["verdict"], line["rule"], line["code"], line["requested_by"], line["study"])
        assert decided == ("declined", "glioma", "policy", "researcher-a", "glioma")
    assert (offer["what"], left["what"], "key" in offer) == ("offer", "consent", False)


async def test_a_task_refused_before_anything_was_triggered_is_logged_with_the_rule(clinic: Clinic) -> None:
    async with clinic.running():
        await clinic.enrol()
        clinic.policy.write_text(POLICY.replace("rounds = 20", "rounds = 1"))
        await clinic.hub.send(clinic.start())
        answer = await clinic.answer(clinic.start())
    assert clinic.training.trained == []
    assert (answer.outcome, answer.failure.code) == ("refused", "policy")
    line = clinic.audit[-1]
    assert (line["what"], line["outcome"], line["rule"], line["study"]) == ("answer", "refused", "glioma", "glioma")
    assert "task" not in [line["what"] for line in clinic.audit]


async def test_a_task_refused_without_a_consent_is_logged(clinic: Clinic) -> None:
    async with clinic.running():
        await clinic.hub.send(clinic.start())
        await clinic.answer(clinic.start())
    (line,) = clinic.audit
    assert (line["what"], line["outcome"], line["code"]) == ("answer", "refused", "no_consent")
    assert (line["requested_by"], line["task"]) == ("researcher-a", str(clinic.start().task_id))
    assert "rule" not in line


async def test_a_result_refused_for_too_few_cases_is_logged_with_the_rule(clinic: Clinic) -> None:
    clinic.training.change = {"cases": 9}
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        await clinic.answer(clinic.start())
    line = clinic.audit[-1]
    assert (line["outcome"], line["code"], line["rule"]) == ("refused", "too_few_cases", "glioma")
    assert "update" not in [line["what"] for line in clinic.audit]


async def test_a_failed_and_a_cancelled_task_are_logged_with_their_code(clinic: Clinic) -> None:
    clinic.training.change = failing("case_unreadable")
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        await clinic.answer(clinic.start())
        await clinic.hub.send(clinic.cancel(clinic.start(round=2)))
        await clinic.hub.send(clinic.start(round=2))
        await clinic.answer(clinic.start(round=2))
    ends = [(line["outcome"], line["code"]) for line in clinic.audit if line["what"] == "answer"]
    assert ends == [("refused", "case_unreadable"), ("cancelled", "step_closed")]


async def test_a_model_is_logged_before_it_is_fetched(clinic: Clinic) -> None:
    other = clinic.model_ref
    await clinic.store.put(BUCKET, other.key, b"x" * other.size)
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start(task=Task.EVALUATE))
        answer = await clinic.answer(clinic.start(task=Task.EVALUATE))
    assert answer.failure.code == "model_digest"
    line = next(line for line in clinic.audit if line["what"] == "model")
    assert (line["key"], line["size"], line["sha256"]) == (other.key, other.size, other.sha256)


async def test_a_killed_agent_continues_the_chain(clinic: Clinic) -> None:
    async with clinic.running():
        await clinic.enrol()
    path = clinic.settings.paths.log
    path.write_bytes(path.read_bytes()[:-20])
    async with clinic.running():
        await clinic.hub.send(clinic.start())
        answer = await clinic.answer(clinic.start())
    with opened(path) as lines:
        verify(lines, [anchor_of(answer, "the answer")])
    assert [line.what for line in lines_of(path) if not line.fault][:3] == ["offer", "torn", "task"]


def test_reports_grow_rarer_so_that_the_log_of_a_long_training_stays_small() -> None:
    elapsed, reports = 0.0, []
    while elapsed < 24 * 3600:
        elapsed += pause(elapsed, at_first=training.REPORTED_EVERY, per=training.REPORTED_PER)
        reports.append(elapsed)
    assert reports[0] == training.REPORTED_EVERY
    assert sum(at <= 7200 for at in reports) < 620
    assert len(reports) < 2000
    assert max(b - a for a, b in pairwise(reports)) == pytest.approx(AT_LEAST_EVERY)


async def test_a_log_that_is_no_file_holds_everything_back_until_it_is_mended(clinic: Clinic) -> None:
    path = clinic.settings.paths.log
    kept = path.with_name("kept")
    async with clinic.running() as agent:
        await clinic.enrol()
        path.rename(kept)
        path.symlink_to("/dev/full")
        await clinic.hub.send(clinic.start())
        async with asyncio.timeout(20):
            while agent.trouble != "the clinic's own log cannot be written":  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        path.unlink()
        kept.rename(path)
        assert (await clinic.answer(clinic.start())).outcome == "done"


async def test_a_training_that_leaves_a_pipe_in_the_place_of_a_file_holds_nobody_up(clinic: Clinic) -> None:
    def spoil(folder: Path, cancelled: Event) -> None:
        os.mkfifo(folder / "cases.txt")

    clinic.training.before = spoil
    async with clinic.running():
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        assert (await clinic.answer(clinic.start())).outcome == "done"


async def test_no_report_leaves_while_the_log_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clinic = Clinic(tmp_path, threads=True)
    await clinic.open_experiment()
    monkeypatch.setattr(training, "REPORTED_EVERY", 0.01)
    go_on, full = Event(), Event()

    def report(folder: Path, cancelled: Event) -> None:
        full.set()
        (folder / "metrics.jsonl").write_text('{"v":1,"t":1.0,"kind":"metric","name":"loss","value":0.5}\n')
        go_on.wait(5)

    clinic.training.before = report
    async with clinic.running() as agent:
        duty = agent._on_duty
        write = duty.enrolment._site.audit.write

        def write_if_there_is_room(what: str, **facts: Any) -> Any:
            if what == "metrics" and full.is_set():
                raise OSError(28, "no space left on device")
            return write(what, **facts)

        monkeypatch.setattr(duty.enrolment._site.audit, "write", write_if_there_is_room)
        await clinic.enrol()
        await clinic.hub.send(clinic.start())
        async with asyncio.timeout(5):
            while duty.enrolment._site.patience.trouble != "the disk is full":  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert clinic.of_type(MetricsReported) == []
        full.clear()
        await clinic.said(MetricsReported)
        go_on.set()
        await clinic.answer(clinic.start())
    assert "metrics" in [json.loads(line)["what"] for line in clinic.settings.paths.log.read_text().splitlines()]
