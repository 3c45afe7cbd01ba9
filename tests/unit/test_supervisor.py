"""The stack's supervisor with small programs: order, restarts, a full disk, another number of clinics."""

import asyncio
import errno
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from wardround.runtime.toml_file import read_toml
from wardround.simulation.sites import SitesError, load_clinics
from wardround.stack import supervisor as supervising
from wardround.stack.folder import Plan, read_state
from wardround.stack.program import Child, Program, ProgramError
from wardround.stack.sites import add_brain_tumour, make_sites
from wardround.stack.supervisor import Stage, Supervisor


def program(folder: Path, name: str, script: str = "import time; time.sleep(600)") -> Program:
    """Ready as soon as it says so by a file."""
    said = folder / f"{name}.ready"

    async def ready() -> bool:
        return said.exists()

    return Program(
        name=name,
        command=(sys.executable, "-c", f"open({str(said)!r}, 'w').close(); {script}"),
        environment=dict(os.environ),
        folder=folder,
        log=folder / f"{name}.log",
        ready=ready,
        ready_within=20,
        stops_within=5,
    )


def pid(folder: Path, name: str) -> int | None:
    state = read_state(folder)
    return None if state is None else next(each.pid for each in state.programs if each.name == name)


async def until(condition: Callable[[], bool], within: float = 20) -> None:
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def phase(folder: Path) -> str:
    state = read_state(folder)
    return "" if state is None else state.phase


async def test_what_dies_is_started_again_and_all_is_stopped_at_the_end(tmp_path: Path) -> None:
    stages = (Stage((program(tmp_path, "first"),)), Stage((program(tmp_path, "second"),)))
    stop = asyncio.Event()
    running = asyncio.create_task(Supervisor(tmp_path, stages, pid=os.getpid()).run(stop))
    await until(lambda: phase(tmp_path) == "running")
    killed = pid(tmp_path, "second")
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    await until(lambda: pid(tmp_path, "second") not in (None, killed))
    left = [pid(tmp_path, name) for name in ("first", "second")]
    stop.set()
    await running
    assert phase(tmp_path) == "stopped"
    for each in left:
        assert each is not None
        with pytest.raises(ProcessLookupError):
            os.kill(each, 0)


async def test_a_full_disk_ends_neither_the_watch_nor_the_stopping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = asyncio.Event()
    supervisor = Supervisor(tmp_path, (Stage((program(tmp_path, "only"),)),), pid=os.getpid())
    running = asyncio.create_task(supervisor.run(stop))
    await until(lambda: phase(tmp_path) == "running")
    before = pid(tmp_path, "only")
    assert before is not None

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(supervising, "write_state", full)
        os.kill(before, signal.SIGKILL)
        await asyncio.sleep(1)
    os.kill(supervisor._children[0].pid or 0, signal.SIGKILL)
    await until(lambda: pid(tmp_path, "only") not in (None, before))
    after = pid(tmp_path, "only")
    monkeypatch.setattr(supervising, "write_state", full)
    stop.set()
    await running
    assert after is not None
    with pytest.raises(ProcessLookupError):
        os.kill(after, 0)


async def test_a_program_that_does_not_start_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    broken = program(tmp_path, "broken", "")
    (tmp_path / "broken.ready").unlink(missing_ok=True)
    stages = (
        Stage((program(tmp_path, "first"),)),
        Stage((Program(**{**_parts(broken), "command": (sys.executable, "-c", "raise SystemExit('no disk')")}),)),
    )
    with pytest.raises(ProgramError, match="broken ended at once: no disk"):
        await Supervisor(tmp_path, stages, pid=os.getpid()).run(asyncio.Event())
    state = read_state(tmp_path)
    assert state is not None
    assert (state.phase, "no disk" in state.error) == ("failed", True)
    assert {each.state for each in state.programs} == {"stopped"}


async def test_what_goes_wrong_between_two_stages_is_told(tmp_path: Path) -> None:
    async def wrong() -> None:
        raise RuntimeError("the store refuses its administrator")

    with pytest.raises(RuntimeError):
        await Supervisor(tmp_path, (Stage((program(tmp_path, "one"),), after=wrong),), pid=1).run(asyncio.Event())
    state = read_state(tmp_path)
    assert state is not None
    assert (state.phase, state.error) == ("failed", "the store refuses its administrator")


def test_the_clinics_of_a_stack_are_divided_once(tmp_path: Path) -> None:
    make_sites(tmp_path, ("clinic-1", "clinic-2"), seed=7)
    policy = tmp_path / "clinic-1" / "policy.toml"
    policy.write_text("# ours")
    make_sites(tmp_path, ("clinic-1", "clinic-2"), seed=7)
    with pytest.raises(SitesError, match="--fresh"):
        make_sites(tmp_path, ("clinic-1", "clinic-2", "clinic-3"), seed=7)
    assert policy.read_text() == "# ours"


def test_the_scans_are_added_once_and_all_else_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Sequence[str]] = []

    def scans(out: Path, sites: Sequence[str], seed: int) -> dict[str, dict[str, Path]]:
        written.append(sites)
        found = {site: {"brain-mri": out / site / "brain-mri"} for site in sites}
        found[sites[0]]["brain-mri-test"] = out / sites[0] / "brain-mri-test"
        for folder in (folder for data in found.values() for folder in data.values()):
            folder.mkdir(parents=True)
            (folder / "dataset.json").write_text("{}")
        return found

    make_sites(tmp_path, ("clinic-1", "clinic-2"), seed=7)
    (tmp_path / "clinic-2" / "policy.toml").write_text('schema = 1\ndefault = "deny"\n# ours\n')
    monkeypatch.setattr("wardround.simulation.sites.dataset_writer", {"brain-mri": scans}.get)
    for _ in range(2):
        add_brain_tumour(tmp_path, ("clinic-1", "clinic-2"), seed=7)
    assert written == [("clinic-1", "clinic-2")]
    first, second = load_clinics(tmp_path, ("clinic-1", "clinic-2"))
    assert set(second.settings.datasets) == {"brain-mri", "breast-cancer", "counting"}
    assert first.settings.datasets["brain-mri-test"].layout == "decathlon"
    policy = read_toml(tmp_path / "clinic-2" / "policy.toml")
    assert [rule["datasets"] for rule in policy["allow"]] == [["brain-mri"]]  # type: ignore[index]
    assert "# ours" in (tmp_path / "clinic-2" / "policy.toml").read_text()


def test_no_port_is_given_twice() -> None:
    for _ in range(50):
        few = Plan(name="x", sites=("clinic-1",), seed=7).with_ports()
        many = few.model_copy(update={"sites": tuple(f"clinic-{number}" for number in range(1, 31))}).with_ports()
        assert len(set(many.ports.values())) == len(many.ports)
        assert many.ports.items() >= few.ports.items()


def _parts(each: Program) -> dict[str, object]:
    return {name: getattr(each, name) for name in Program.__slots__}


def is_alive(pid: int) -> bool:
    """Also a process that ended has its number until somebody takes note of the end."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_a_stop_leaves_no_descendant_not_even_in_a_session_of_its_own(tmp_path: Path) -> None:
    apart = tmp_path / "apart"
    script = (
        "import subprocess, sys, time; "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True); "
        f"open({str(apart)!r}, 'w').write(str(child.pid)); time.sleep(600)"
    )
    child = Child(program(tmp_path, "parent", script))
    await child.start()
    await until(lambda: apart.exists() and apart.read_text() != "")
    await child.stop()
    await until(lambda: not is_alive(int(apart.read_text())), within=5)


async def test_a_stage_starts_no_more_at_once_than_it_says(tmp_path: Path) -> None:
    starting = 0
    most = 0

    def slow(name: str) -> Program:
        looks = iter(range(3))

        async def ready() -> bool:
            nonlocal starting, most
            look = next(looks)
            starting += look == 0
            most = max(most, starting)
            await asyncio.sleep(0.05)
            starting -= look == 2
            return look == 2

        return replace(program(tmp_path, name), ready=ready)

    prepared = []

    async def prepare() -> None:
        prepared.append(phase(tmp_path))

    stop = asyncio.Event()
    stage = Stage([slow(f"program-{number}") for number in range(4)], before=prepare, at_once=2)
    running = asyncio.create_task(Supervisor(tmp_path, (stage,), pid=os.getpid()).run(stop))
    await until(lambda: phase(tmp_path) == "running")
    stop.set()
    await running
    assert (most, prepared) == (2, ["starting"])
