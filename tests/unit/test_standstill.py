import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from wardround.site_agent.standstill import Standstill, Stopped

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def standstill(tmp_path: Path) -> Standstill:
    return Standstill(tmp_path / "inbox.sqlite")


def test_a_clinic_works_until_somebody_stops_it_and_again_once_somebody_resumes(standstill: Standstill) -> None:
    assert standstill.word is None
    assert standstill.begin(at=NOW, by="alice", reason="a drill")
    assert standstill.word == Stopped(at=NOW, by="alice", reason="a drill")
    assert standstill.end()
    assert standstill.word is None
    assert not standstill.end()


def test_the_first_word_stands(standstill: Standstill) -> None:
    standstill.begin(at=NOW, by="alice", reason="a drill")
    assert not standstill.begin(at=NOW, by="bob", reason="another")
    assert standstill.word is not None
    assert standstill.word.by == "alice"


@pytest.mark.parametrize("content", [b"", b"{", b'{"v":2}', b"\xff", b"[" * 20_000])
def test_a_file_that_cannot_be_understood_stops_the_clinic_as_well(standstill: Standstill, content: bytes) -> None:
    standstill.path.write_bytes(content)
    assert standstill.word is not None
    assert standstill.word.reason == "the file cannot be read"
    assert standstill.end()


def test_whatever_lies_there_stops_the_clinic(standstill: Standstill) -> None:
    standstill.path.mkdir()
    assert standstill.word is not None
    standstill.path.rmdir()
    os.mkfifo(standstill.path)
    assert standstill.word is not None
    assert standstill.end()
    standstill.path.symlink_to("nowhere")
    assert not standstill.begin(at=NOW, by="alice", reason="")
    assert standstill.word is not None


def test_it_is_stopped_on_a_disk_without_room_for_the_words(
    standstill: Standstill, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    assert standstill.begin(at=NOW, by="alice", reason="")
    assert standstill.word is not None


def test_it_tells_where_there_can_be_no_such_file(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="home"):
        Standstill(tmp_path / "home" / "inbox.sqlite").begin(at=NOW, by="alice", reason="")


def test_its_words_can_be_read_whatever_the_umask_of_who_stops_it(standstill: Standstill) -> None:
    before = os.umask(0o077)
    try:
        standstill.begin(at=NOW, by="root", reason="a drill")
    finally:
        os.umask(before)
    assert standstill.path.stat().st_mode & 0o777 == 0o644
