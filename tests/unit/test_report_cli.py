"""`wardround report`: a folder or a hub's experiment, and one line where something is wrong."""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from metrics_story import SITES, Story
from report_material import Told, course, manifest

from wardround.client import cli
from wardround.client.hub import Hub
from wardround.client.hubs import Connections
from wardround.runtime.bus.port import Bus, BusUnavailableError
from wardround.runtime.store.memory import MemoryStore
from wardround.runtime.store.port import StoreUnavailableError

Ran = tuple[int, str, str]


class NoUpdates(MemoryStore):
    """A store that gives no weights away, and may be away."""

    away = False

    async def read(self, bucket: str, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        if self.away:
            raise StoreUnavailableError("the store is away")
        assert not key.startswith(("updates/", "global/"))
        return await super().read(bucket, key, offset=offset, length=length)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> NoUpdates:
    made = NoUpdates()

    async def no_bus() -> Bus:
        raise BusUnavailableError("a report needs no broker")

    monkeypatch.setattr("wardround.client.hubs.open_hub", lambda *_, **__: Connections(made, no_bus, None))
    monkeypatch.setitem(Hub.__init__.__kwdefaults__, "answers_within", 0.2)
    monkeypatch.chdir(tmp_path)
    return made


@pytest.fixture
def report(store: NoUpdates, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    def run(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["wardround", "report", *arguments])
        with pytest.raises(SystemExit) as left:
            cli.run()
        printed = capsys.readouterr()
        assert "Traceback" not in printed.out + printed.err
        return int(left.value.code or 0), printed.out, printed.err

    return run


def lay(story: Story, store: MemoryStore) -> None:
    asyncio.run(story.lay(store))


def test_an_experiment_at_the_hub_is_reported_here(
    report: Callable[..., Ran], store: NoUpdates, tmp_path: Path
) -> None:
    lay(Told(manifest()), store)
    code, out, err = report("brain-tumour", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "experiment": "brain-tumour",
        "state": "enrolling",
        "file": "brain-tumour-report.html",
        "figures": [],
    }
    assert "waits for the consents" in (tmp_path / "brain-tumour-report.html").read_text()
    assert not (tmp_path / "brain-tumour-report-figures").exists()


@pytest.mark.slow
def test_a_whole_experiment_at_the_hub_is_reported_without_its_weights(
    report: Callable[..., Ran], store: NoUpdates, tmp_path: Path
) -> None:
    lay(course(2), store)
    code, out, _ = report("brain-tumour", "-o", "out.html")
    assert code == 0
    assert out == "Report: out.html (12 figures in out-figures)\n"
    assert len(list((tmp_path / "out-figures").iterdir())) == 12


def test_a_path_that_exists_is_a_folder_whatever_the_hub_has_unless_the_hub_is_named(
    report: Callable[..., Ran], store: NoUpdates, tmp_path: Path
) -> None:
    lay(Told(manifest()), store)
    (tmp_path / "brain-tumour").mkdir()
    code, _, err = report("brain-tumour")
    assert code == 2
    assert "brain-tumour is not the folder of a run: there is no experiment.json in it" in err
    asyncio.run(Told(manifest()).lay_in(tmp_path / "brain-tumour"))
    code, out, _ = report("brain-tumour")
    assert (code, out) == (0, "Report: brain-tumour/report.html\n")
    assert (tmp_path / "brain-tumour" / "report.html").is_file()
    code, out, _ = report("brain-tumour", "--hub", "stack")
    assert (code, out) == (0, "Report: brain-tumour-report.html\n")  # with --hub it is the experiment


@pytest.mark.slow
def test_what_keeps_scans_from_being_drawn_is_told_to_whoever_made_the_report(
    report: Callable[..., Ran], tmp_path: Path
) -> None:
    asyncio.run(course(1).lay_in(tmp_path))
    for site in SITES:
        (tmp_path / "sites" / site).mkdir(parents=True)
        (tmp_path / "sites" / site / "site.toml").write_text("schema = 7")
    code, out, err = report(".", "--json")
    assert (code, json.loads(out)["file"]) == (0, "report.html")
    assert [line.split(": ")[0] for line in err.splitlines()] == ["wardround"] * len(err.splitlines())
    assert all(f"{site}/site.toml: schema" in err for site in SITES)
    assert "schema" not in re.sub(r"<pre>.*?</pre>", "", (tmp_path / "report.html").read_text(), flags=re.DOTALL)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["no-such"], 3, "there is no experiment 'no-such' at this hub"),
        (["runs/no-such"], 2, "there is no folder runs/no-such"),
        (["No Such"], 2, "there is no folder No Such"),
        (["no-such", "--sites", "."], 2, "--sites: goes with the folder of a run"),
        ([".", "--hub", "stack"], 2, ". is no experiment: with --hub, its id is wanted"),
        (["no-such", "--hub", "stack", "--sites", "."], 2, "--sites: goes with the folder of a run"),
        ([".", "-o", "."], 2, "--out: . is a folder"),
        ([".", "-o", "none/x.html"], 2, "--out: there is no folder"),
        ([], 2, "Missing argument"),
    ],
)
def test_what_cannot_be_reported_is_told_in_a_line(
    report: Callable[..., Ran], arguments: list[str], code: int, told: str
) -> None:
    ended, out, err = report(*arguments)
    assert (ended, out) == (code, "")
    assert told in err


def test_a_hub_that_is_away_is_worth_another_try(report: Callable[..., Ran], store: NoUpdates) -> None:
    store.away = True
    lay(Told(manifest()), store)
    code, _, err = report("brain-tumour")
    assert code == 75
    assert "the object store is away" in err


def test_a_journal_that_cannot_be_believed_has_no_report(
    report: Callable[..., Ran], store: NoUpdates, tmp_path: Path
) -> None:
    asyncio.run(Told(manifest()).lay_in(tmp_path))
    entry = tmp_path / "hub" / "wr-brain-tumour" / "journal" / "00000000.json"
    entry.write_bytes(entry.read_bytes().replace(b"researcher-a", b"researcher-b"))
    code, _, err = report(".")
    assert code == 1
    assert "its content does not match its digest" in err
    assert not (tmp_path / "report.html").exists()


WITHOUT = """
import sys
ABSENT = set(sys.argv.pop(1).split(","))
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from wardround.client.cli import run
run()
"""


def without(modules: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-P", "-c", WITHOUT, modules, "report", str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


@pytest.mark.slow
def test_no_more_is_needed_than_the_extra_brings(tmp_path: Path) -> None:
    asyncio.run(course(1).lay_in(tmp_path))
    others = "torch,nibabel,scipy,sklearn,safetensors,jsonschema,starlette,uvicorn,prometheus_client,psutil"
    ended = without(others, tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "No pictures: safetensors is not installed here." in (tmp_path / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("module", ["matplotlib", "jinja2", "numpy"])
def test_the_extra_that_is_missing_is_named(tmp_path: Path, module: str) -> None:
    ended = without(module, tmp_path)
    assert ended.returncode == 2
    assert "install wardround[report]" in ended.stderr
