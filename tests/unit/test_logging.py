"""What a log line may hold: no secret, nothing that steers a terminal, also where an error says it."""

import json
from typing import Literal

import pytest
import structlog

from wardround.runtime.logging import conceal, configure_logging, forget

CANARY = "canary-of-the-log-tests"


@pytest.mark.parametrize("style", ["json", "console"])
def test_a_secret_that_was_read_is_masked_wherever_it_stands(
    capsys: pytest.CaptureFixture[str], style: Literal["json", "console"]
) -> None:
    configure_logging(style=style)
    conceal(CANARY)
    log = structlog.get_logger()
    log.info("said", text=f"amqp://me:{CANARY}@hub", listed=[CANARY], error=ValueError(CANARY))
    try:
        raise ValueError(f"refused: {CANARY} \x1b[31mred")
    except ValueError:
        log.exception("failed")
    printed = capsys.readouterr().err
    assert "Traceback" in printed
    assert "refused: ***" in printed
    assert CANARY not in printed
    assert "\x1b[31mred" not in printed


def test_a_secret_that_was_replaced_is_looked_for_no_longer(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(style="json")
    replaced = f"{CANARY}-of-yesterday"
    conceal(replaced)
    forget(replaced)
    forget("what was never concealed")
    conceal("another-canary")
    structlog.get_logger().info("said", text="another-canary of yesterday")
    assert json.loads(capsys.readouterr().err)["text"] == "*** of yesterday"
    conceal(CANARY)
    structlog.get_logger().info("said", text=replaced)
    assert json.loads(capsys.readouterr().err)["text"] == "***-of-yesterday"


def test_a_key_that_names_a_secret_is_masked(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(style="json")
    structlog.get_logger().info("said", password="short", store_key="id", size=7, ok=True)
    line = json.loads(capsys.readouterr().err)
    assert (line["password"], line["store_key"], line["size"], line["ok"]) == ("***", "***", 7, True)


def test_a_traceback_is_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(style="json")
    try:
        raise ValueError("x" * 1_000_000)
    except ValueError:
        structlog.get_logger().exception("failed")
    assert len(capsys.readouterr().err) < 50_000
