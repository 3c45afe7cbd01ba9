import os
from pathlib import Path

import pytest

from wardround.site_agent.metrics_follow import NAMES_AT_MOST, MetricsFollower
from wardround.site_agent.policy import Leave
from wardround_messages.events import Progress

ALL = Leave(metrics=("*",))


def metric(name: str, value: str = "0.5", more: str = "") -> str:
    return f'{{"v":1,"t":1.5,"kind":"metric","name":"{name}","value":{value}{more}}}\n'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def test_the_last_values_count(path: Path) -> None:
    follower = MetricsFollower(path)
    assert not follower.read_on()
    path.write_text(metric("loss", "0.9") + metric("loss", "0.4", ',"step":7,"epoch":2'))
    assert follower.read_on()
    assert (follower.metrics(ALL), follower.step, follower.epoch) == ({"loss": 0.4}, 7, 2)
    assert not follower.read_on()


def test_progress_is_told(path: Path) -> None:
    follower = MetricsFollower(path)
    path.write_text('{"v":1,"t":1.0,"kind":"progress","phase":"train","done":3,"of":12}\n')
    assert follower.read_on()
    assert follower.progress == Progress(phase="train", done=3, of=12)


def test_a_line_counts_when_it_is_whole(path: Path) -> None:
    follower = MetricsFollower(path)
    line = metric("loss")
    path.write_text(line[:20])
    assert not follower.read_on()
    with path.open("a") as file:
        file.write(line[20:])
    assert follower.read_on()
    assert (follower.metrics(ALL), follower.invalid) == ({"loss": 0.5}, 0)


def test_a_diverged_value_is_null(path: Path) -> None:
    follower = MetricsFollower(path)
    path.write_text(metric("loss", "null", ',"nonfinite":"nan"'))
    assert follower.read_on()
    assert follower.metrics(ALL) == {"loss": None}


@pytest.mark.parametrize(
    "line",
    [
        "not json\n",
        metric("loss", "NaN"),
        metric("loss", "1e999"),
        metric("loss", '"0.5"'),
        metric("../loss"),
        metric("loss\\u0000"),
        metric("l" * 65),
        metric("loss", "0.5", ',"extra":1'),
        '{"v":1,"t":1.0,"kind":"other"}\n',
        "\udcff\n",
        metric("loss", "0.5", " " * 5000),
        "[" * 4000 + "\n",
    ],
)
def test_what_is_no_metric_is_skipped_and_counted(path: Path, line: str) -> None:
    follower = MetricsFollower(path)
    path.write_bytes((line + metric("dice")).encode(errors="surrogateescape"))
    assert follower.read_on()
    assert follower.metrics(ALL) == {"dice": 0.5}
    assert follower.invalid == 1


def test_a_line_without_end_takes_no_memory(path: Path) -> None:
    follower = MetricsFollower(path)
    path.write_bytes(b"x" * 3_000_000)
    assert not follower.read_on()
    assert len(follower._rest) == 0
    with path.open("a") as file:
        file.write("x\n" + metric("loss"))
    assert follower.read_on()
    assert (follower.metrics(ALL), follower.invalid) == ({"loss": 0.5}, 1)


def test_names_are_bounded(path: Path) -> None:
    follower = MetricsFollower(path)
    path.write_text("".join(metric(f"m{number}") for number in range(1000)))
    assert follower.read_on()
    assert len(follower.metrics(ALL)) == NAMES_AT_MOST
    assert follower.invalid == 1000 - NAMES_AT_MOST


def test_metrics_that_the_policy_does_not_name_stay(path: Path) -> None:
    follower = MetricsFollower(path)
    path.write_text(metric("loss") + metric("age"))
    assert follower.read_on()
    assert follower.metrics(Leave(metrics=("loss",))) == {"loss": 0.5}


def test_a_file_that_begins_anew_is_read_from_its_beginning(path: Path) -> None:
    follower = MetricsFollower(path)
    path.write_text(metric("loss", "0.9") * 3)
    follower.read_on()
    path.write_text(metric("loss", "0.1"))
    assert follower.read_on()
    assert follower.metrics(ALL) == {"loss": 0.1}


def test_a_link_or_a_pipe_is_not_read(path: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text(metric("loss"))
    path.symlink_to(tmp_path / "elsewhere")
    assert not MetricsFollower(path).read_on()
    path.unlink()
    os.mkfifo(path)
    assert not MetricsFollower(path).read_on()
