"""What several tests have in common."""

from pathlib import Path

import pytest


@pytest.fixture
def hubs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of profiles for each test, in place of the person's own."""
    file = tmp_path / "config" / "hubs.toml"
    monkeypatch.setenv("WARDROUND_HUBS", str(file))
    return file
