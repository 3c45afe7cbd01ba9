"""Files that others may have put there."""

import os
from pathlib import Path

import pytest

from wardround.runtime.regular_file import open_regular


def test_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"words")
    with open_regular(tmp_path / "file") as file:
        assert file.read() == b"words"


def test_a_link_is_followed_where_it_may_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"words")
    (tmp_path / "link").symlink_to("file")
    with open_regular(tmp_path / "link", follow=True) as file:
        assert file.read() == b"words"
    with pytest.raises(OSError, match="symbolic"):
        open_regular(tmp_path / "link")


@pytest.mark.parametrize("follow", [True, False])
def test_nobody_waits_at_a_pipe_or_reads_a_device_or_a_folder(tmp_path: Path, follow: bool) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    before = len(os.listdir("/proc/self/fd"))
    for path in (tmp_path / "pipe", tmp_path / "folder", Path("/dev/zero")):
        with pytest.raises(OSError, match="no regular file"):
            open_regular(path, follow=follow)
    assert len(os.listdir("/proc/self/fd")) == before
