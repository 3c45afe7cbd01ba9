"""What trainers need is imported when they work: not to describe them, and once for all that a fork server forks."""

import json
import logging
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from training_folder import counting_data, fill, install, result_of

from wardround.training import TaskError, describe
from wardround.training.registry import code_digest, installed_trainer
from wardround_messages.names import Task
from wardround_messages.task_folder import JOB, OUTPUT

TORCH_IS_HERE = "CI" in os.environ or find_spec("torch") is not None

SEEING_TRAINER = """
import sys
import numpy as np
from wardround.training import NumpyTrainer, Parameters

class Seeing(NumpyTrainer[Parameters]):
    needs = ("{needs}",)

    def initial_weights(self, job):
        return {{"seen": np.array(["{needs}" in sys.modules], np.float32)}}

    def data(self, job): raise NotImplementedError
    def train(self, model, cases, job): raise NotImplementedError
    def evaluate(self, model, cases, job): raise NotImplementedError
"""

IN_TORCH = """
import sys
from wardround.training import Parameters
from wardround.training.torch_trainer import TorchTrainer

class InTorch(TorchTrainer[Parameters]):
    def __init__(self):
        print("torch" in sys.modules, "torch._dynamo" in sys.modules)

    def network(self, parameters):
        from torch import nn
        return nn.Linear(2, 1)

    def data(self, job): raise NotImplementedError
    def train(self, model, cases, job): raise NotImplementedError
    def evaluate(self, model, cases, job): raise NotImplementedError
"""


# --- described without it ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_trainers_are_described_without_torch_and_nibabel() -> None:
    script = """
        import sys
        from wardround.training import describe
        import wardround.training.pictures, wardround.training.torch_trainer
        names = [each.name for each in describe()]
        print("brain-tumour-unet" in names, "torch" in sys.modules, "nibabel" in sys.modules)
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == [str(TORCH_IS_HERE), "False", "False"]


def write_trainer(folder: Path, monkeypatch: pytest.MonkeyPatch, needs: str, module: str | None = None) -> None:
    (folder / "seeing_trainer.py").write_text(SEEING_TRAINER.format(needs=needs))
    if module is not None:
        (folder / f"{needs}.py").write_text(module)
    install(folder, monkeypatch, seeing="seeing_trainer:Seeing")
    monkeypatch.delitem(sys.modules, "seeing_trainer", raising=False)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(Path(__file__).parent)]))


def test_a_trainer_that_lacks_what_it_needs_is_left_out_without_alarm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_trainer(tmp_path, monkeypatch, "some_library.inner")
    with caplog.at_level(logging.INFO):
        assert "seeing" not in [each.name for each in describe()]
    (said,) = [record for record in caplog.records if "seeing" in record.message]
    assert (said.levelno, said.exc_info) == (logging.INFO, None)
    with pytest.raises(TaskError, match="trainer_broken: trainer 'seeing' needs some_library, not installed here"):
        installed_trainer("seeing")
    (tmp_path / "some_library.py").touch()
    assert installed_trainer("seeing").description.name == "seeing"
    assert "some_library" not in sys.modules


def test_a_package_of_wardrounds_own_counts_by_all_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "package"
    package.mkdir()
    for name, content in (("__init__", ""), ("trainer", "A = 1"), ("part", "B = 1")):
        (package / f"{name}.py").write_text(content)
    module, parent = type(sys)("trainer"), type(sys)("package")
    module.__file__, parent.__file__ = str(package / "trainer.py"), str(package / "__init__.py")
    parent.__path__ = [str(package)]
    named = "wardround.training.trainers.some_tumour"
    monkeypatch.setitem(sys.modules, named, parent)
    monkeypatch.setitem(sys.modules, f"{named}.trainer", module)
    before = code_digest(f"{named}.trainer")
    (package / "part.py").write_text("B = 2")
    assert code_digest(f"{named}.trainer") != before


def test_a_file_of_wardrounds_own_counts_alone() -> None:
    adding = "wardround.training.trainers.adding"
    installed_trainer("adding")
    assert code_digest(adding) == installed_trainer("adding").description.code_sha256
    assert len({each.code_sha256 for each in describe()}) == len(describe())


# --- imported once, before forking -------------------------------------------------------------------------------

Serve = Callable[[], subprocess.Popen[str]]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    started = []

    def start() -> subprocess.Popen[str]:
        line = [sys.executable, "-P", "-m", "wardround.training.serve", str(tmp_path / "spool")]
        server = subprocess.Popen(
            line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(server)
        assert server.stdout is not None
        assert json.loads(server.stdout.readline()) == {"ready": True}
        return server

    yield start
    for server in started:
        server.communicate(timeout=60)
        assert server.returncode == 0


def run_task(server: subprocess.Popen[str], spool: Path, name: str, trainer: str) -> Path:
    """Fork a task that initialises; returns its folder when it has ended."""
    folder = fill(spool / name, Task.INITIALISE, spool, trainer=trainer)
    order(server, name)
    return folder


def order(server: subprocess.Popen[str], name: str) -> None:
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps({"run": name}) + "\n")
    server.stdin.flush()
    assert json.loads(server.stdout.readline()) == {"ended": name, "status": 0}


def task(number: int) -> str:
    return f"trial.r{number:06d}.initialise.clinic-1.a01"


@pytest.mark.slow
def test_what_a_trainer_needs_is_imported_before_its_first_task_and_never_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Serve
) -> None:
    spool, noted = tmp_path / "spool", tmp_path / "noted"
    noisy = f"import os; open({str(noted)!r}, 'a').write('imported\\n'); print('hello'); print('{{}}', flush=True)"
    write_trainer(tmp_path, monkeypatch, "noisy_library", noisy)
    server = serve()
    run_task(server, spool, task(1), "adding")
    assert not noted.exists()
    for number in (2, 3):
        folder = run_task(server, spool, task(number), "seeing")
        assert result_of(folder).failure is None
        assert (folder / "update.safetensors").read_bytes().endswith(b"\x00\x00\x80?")
        assert "hello" not in (folder / OUTPUT).read_text()
    assert noted.read_text() == "imported\n"


@pytest.mark.slow
@pytest.mark.parametrize("content", ["raise RuntimeError('broken')", "raise SystemExit(3)", "import sys; sys.exit()"])
def test_a_library_that_cannot_be_imported_ends_no_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Serve, content: str
) -> None:
    spool = tmp_path / "spool"
    write_trainer(tmp_path, monkeypatch, "broken_library", content)
    server = serve()
    run_task(server, spool, task(1), "seeing")
    assert result_of(run_task(server, spool, task(2), "adding")).failure is None


@pytest.mark.slow
def test_a_job_that_cannot_be_read_is_for_the_fork_to_report(tmp_path: Path, serve: Serve) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    data = counting_data(tmp_path / "data")["clinic-1"]["counting"]
    server = serve()
    for number, content in enumerate([None, b"no JSON"], 1):
        folder = fill(spool / task(number), Task.INITIALISE, data)
        (folder / JOB).unlink()
        if content is not None:
            (folder / JOB).write_bytes(content)
        order(server, task(number))
        failure = result_of(folder).failure
        assert failure is not None
        assert failure.code == "job_unreadable"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(not TORCH_IS_HERE, reason="needs torch")
def test_a_forked_task_of_a_torch_trainer_finds_torch_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Serve
) -> None:
    (tmp_path / "in_torch.py").write_text(IN_TORCH)
    install(tmp_path, monkeypatch, in_torch="in_torch:InTorch")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(Path(__file__).parent)]))
    server = serve()
    folder = run_task(server, tmp_path / "spool", task(1), "in-torch")
    assert result_of(folder).failure is None
    assert "True True" in (folder / OUTPUT).read_text()
