"""Sealed files: what is read from one is what was sealed, whatever others do to the file meanwhile."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from wardround.runtime.store.content import PIECE, ContentChangedError, SealedFile, Sealing, opened, read_all
from wardround_messages.base import digest

PATIENTS = b"name;born\n" * PIECE


def pattern(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def sealed(path: Path, data: bytes, *, step: int = PIECE) -> SealedFile:
    path.write_bytes(data)
    sealing = Sealing()
    for begin in range(0, len(data), step):
        sealing.take(data[begin : begin + step])
    assert (sealing.size, sealing.sha256) == (len(data), digest(data))
    return sealing.sealed(path)


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 2 * PIECE + 7])
@pytest.mark.parametrize("step", [999_983, 3 * PIECE])
@pytest.mark.parametrize("most", [4096, 1_000_003, 3 * PIECE])
def test_a_file_that_nobody_touched_is_read_whole(tmp_path: Path, size: int, step: int, most: int) -> None:
    data = pattern(size)
    with opened(sealed(tmp_path / "update", data, step=step)) as (file, told):
        assert b"".join(iter(lambda: file.read(most), b"")) == data
    assert told == size


def test_what_was_added_is_not_read(tmp_path: Path) -> None:
    data = pattern(PIECE + 10)
    file = sealed(tmp_path / "update", data)
    with file.path.open("ab") as grown:
        grown.write(PATIENTS)
    with file.open() as found:
        assert read_all(found) == data


def a_link(path: Path) -> None:
    patients = path.with_name("patients.csv")
    patients.write_bytes(PATIENTS)
    path.unlink()
    path.symlink_to(patients)


def a_second_name(path: Path) -> None:
    patients = path.with_name("patients.csv")
    patients.write_bytes(PATIENTS)
    path.unlink()
    path.hardlink_to(patients)


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def cut_off(path: Path) -> None:
    os.truncate(path, 10)


@pytest.mark.parametrize("change", [a_link, a_second_name, a_pipe, a_folder, cut_off, Path.unlink])
def test_of_what_took_its_place_nothing_is_read(tmp_path: Path, change: Callable[[Path], None]) -> None:
    file = sealed(tmp_path / "update", pattern(3 * PIECE))
    change(file.path)
    given: list[bytes] = []
    with pytest.raises(ContentChangedError), file.open() as found:
        given.append(found.read(1))
    assert given == []


def test_what_is_written_over_it_while_it_is_read_is_not_given_out(tmp_path: Path) -> None:
    data = pattern(3 * PIECE)
    file = sealed(tmp_path / "update", data)
    given: list[bytes] = []
    with file.open() as found:
        given.append(found.read(PIECE))
        with file.path.open("r+b") as others:
            others.seek(2 * PIECE)
            others.write(PATIENTS[:10])
        given.append(found.read(PIECE))
        with pytest.raises(ContentChangedError, match="update is no longer what it was"):
            given.append(found.read(PIECE))
    assert b"".join(given) == data[: 2 * PIECE]
