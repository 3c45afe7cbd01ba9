"""The site's own log: what a crash, a full disk and other writers do to it, and that no change goes unnoticed."""

import errno
import io
import json
import os
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wardround.runtime.clock import wall_clock
from wardround.site_agent.audit import chain as audit_chain
from wardround.site_agent.audit.chain import ChainBrokenError, Line, chained, line_of, opened, read_lines, tail_of
from wardround.site_agent.audit.check import Anchor, verify
from wardround.site_agent.audit.log import AuditLog
from wardround_messages.base import canonical_bytes, digest
from wardround_messages.journal import GENESIS
from wardround_messages.objects import LogHead

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def log_in(folder: Path) -> AuditLog:
    return AuditLog(folder / "audit.jsonl", clock=lambda: NOON, durable=False)


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    return log_in(tmp_path)


def lines_in(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "audit.jsonl").read_bytes().splitlines()]


def checked(folder: Path) -> list[Line]:
    with opened(folder / "audit.jsonl") as lines:
        return list(chained(lines))


def whats(folder: Path) -> list[str]:
    return [line.what for line in checked(folder)]


def written(count: int) -> bytes:
    """A log of so many lines of different kinds."""
    lines = b""
    previous = GENESIS
    for number in range(1, count + 1):
        facts = {"key": f"answers/{number}", "metrics": {"loss": 0.5 / number}, "reason": "Größe, 3 µm"}
        own = {"v": 1, "number": number, "at": NOON.isoformat(), "what": "answer", "previous": previous}
        line = canonical_bytes(facts | own)
        lines += line + b"\n"
        previous = digest(line)
    return lines


def head_of(data: bytes) -> LogHead:
    raw = data.splitlines()
    return LogHead(number=len(raw), sha256=digest(raw[-1]))


def broken_at(data: bytes, *anchors: Anchor) -> int:
    """The line at which the log is found not to be what was written."""
    with pytest.raises(ChainBrokenError) as broken:
        verify(read_lines(io.BytesIO(data)), anchors)
    assert str(broken.value).startswith(f"line {broken.value.line} ")
    return broken.value.line


# --- writing ---------------------------------------------------------------------------------------------------------


def test_each_line_holds_its_number_and_the_digest_of_the_line_before(log: AuditLog, tmp_path: Path) -> None:
    heads = [log.write("task", rule="glioma", code=None), log.write("answer", size=7)]
    first, second = (tmp_path / "audit.jsonl").read_bytes().splitlines()
    assert json.loads(first) == {
        "v": 1,
        "number": 1,
        "at": "2026-03-02T12:00:00+00:00",
        "what": "task",
        "previous": GENESIS,
        "rule": "glioma",
    }
    assert json.loads(second)["previous"] == digest(first)
    assert heads == [LogHead(number=1, sha256=digest(first)), LogHead(number=2, sha256=digest(second))]
    assert log.head == heads[1]


def test_the_log_is_for_the_clinics_own_eyes(log: AuditLog, tmp_path: Path) -> None:
    log.write("task")
    assert (tmp_path / "audit.jsonl").stat().st_mode & 0o777 == 0o600


@pytest.fixture
def as_root(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """This process as root; the users and groups that it gave files to."""
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fchown", lambda descriptor, user, group: given.append((user, group)))
    return given


def owned_by(monkeypatch: pytest.MonkeyPatch, path: Path, user: int) -> None:
    """As if the file were this user's."""
    honestly = Path.stat

    def stat(self: Path, **options: Any) -> os.stat_result:
        found = honestly(self, **options)
        return os.stat_result((*found[:4], user, user, *found[6:])) if self == path else found

    monkeypatch.setattr(Path, "stat", stat)


def test_a_log_that_root_makes_is_given_to_the_agents_user(
    tmp_path: Path, as_root: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = tmp_path / "inbox.sqlite"
    log = AuditLog(tmp_path / "audit.jsonl", clock=lambda: NOON, durable=False, agents=inbox)
    owned_by(monkeypatch, tmp_path, 4001)
    log.write("person")
    log.write("person")
    assert as_root == [(4001, 4001)]  # once, when it is made
    (tmp_path / "audit.jsonl").unlink()
    inbox.touch()
    owned_by(monkeypatch, inbox, 4002)
    log.write("person")
    assert as_root[1:] == [(4002, 4002)]


def test_a_log_that_root_begins_anew_is_given_with_what_was_laid_aside(
    tmp_path: Path, as_root: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "audit.jsonl").write_text('{"at":"2025-01-01T00:00:00Z","what":"task"}\n')
    owned_by(monkeypatch, tmp_path, 4001)
    log_in(tmp_path).write("person")
    assert as_root == [(4001, 4001)] * 2
    assert whats(tmp_path) == ["began", "person"]


def test_root_gives_nothing_away_that_a_link_leads_to(
    tmp_path: Path, as_root: list[tuple[int, int]], log: AuditLog
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "audit.jsonl").symlink_to(tmp_path / "elsewhere")
    log_in(tmp_path / "home").write("person")
    assert as_root == []
    (tmp_path / "audit.jsonl.new").symlink_to(tmp_path / "precious")
    (tmp_path / "precious").write_text("not the log's")
    (tmp_path / "audit.jsonl").write_text('{"what":"task"}\n')
    log.write("person")
    assert (tmp_path / "precious").read_text() == "not the log's"
    assert not (tmp_path / "audit.jsonl").is_symlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_an_agent_goes_on_in_a_log_that_root_began(tmp_path: Path) -> None:
    folder = tmp_path / "clinic"
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    log_in(folder).write("person")
    status = (folder / "audit.jsonl").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (65534, 65534, 0o600)


def test_a_new_process_continues_the_chain(log: AuditLog, tmp_path: Path) -> None:
    written_before = log.write("task")
    again = log_in(tmp_path)
    assert again.head == written_before
    assert again.write("answer").number == 2
    assert whats(tmp_path) == ["task", "answer"]


def test_an_empty_log_has_no_head(log: AuditLog, tmp_path: Path) -> None:
    assert log.head is None
    (tmp_path / "audit.jsonl").touch()
    assert log.head is None
    log.write("task")
    assert whats(tmp_path) == ["task"]


def test_a_durable_line_is_on_disk_when_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path, clock=wall_clock)
    log.write("task")
    assert synced == [str(path), str(tmp_path)]
    log.write("answer")
    assert synced[2:] == [str(path)]


def test_what_is_no_line_of_a_log_is_not_written(log: AuditLog, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="number"):
        log.write("task", number=3)
    with pytest.raises(ValueError, match="fewer than"):
        log.write("task", reason="x" * audit_chain.LINE_AT_MOST)
    log.write("task")
    assert whats(tmp_path) == ["task"]


def test_threads_and_processes_write_one_chain(tmp_path: Path) -> None:
    spawn = get_context("spawn")
    others = [spawn.Process(target=_write_many, args=(tmp_path, 50)) for _ in range(2)]
    for other in others:
        other.start()
    log = log_in(tmp_path)
    threads = [threading.Thread(target=lambda: [log.write("mine") for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for worker in (*threads, *others):
        worker.join(60)
    assert [other.exitcode for other in others] == [0, 0]
    told = whats(tmp_path)
    assert (told.count("mine"), told.count("other")) == (200, 100)


def _write_many(folder: Path, count: int) -> None:
    log = log_in(folder)
    for _ in range(count):
        log.write("other")


# --- crashes and full disks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lines", [1, 3])
def test_a_line_cut_off_anywhere_stays_and_the_next_line_says_so(tmp_path: Path, lines: int) -> None:
    data = written(lines)
    begin = data.rstrip(b"\n").rfind(b"\n") + 1
    path = tmp_path / "audit.jsonl"
    for end in range(begin, len(data) + 1):
        path.write_bytes(data[:end])
        log_in(tmp_path).write("next")
        assert path.read_bytes().startswith(data[:end]), end
        whole, nothing = end >= len(data) - 1, end == begin
        expected = ["answer"] * (lines if whole else lines - 1) + ([] if whole or nothing else ["torn"]) + ["next"]
        assert whats(tmp_path) == expected, end
        if "torn" in expected:
            torn = lines_in_order(path)[-2].facts
            assert torn == {"size": end - begin, "sha256": digest(data[begin:end])}


def lines_in_order(path: Path) -> list[Line]:
    with opened(path) as lines:
        return list(chained(lines))


def test_a_log_that_ends_in_a_fragment_is_not_whole_until_the_agent_has_said_so(tmp_path: Path) -> None:
    data = written(3)
    assert broken_at(data[:-20]) == 3
    assert broken_at(data[:-1]) == 3


def test_a_full_disk_leaves_the_log_as_it_was(log: AuditLog, tmp_path: Path) -> None:
    log.write("task")
    before = (tmp_path / "audit.jsonl").read_bytes()
    with disk_of(len(before) + 20), pytest.raises(OSError) as full:
        log.write("answer")
    assert full.value.errno in (errno.ENOSPC, errno.EFBIG)
    assert (tmp_path / "audit.jsonl").read_bytes() == before
    log.write("answer")
    assert whats(tmp_path) == ["task", "answer"]


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("made", ["link", "pipe", "folder"])
def test_what_is_no_file_takes_no_line_and_the_log_goes_on_once_it_is_mended(
    log: AuditLog, tmp_path: Path, made: str
) -> None:
    path, kept = tmp_path / "audit.jsonl", tmp_path / "kept"
    log.write("task")
    path.rename(kept)
    match made:
        case "link":
            path.symlink_to("/dev/full")
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
    with pytest.raises(OSError, match=r"no regular file|directory"):
        log.write("task")
    path.rmdir() if made == "folder" else path.unlink()
    kept.rename(path)
    log.write("answer")
    assert whats(tmp_path) == ["task", "answer"]


def test_a_line_that_was_damaged_stays_to_be_found(tmp_path: Path) -> None:
    data = written(4)
    damaged = data[:-30] + b"\x00" * 29 + b"\n"
    (tmp_path / "audit.jsonl").write_bytes(damaged)
    log_in(tmp_path).write("next")
    after = (tmp_path / "audit.jsonl").read_bytes()
    assert after.startswith(damaged)
    assert [json.loads(line)["what"] for line in after.splitlines()[4:]] == ["damaged", "next"]
    assert broken_at(after) == 4


def test_lines_that_were_cut_off_while_the_agent_ran_are_told_by_the_next(log: AuditLog, tmp_path: Path) -> None:
    for _ in range(3):
        newest = log.write("task")
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    log.write("answer")
    gap = lines_in(tmp_path)[2]
    assert (gap["what"], gap["known_number"], gap["known_sha256"]) == ("gap", 3, newest.sha256)
    with pytest.raises(ChainBrokenError, match="line 3 tells that line 3 with the digest"):
        checked(tmp_path)


def test_a_log_that_was_moved_away_while_the_agent_ran_is_missed(log: AuditLog, tmp_path: Path) -> None:
    log.write("task")
    (tmp_path / "audit.jsonl").rename(tmp_path / "elsewhere.jsonl")
    log.write("answer")
    assert [line["what"] for line in lines_in(tmp_path)] == ["gap", "answer"]


def test_a_log_without_a_chain_is_laid_aside_and_named(tmp_path: Path) -> None:
    old = b'{"at":"2026-01-01T00:00:00+00:00","v":1,"what":"consent"}\n'
    (tmp_path / "audit.jsonl").write_bytes(old)
    log = log_in(tmp_path)
    assert log.head is None
    log.write("task")
    assert whats(tmp_path) == ["began", "task"]
    began = lines_in(tmp_path)[0]
    assert (tmp_path / began["file"]).read_bytes() == old
    assert (began["file"], began["size"], began["sha256"]) == (
        "audit-20260302T120000000000Z.jsonl",
        len(old),
        digest(old),
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [began["file"], "audit.jsonl"]


def test_the_end_of_a_long_log_is_found_behind_any_amount_of_garbage(tmp_path: Path) -> None:
    data = written(3)
    garbage = b"x" * (audit_chain.LINE_AT_MOST + 7) + b"\n" + b"y" * audit_chain.TAIL
    tail = tail_of(io.BytesIO(data + garbage), len(data + garbage))
    assert (tail.head, tail.unreadable, tail.unfinished) == (head_of(data), 1, True)
    assert tail.last == digest(b"y" * audit_chain.TAIL)
    (tmp_path / "audit.jsonl").write_bytes(data + garbage)
    assert log_in(tmp_path).write("next").number == 5


def test_of_a_long_log_only_the_end_is_read(tmp_path: Path) -> None:
    data = written(3)
    count = 2 * audit_chain.TAIL // len(data)
    file = io.BytesIO(b"\x00" * (count * len(data)) + b"\n" + data)
    assert tail_of(file, len(file.getvalue())).head == head_of(data)


# --- finding what was changed ----------------------------------------------------------------------------------------

LOG = written(6)
RAW = LOG.splitlines(keepends=True)
ANCHOR = Anchor("the answer", head_of(LOG).sha256, number=6)


def test_a_log_is_verified_with_its_head_and_what_anchors_it() -> None:
    found = verify(read_lines(io.BytesIO(LOG)), [ANCHOR, Anchor("--head", sha256=digest(RAW[2][:-1]))])
    assert (found.lines, found.head, found.first, found.last, found.anchors) == (6, head_of(LOG), NOON, NOON, 2)
    nothing = verify(read_lines(io.BytesIO(b"")))
    assert (nothing.lines, nothing.head, nothing.first) == (0, None, None)


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(offset=st.integers(0, len(LOG) - 1), flip=st.integers(1, 255))
def test_a_byte_changed_anywhere_is_found_and_named_by_its_line(offset: int, flip: int) -> None:
    changed = bytearray(LOG)
    changed[offset] ^= flip
    assert broken_at(bytes(changed), ANCHOR) == LOG.count(b"\n", 0, offset) + 1


@settings(max_examples=200, deadline=None)
@given(offset=st.integers(0, len(b"".join(RAW[:5])) - 1), flip=st.integers(1, 255))
def test_a_byte_changed_in_any_line_but_the_last_is_named_without_an_anchor(offset: int, flip: int) -> None:
    changed = bytearray(LOG)
    changed[offset] ^= flip
    assert broken_at(bytes(changed)) == LOG.count(b"\n", 0, offset) + 1


@pytest.mark.parametrize("line", range(6))
def test_a_line_that_was_written_anew_with_the_right_digest_before_it_is_named(line: int) -> None:
    forged = json.loads(RAW[line]) | {"key": "answers/other"}
    changed = [*RAW[:line], canonical_bytes(forged) + b"\n", *RAW[line + 1 :]]
    assert broken_at(b"".join(changed), ANCHOR) == line + 1


@pytest.mark.parametrize("cut", range(1, len(LOG) + 1, 37))
def test_a_cut_anywhere_is_found_where_the_head_is_known(cut: int) -> None:
    whole = LOG[:-cut].count(b"\n")
    assert broken_at(LOG[:-cut], ANCHOR) == whole + 1


def test_a_cut_end_is_found_by_a_digest_alone() -> None:
    with pytest.raises(ChainBrokenError, match=r"line 5 is the last, and none has the digest that --head gives"):
        verify(read_lines(io.BytesIO(b"".join(RAW[:5]))), [Anchor("--head", sha256=head_of(LOG).sha256)])


@pytest.mark.parametrize("line", range(6))
def test_a_removed_line_is_found_where_the_next_stands(line: int) -> None:
    assert broken_at(b"".join([*RAW[:line], *RAW[line + 1 :]]), ANCHOR) == line + 1


@pytest.mark.parametrize("line", range(6))
def test_a_doubled_line_is_found(line: int) -> None:
    assert broken_at(b"".join([*RAW[: line + 1], *RAW[line:]]), ANCHOR) == line + 2


@pytest.mark.parametrize(("one", "other"), [(one, other) for other in range(6) for one in range(other)])
def test_swapped_lines_are_found(one: int, other: int) -> None:
    swapped = list(RAW)
    swapped[one], swapped[other] = swapped[other], swapped[one]
    assert broken_at(b"".join(swapped), ANCHOR) == one + 1


@pytest.mark.parametrize("before", range(6))
def test_an_inserted_line_is_found(before: int) -> None:
    previous = digest(RAW[before - 1][:-1]) if before else GENESIS
    forged = json.loads(RAW[before]) | {"number": before + 1, "previous": previous, "what": "forged"}
    inserted = [*RAW[:before], canonical_bytes(forged) + b"\n", *RAW[before:]]
    assert broken_at(b"".join(inserted), ANCHOR) in (before + 1, before + 2)


@pytest.mark.parametrize(
    ("raw", "fault"),
    [
        (b"", "is not JSON"),
        (b"\xff", "is not UTF-8"),
        (b"[1]", "is not a JSON object"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"a": 1}', "is not in the form in which the agent writes"),
        (b'{"a":1,"a":1}', "is not in the form in which the agent writes"),
        (b'{"a":NaN}', "is not JSON"),
        (b'{"a":1}', "lacks a right"),
        (RAW[0][:-1].replace(b'"v":1', b'"v":2'), "is of an unknown version"),
        (RAW[0][:-1].replace(b'"number":1', b'"number":true'), "lacks a right 'number'"),
        (RAW[0][:-1].replace(b"+00:00", b""), "lacks a right 'at'"),
    ],
)
def test_what_is_no_line_of_a_log_says_why(raw: bytes, fault: str) -> None:
    assert fault in line_of(raw, 1).fault
    assert broken_at(raw + b"\n" + LOG) == 1


def test_a_fragment_that_no_line_calls_torn_is_found() -> None:
    assert broken_at(b"".join([*RAW[:3], b'{"at":\n', *RAW[3:]])) == 4


def torn_log(folder: Path) -> bytes:
    path = folder / "audit.jsonl"
    path.write_bytes(b"".join(RAW[:3])[:-40])
    log = log_in(folder)
    for _ in range(3):
        log.write("next")
    return path.read_bytes()


def test_every_byte_of_a_fragment_and_of_the_line_that_names_it_counts(tmp_path: Path) -> None:
    data = torn_log(tmp_path)
    raw = data.splitlines(keepends=True)
    begin, end = len(b"".join(raw[:2])), len(b"".join(raw[:4]))
    for offset in range(begin, end):
        changed = bytearray(data)
        changed[offset] ^= 1
        # Where neither of the two can be read, it cannot be told which was a fragment before.
        assert broken_at(bytes(changed)) - data.count(b"\n", 0, offset) in (0, 1)


def test_a_log_is_verified_in_memory_that_does_not_grow(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = log_in(tmp_path)
    for _ in range(2000):
        log.write("metrics", metrics={"loss": 0.5}, key="k" * 400)
    with path.open("rb") as file:
        largest = max(len(line) for line in file)
    held: list[int] = []

    def watched() -> Iterator[Line]:
        with opened(path) as lines:
            for count, line in enumerate(lines):
                held.append(count)
                yield line

    for given_on, _ in enumerate(chained(watched())):
        assert len(held) - given_on <= 4
    assert largest < 1000


def test_a_log_that_grows_is_verified_as_far_as_it_reached(log: AuditLog, tmp_path: Path) -> None:
    log.write("task")
    with opened(tmp_path / "audit.jsonl") as lines:
        log.write("answer")
        with (tmp_path / "audit.jsonl").open("ab") as file:
            file.write(b'{"half')
        assert [line.what for line in chained(lines)] == ["task"]
