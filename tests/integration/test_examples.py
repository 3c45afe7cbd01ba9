"""The examples for people who bring their own program run as they stand, against real servers."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from servers.stack import Stack
from simulation.whole import counting
from wardround_messages.base import canonical_json

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

EXAMPLES = Path(__file__).parents[2] / "examples"
RESEARCHER = "researcher-a"


def environment(stack: Stack) -> dict[str, str]:
    return os.environ | {
        "WARDROUND_BROKER": f"amqp://127.0.0.1:{stack.plan.ports['broker']}",
        "WARDROUND_LOGIN": RESEARCHER,
        "WARDROUND_PASSWORD_FILE": str(stack.folder / "hub" / "secrets" / f"{RESEARCHER}.broker"),
    }


def run(stack: Stack, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, EXAMPLES / script, *arguments],
        env=environment(stack),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_an_experiment_started_by_the_example_is_seen_on_the_stream_by_the_other(stack: Stack, tmp_path: Path) -> None:
    manifest = tmp_path / "experiment.json"
    manifest.write_bytes(canonical_json(counting(id="by-example", count=1)))
    listening = subprocess.Popen(
        [sys.executable, EXAMPLES / "subscribe_metrics.py", "first"],
        env=environment(stack),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        ended = run(stack, "publish_start_experiment.py", str(manifest))
        assert ended.returncode == 0, ended.stderr
        assert "by-example: the broker has it" in ended.stdout

        assert listening.stdout is not None
        types = []
        deadline = time.monotonic() + 60
        for line in listening.stdout:
            event = json.loads(line)
            if event["subject"].startswith("by-example"):
                types.append(event["type"])
            if types[-1:] == ["io.wardround.experiment.finished.v1"]:
                break
            assert time.monotonic() < deadline, types
    finally:
        listening.kill()
        listening.wait()
        if listening.stdout is not None:
            listening.stdout.close()
    assert types[0] == "io.wardround.experiment.accepted.v1"
    assert "io.wardround.model.adopted.v1" in types


def test_whoever_listens_may_leave_in_the_middle(stack: Stack) -> None:
    script = f"{sys.executable} {EXAMPLES / 'subscribe_metrics.py'} first | head -n 1"
    ended = subprocess.run(
        ["bash", "-c", script], env=environment(stack), capture_output=True, text=True, timeout=60, check=False
    )
    assert json.loads(ended.stdout)["offset"] == 0
    assert ended.stderr == ""


def test_a_wrong_password_stands_in_no_traceback(stack: Stack, tmp_path: Path) -> None:
    manifest, wrong = tmp_path / "experiment.json", tmp_path / "password"
    manifest.write_bytes(canonical_json(counting(id="never-by-example")))
    wrong.write_text("hunter2hunter2")
    ended = subprocess.run(
        [sys.executable, EXAMPLES / "publish_start_experiment.py", manifest],
        env=environment(stack) | {"WARDROUND_PASSWORD_FILE": str(wrong)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode != 0
    assert "hunter2" not in ended.stdout + ended.stderr
