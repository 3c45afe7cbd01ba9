"""Which programs of a stack ended by themselves."""

import json
from pathlib import Path

from servers.programs import Deaths
from wardround.stack.folder import LOGS


def died(program: str, status: int) -> str:
    at = "2026-12-01T11:44:19.579249Z"
    return json.dumps({"event": "program_died", "program": program, "status": status, "timestamp": at}) + "\n"


def test_those_count_that_nobody_killed_and_those_that_died_oftener_than_killed(tmp_path: Path) -> None:
    log = tmp_path / LOGS / "supervisor.log"
    log.parent.mkdir()
    log.write_text(died("metrics", 1))
    deaths = Deaths(tmp_path)
    with log.open("a") as more:
        more.write("no JSON\n" + died("minio", -9) + died("minio", -9) + died("clinic-1", -9) + died("aggregator", 78))
        more.write(json.dumps({"event": "program_not_ready", "program": "minio"}) + "\n")

    found = [(program, status) for _, program, status in deaths.by_themselves(["minio", "clinic-1"])]

    assert found == [("minio", -9), ("aggregator", 78)]
