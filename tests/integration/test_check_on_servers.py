"""`wardround check` as a person types it, on real servers with trainings in processes of their own."""

import json
import re
import time
from pathlib import Path

import pytest

from servers.stack import SITES, Stack
from wardround.site_agent.settings import load_site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

EXAMPLE = str(Path(__file__).parents[2] / "examples" / "breast-cancer.toml")


def test_every_clinic_could_begin_and_the_check_leaves_nothing_at_it(stack: Stack) -> None:
    begun = time.monotonic()
    shown = stack.cli("check", EXAMPLE)
    assert time.monotonic() - begun < 60
    asked = re.match(
        r"breast-cancer: asking clinic-1, clinic-2, clinic-3, for at most 2m \((breast-cancer-check-\w{8})\)\n", shown
    )
    assert asked is not None
    rows = [line.split() for line in shown.splitlines()[2:5]]
    assert [row[:4] for row in rows] == [["✔", site, "ready", "breast-cancer-mlp"] for site in SITES]
    assert shown.endswith(f"breast-cancer: every clinic could begin. Start it: wardround start {EXAMPLE}\n")

    assert asked[1] not in stack.cli("list")
    assert asked[1] in stack.cli("list", "--all")
    for site in SITES:
        spool = stack.folder / "sites" / site / "spool"
        assert [path for path in spool.rglob("*") if asked[1] in path.name] == []


def test_what_a_clinic_refuses_comes_with_its_reason_and_exit_code_3(stack: Stack) -> None:
    shown = stack.cli(
        "check", EXAMPLE, "--set", "training.parameters.learning_rate=-1.0", "--json", "--within", "1m", code=3
    )
    told = json.loads(shown)
    assert [(site["result"], site["code"], site["who"]) for site in told["sites"]] == [
        ("declined", "parameters", "researcher")
    ] * 3
    assert told["sites"][0]["reason"].startswith("learning_rate: -1.0 is less than or equal to the minimum of 0")


def test_data_that_are_gone_are_found_before_anything_starts(stack: Stack) -> None:
    settings = load_site(stack.folder / "sites" / "clinic-2" / "site.toml")
    (data,) = settings.datasets["breast-cancer"].path
    away = data.with_name("away")
    data.rename(away)
    try:
        told = json.loads(stack.cli("check", EXAMPLE, "--json", "--within", "1m", code=1))
    finally:
        away.rename(data)
    assert [(site["result"], site["phase"], site["code"]) for site in told["sites"]] == [
        ("ready", "", ""),
        ("refused", "data", "data_missing"),
        ("ready", "", ""),
    ]
    assert str(stack.folder) not in json.dumps(told)
