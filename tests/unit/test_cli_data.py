"""`wardround data`: what lies where, what a clinic puts in its settings, and nothing half done."""

import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from wardround.client import cli
from wardround.client.cli.data import Scanners
from wardround.site_agent.settings import load_site
from wardround.training.datasets import brain_mri

TINY = ("--sites", "2", "--cases", "1", "--test", "1", "--shape", "24", "28", "24", "--spacing", "7")
SITE = """schema = 1
site = "clinic-1"
[paths]
inbox = "inbox.sqlite"
log = "audit.jsonl"
spool = "spool"
"""
Ran = tuple[int, str, str]


@pytest.fixture(autouse=True)
def _sigint() -> Iterator[None]:
    """A command that was interrupted ignores the next interrupt from then on."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def wardround(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ran]:
    """Runs the command in an empty folder; gives its exit code and what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["wardround", "data", *arguments])
        with pytest.raises(SystemExit) as left:
            cli.run()
        printed = capsys.readouterr()
        assert "Traceback" not in printed.out + printed.err
        return int(left.value.code or 0), printed.out, printed.err

    return run


def folders(out: Path) -> list[str]:
    return sorted(path.parent.relative_to(out).as_posix() for path in out.rglob("dataset.json"))


def settings(printed: str) -> str:
    return printed[printed.index("[datasets.") :]


def test_each_clinic_and_the_common_test_get_a_data_set(wardround: Callable[..., Ran], tmp_path: Path) -> None:
    code, out, err = wardround("brain-tumour", "--out", "data", *TINY)
    assert code == 0
    assert folders(tmp_path / "data") == [f"{name}/Task01_BrainTumour" for name in ("clinic-1", "clinic-2", "test")]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert "data/clinic-2/Task01_BrainTumour   1 cases" in out
    assert "synthetic" in out
    assert "not for clinical use" in out
    assert err.splitlines() == ["1 of 3 cases", "2 of 3 cases", "3 of 3 cases"]


def test_what_a_clinic_is_told_to_put_in_its_settings_is_valid_there(
    wardround: Callable[..., Ran], tmp_path: Path
) -> None:
    _, out, _ = wardround("brain-tumour", "--out", "data", *TINY)
    file = tmp_path / "site.toml"
    file.write_text(SITE + settings(out))
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "split").touch(mode=0o600)
    (tmp_path / "secrets" / "split").write_text("a salt")
    read = load_site(file).datasets
    assert set(read) == {"brain-mri", "brain-mri-test"}
    assert read["brain-mri"].folders == (str(tmp_path / "data" / "clinic-1" / "Task01_BrainTumour"),)
    assert read["brain-mri-test"].folders == (str(tmp_path / "data" / "test" / "Task01_BrainTumour"),)
    assert {each.layout for each in read.values()} == {"decathlon"}
    assert {each.salt() for each in read.values()} == {"a salt"}


def test_the_same_seed_gives_the_same_data(wardround: Callable[..., Ran], tmp_path: Path) -> None:
    def written(name: str, *more: str) -> list[bytes]:
        assert wardround("brain-tumour", "--out", name, *TINY, *more)[0] == 0
        return [path.read_bytes() for path in sorted((tmp_path / name).rglob("*.nii.gz"))]

    assert written("a") == written("b", "--seed", "7", "--shift", "mild") != written("c", "--seed", "8")


def test_a_test_set_may_be_left_out(wardround: Callable[..., Ran], tmp_path: Path) -> None:
    code, out, _ = wardround("brain-tumour", "--out", "data", *TINY, "--test", "0")
    assert code == 0
    assert len(folders(tmp_path / "data")) == 2
    assert set(tomllib.loads(settings(out))["datasets"]) == {"brain-mri"}


def test_patients_of_the_first_example_are_divided_too(wardround: Callable[..., Ran], tmp_path: Path) -> None:
    code, out, _ = wardround("breast-cancer", "--out", "data", "--sites", "3", "--seed", "7")
    assert code == 0
    lie = sorted(path.parent.relative_to(tmp_path / "data").as_posix() for path in tmp_path.rglob("patients.csv"))
    assert lie == [
        "clinic-1/breast-cancer",
        "clinic-1/breast-cancer-test",
        "clinic-2/breast-cancer",
        "clinic-3/breast-cancer",
    ]
    named = tomllib.loads(settings(out))["datasets"]
    assert {name: Path(each["path"]) for name, each in named.items()} == {
        name: tmp_path / "data" / "clinic-1" / name for name in ("breast-cancer", "breast-cancer-test")
    }


@pytest.mark.parametrize("command", [("brain-tumour", *TINY), ("breast-cancer",)])
def test_an_empty_folder_is_filled_and_any_other_left_alone(
    wardround: Callable[..., Ran], tmp_path: Path, command: tuple[str, ...]
) -> None:
    out = tmp_path / "data"
    out.mkdir()
    assert wardround(*command, "--out", "data")[0] == 0
    before = sorted(out.rglob("*"))
    code, _, err = wardround(*command, "--out", "data")
    assert (code, err) == (2, "wardround: --out: data is not empty: name an empty or a new folder\n")
    assert sorted(out.rglob("*")) == before
    (tmp_path / "file").touch()
    assert wardround(*command, "--out", "file")[0] == 2


@pytest.mark.parametrize("there_before", [False, True])
def test_an_interrupted_run_leaves_nothing(
    wardround: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, there_before: bool
) -> None:
    def interrupted(cohort: object, folders: list[Path], *_: object, **__: object) -> None:
        folders[0].mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(brain_mri, "write_cohort", interrupted)
    if there_before:
        (tmp_path / "data").mkdir()
    code, out, err = wardround("brain-tumour", "--out", "data", *TINY)
    assert (code, out, err) == (130, "", "wardround: interrupted: nothing was kept\n")
    assert [path.name for path in tmp_path.rglob("*")] == ["data"] * there_before


def test_what_a_run_that_was_cut_off_left_is_named(wardround: Callable[..., Ran], tmp_path: Path) -> None:
    (tmp_path / "data" / "unfinished" / "clinic-1").mkdir(parents=True)
    code, _, err = wardround("brain-tumour", "--out", "data", *TINY)
    assert code == 2
    assert "data/unfinished is left of a run that was cut off: delete data" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("brain-tumour", "--out", "data", "--shape", "10", "10", "10"), "shows too little of a brain"),
        (("brain-tumour", "--out", "data", "--spacing", "20"), "between 0.5 and 8 mm"),
        (("brain-tumour", "--out", "data", "--cases", "300"), "3 sites with 300 cases each are too many"),
        (("brain-tumour", "--out", "data", "--sites", "0"), "--sites"),
        (("brain-tumour", "--out", "data", "--seed", "-1"), "--seed"),
        (("brain-tumour", "--out", "data", "--shift", "wild"), "--shift"),
        (("brain-tumour",), "--out"),
        (("breast-cancer", "--out", "data", "--sites", "40"), "40 sites are too many"),
    ],
)
def test_what_cannot_be_made_is_refused_in_one_line(
    wardround: Callable[..., Ran], tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    code, _, err = wardround(*arguments)
    assert code == 2
    assert said in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_command_offers_the_shifts_there_are() -> None:
    assert tuple(Scanners) == brain_mri.SHIFTS


@pytest.mark.slow
@pytest.mark.parametrize("command", ["brain-tumour", "breast-cancer"])
def test_a_client_alone_is_told_what_to_install(tmp_path: Path, command: str) -> None:
    without = """
import sys
for absent in ("nibabel", "numpy", "scipy", "sklearn"):
    sys.modules[absent] = None
from wardround.client.cli import run
run()
"""
    ended = subprocess.run(
        [sys.executable, "-P", "-c", without, "data", command, "--out", "data"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "wardround: 'data' needs more than is installed here: install wardround[simulation]\n"
    assert not list(tmp_path.iterdir())
