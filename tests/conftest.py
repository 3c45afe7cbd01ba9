"""Logs of the services under test: plain lines that pytest shows where a test fails."""

import pytest

from wardround.runtime.logging import configure_logging


@pytest.fixture(autouse=True)
def _plain_logs() -> None:
    configure_logging()
