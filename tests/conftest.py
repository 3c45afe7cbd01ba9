"""Logs of the services under test: plain lines that pytest shows where a test fails. Real servers, where asked for."""

import pytest

from wardround.runtime.logging import configure_logging

pytest_plugins = [
    "servers.rabbitmq",
    "servers.minio",
    "servers.airflow",
    "servers.stack",
    "servers.fault_table",
    "servers.trials",
]


@pytest.fixture(autouse=True)
def _plain_logs() -> None:
    configure_logging()
