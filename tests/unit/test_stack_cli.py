"""What the commands of a stack say and leave behind. Its servers are not started."""

import os
import signal
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from wardround.client import cli
from wardround.client.cli.errors import Exit
from wardround.client.hubs import default_profile, profile_names, write_profile
from wardround.stack import control, stages
from wardround.stack.folder import Plan, StackState, supervised, write_plan, write_state

pytestmark = pytest.mark.usefixtures("hubs")

Ran = tuple[int, str, str]
Run = Callable[..., Ran]


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are all installed."""
    for module in (control, stages):
        for each in ("find_rabbitmq", "find_minio", "find_airflow"):
            monkeypatch.setattr(module, each, lambda: Path("/usr/bin/true"))


@pytest.fixture
def starts(servers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every start ends well at once, and starts nothing."""

    async def at_once(folder: Path, *_: object, **__: object) -> None:
        write_state(folder, StackState(supervisor=0, phase="running"))

    monkeypatch.setattr(control, "_spawn", lambda _: None)
    monkeypatch.setattr(control, "_until_running", at_once)


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `wardround stack`; gives its exit code and what it printed in lines that are not folded."""

    def run(command: str, *arguments: str, folder: str = "stack") -> Ran:
        place = ("--folder", str(tmp_path / folder))
        monkeypatch.setattr(sys, "argv", ["wardround", "stack", command, *place, *arguments])
        with pytest.raises(SystemExit) as left:
            cli.run()
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return run


# --- the hub profiles ------------------------------------------------------------------------------------------------


def test_a_stack_that_is_deleted_takes_its_profiles_and_its_default_with_it(
    stack: Run, starts: None, hubs: Path, tmp_path: Path
) -> None:
    stack("up", "--sites", "1")
    table = tomllib.loads(hubs.read_text())["hubs"]["stack"]
    write_profile("hospital", table | {"password": {"file": str(secret(tmp_path))}})
    assert default_profile() == "stack"

    code, out, err = stack("down", "--delete")

    assert (code, err) == (0, "")
    assert "its data are deleted" in out
    assert not (tmp_path / "stack").exists()
    assert (profile_names(strictly=True), default_profile()) == (("hospital",), None)

    stack("up", "--sites", "1")
    assert default_profile() == "stack"


def test_the_file_goes_with_its_last_profile(stack: Run, starts: None, hubs: Path) -> None:
    stack("up", "--sites", "1")
    assert stack("down", "--delete")[0] == 0
    assert list(hubs.parent.iterdir()) == []


def test_another_stacks_profiles_and_default_stay(stack: Run, starts: None, tmp_path: Path) -> None:
    stack("up", "--sites", "1", "--name", "one", folder="one")
    stack("up", "--sites", "1", "--name", "two", folder="two")
    stack("down", "--name", "two", "--delete", folder="two")
    assert (profile_names(), default_profile()) == (("one", "one-operator"), "one")


def test_a_stack_that_is_stopped_keeps_its_profiles(stack: Run, starts: None) -> None:
    stack("up", "--sites", "1")
    stack("down")
    assert (profile_names(), default_profile()) == (("stack", "stack-operator"), "stack")


def test_no_data_are_deleted_while_the_profiles_cannot_be_taken_away(
    stack: Run, starts: None, hubs: Path, tmp_path: Path
) -> None:
    stack("up", "--sites", "1")
    hubs.write_text("schema = 9\n")
    code, _, err = stack("down", "--delete")
    assert (code, err.count("\n")) == (Exit.BAD_INPUT, 1)
    assert f"{hubs}: schema: must be 1" in err
    assert (tmp_path / "stack" / "hub").exists()


def test_what_is_next_names_the_hub_unless_it_is_the_default(stack: Run, starts: None) -> None:
    first = stack("up", "--sites", "1", folder="one")[1]
    second = stack("up", "--sites", "1", "--name", "two", folder="two")[1]
    assert first.endswith("Next: wardround start examples/breast-cancer.toml\n")
    assert second.endswith("Next: wardround start examples/breast-cancer.toml --hub two\n")


def secret(tmp_path: Path) -> Path:
    file = tmp_path / "secret"
    file.write_text("x")
    file.chmod(0o600)
    return file


# --- what stands in the way ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ((), "to have it otherwise, "),
        (("--airflow", "--sites", "2"), "to have it with --sites, --airflow, "),
        (("--no-airflow", "--guest", "lake"), "to have it with --no-airflow, --guest, "),
    ],
)
def test_a_stack_that_runs_says_how_to_have_it_otherwise(
    stack: Run, servers: None, tmp_path: Path, wish: tuple[str, ...], told: str
) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    write_plan(folder, Plan(name="own", sites=("clinic-1",), seed=7))
    with supervised(folder):
        code, _, err = stack("up", "--name", "own", *wish, folder="own")
    assert code == Exit.ENDED_BADLY
    assert f"{told}`wardround stack down --name own --folder {folder}` first" in err
    assert f"`wardround stack status --name own --folder {folder}` shows it" in err


@pytest.mark.parametrize(
    ("variable", "finder", "wish"),
    [
        ("WARDROUND_RABBITMQ", "find_rabbitmq", ()),
        ("WARDROUND_MINIO", "find_minio", ()),
        ("WARDROUND_AIRFLOW", "find_airflow", ("--airflow",)),
    ],
)
def test_a_server_that_is_named_and_not_there_is_told_by_its_name(
    stack: Run, servers: None, monkeypatch: pytest.MonkeyPatch, variable: str, finder: str, wish: tuple[str, ...]
) -> None:
    monkeypatch.setattr(stages, finder, lambda: None)
    monkeypatch.delenv(variable, raising=False)
    assert "is not installed here" in stack("up", *wish)[2]
    monkeypatch.setenv(variable, "/nowhere")
    assert f"{variable} names /nowhere, which is not there" in stack("up", *wish)[2]


def test_ctrl_c_says_that_the_stack_is_stopped_and_how_to_go_on(
    stack: Run, starts: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Supervisor:
        ended = False

        def terminate(self) -> None:
            self.ended = True

        def wait(self) -> None:
            assert self.ended

    async def pressed(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        await control.asyncio.Event().wait()

    supervisor = Supervisor()
    monkeypatch.setattr(control, "_spawn", lambda _: supervisor)
    monkeypatch.setattr(control, "_until_running", pressed)

    code, _, err = stack("up", "--sites", "1", "--fresh")

    assert (code, supervisor.ended) == (Exit.INTERRUPTED, True)
    assert err == (
        f"wardround: interrupted: the stack is stopped, and its data are kept in {tmp_path / 'stack'}; "
        "the same command without --fresh begins again with them\n"
    )
