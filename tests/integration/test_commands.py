"""Every command of a researcher against real servers, as the README has them."""

import hashlib
import json
import time
from pathlib import Path

import pytest

from servers.stack import Stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

SMALL = ("--set", "rounds.count=3", "--set", "training.parameters.hidden=4")
EXAMPLE = str(Path(__file__).parents[2] / "examples" / "breast-cancer.toml")


def test_an_experiment_from_start_to_fetch(stack: Stack, tmp_path: Path) -> None:
    started = stack.cli("start", EXAMPLE, "--id", "walk", *SMALL)
    assert "walk is accepted" in started
    again = stack.cli("start", EXAMPLE, "--id", "walk", *SMALL)
    assert "nothing new" in again
    assert "other content exists" in stack.cli("start", EXAMPLE, "--id", "walk", code=3)

    watched = stack.cli("watch", "walk")
    assert "finished with model 3" in watched

    assert "3 of 3" in stack.cli("status", "walk")
    listed = [json.loads(line) for line in stack.cli("list", "--json").splitlines()]
    assert ("walk", "finished") in {(each["experiment"], each["state"]) for each in listed}
    assert "walk" in stack.cli("list")

    shown = stack.cli("sites")
    assert all(site in shown for site in ("clinic-1", "clinic-2", "clinic-3"))
    sites = [json.loads(line) for line in stack.cli("sites", "--json").splitlines()]
    assert {trainer["name"] for site in sites for trainer in site["trainers"]} >= {"adding", "breast-cancer-mlp"}
    assert all(site["slots"] == 1 and not site["quiet"] and site["status"] == "ok" for site in sites)

    events = [json.loads(line) for line in stack.cli("events", "--json").splitlines()]
    offsets = [each["offset"] for each in events]
    assert offsets == list(range(offsets[0], offsets[0] + len(offsets)))
    of_walk = [each for each in events if each["subject"].partition("/")[0] == "walk"]
    # An entry may be said again, under the same id: by a coordinator that starts, or is asked for what it knows.
    ends = {each["id"] for each in of_walk if each["type"] == "io.wardround.experiment.finished.v1"}
    assert len(ends) == 1
    assert len(stack.cli("events", "walk").splitlines()) >= len(of_walk)  # more may be said meanwhile

    digests = {}
    for which in ("best", "last", "1"):
        model = tmp_path / f"{which}.safetensors"
        stack.cli("fetch", "walk", "-o", str(model), "--which", which)
        digests[which] = hashlib.sha256(model.read_bytes()).hexdigest()
    status = json.loads(stack.cli("status", "walk", "--json"))
    assert digests["last"] == status["model"]["sha256"]
    assert digests["1"] != digests["last"]
    assert "there is no model" in stack.cli("fetch", "walk", "-o", str(tmp_path / "x"), "--which", "9", code=3)
    assert not (tmp_path / "x").exists()


def test_an_experiment_paused_resumed_extended_and_aborted(stack: Stack) -> None:
    long = ("--id", "long", "--set", "rounds.count=1000", "--set", "training.parameters.hidden=4")
    stack.cli("start", EXAMPLE, *long)
    stack.cli("pause", "long")
    assert json.loads(stack.cli("status", "long", "--json"))["paused"] is not None
    stack.cli("pause", "long")
    stack.cli("extend", "long", "--to", "1001")
    assert json.loads(stack.cli("status", "long", "--json"))["rounds_planned"] == 1001
    stack.cli("readmit", "long", "clinic-1")
    assert "not in the cohort" in stack.cli("readmit", "long", "clinic-9", code=3)
    stack.cli("resume", "long")  # late: a machine that is busy else may come to the end of it meanwhile
    assert json.loads(stack.cli("status", "long", "--json"))["paused"] is None
    stack.cli("abort", "long")
    assert json.loads(stack.cli("status", "long", "--json"))["phase"] == "aborted"
    stack.cli("abort", "long")
    assert "aborted" in stack.cli("resume", "long", code=3)
    assert "was aborted" in stack.cli("watch", "long", code=1)


def test_what_is_not_there_is_told(stack: Stack) -> None:
    assert "no experiment 'nothing'" in stack.cli("status", "nothing", code=3)
    assert "no experiment 'nothing'" in stack.cli("pause", "nothing", code=3)
    assert "has no hub 'nowhere'" in stack.cli("list", "--hub", "nowhere", code=2)
    assert "not a site of this hub" in stack.cli(
        "start", EXAMPLE, "--id", "elsewhere", "--set", 'cohort.sites=["clinic-1", "clinic-77"]', "--set",
        "cohort.quorum=1", code=3,
    )  # fmt: skip


def test_what_no_clinic_allows_stands_paused_with_the_reason(stack: Stack) -> None:
    stack.cli("start", EXAMPLE, "--id", "not-allowed", "--set", 'study="other"')
    end = time.monotonic() + 60
    while (status := json.loads(stack.cli("status", "not-allowed", "--json")))["paused"] is None:
        assert time.monotonic() < end
    assert status["paused"].startswith("enrolment")
    assert {site["state"] for site in status["sites"]} == {"declined"}
    stack.cli("abort", "not-allowed")


def test_a_forked_experiment_begins_with_the_model_of_another(stack: Stack) -> None:
    stack.cli("start", EXAMPLE, "--id", "first", *SMALL, "--wait")
    stack.cli("start", EXAMPLE, "--id", "fork", *SMALL, "--from", "first@last", "--wait")
    first = json.loads(stack.cli("status", "first", "--json"))
    fork = json.loads(stack.cli("status", "fork", "--json"))
    assert fork["phase"] == "finished"
    assert fork["origin"] == f"model 3 of first · {first['model']['sha256'][:8]}"
    assert fork["model"]["sha256"] != first["model"]["sha256"]
