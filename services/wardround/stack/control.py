"""Brings a stack up, tells how it is, and takes it down, from outside its process."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from wardround.hub.folder import HubFolder
from wardround.runtime.roster import Roster
from wardround.simulation.sites import RESEARCHER, SitesError
from wardround.stack.airflow import OVERRIDE as AIRFLOW
from wardround.stack.airflow import find_airflow
from wardround.stack.folder import (
    LOCK_FILE,
    LOGS,
    PLAN_FILE,
    STATE_FILE,
    Plan,
    StackError,
    StackRunsError,
    StackState,
    is_supervised,
    read_plan,
    read_state,
    write_plan,
)
from wardround.stack.minio import OVERRIDE as MINIO
from wardround.stack.minio import find_minio
from wardround.stack.ports import LOOPBACK
from wardround.stack.rabbitmq import WHERE as RABBITMQ
from wardround.stack.rabbitmq import find_rabbitmq
from wardround.stack.services import STACK_VARIABLE, base_environment
from wardround.stack.sites import SITES, add_brain_tumour, make_sites, write_site_files
from wardround.stack.stages import missing_servers

LOOK_EVERY = 0.1
UP_WITHIN = 300.0
AIRFLOW_WITHIN = 60.0  # more for each clinic that has one
DOWN_WITHIN = 90.0

Said = Callable[[str], None]


async def up(folder: Path, plan: Plan, *, brain_tumour: bool = False, say: Said) -> Plan:
    """Bring the stack up; returns when all of it is ready, with the ports that it uses.

    With `brain_tumour` clinics that are made here get the scans of that example, too. `say` is told each program that
    has become ready.

    Raises:
        StackRunsError: it runs already; StackError: a server is not installed, or a program did not start.
    """
    missing_servers(airflow=plan.airflow)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # clinics' data and updates are in it
    if is_supervised(folder):
        raise StackRunsError(folder)
    _check_folder(folder)
    await sweep(folder)
    earlier = read_plan(folder)
    plan = plan.model_copy(update={"ports": {} if earlier is None else earlier.ports}).with_ports()
    write_plan(folder, plan)
    try:
        if plan.own_sites is None:
            make_sites(folder / SITES, plan.sites, plan.seed)
            if brain_tumour:
                add_brain_tumour(folder / SITES, plan.sites, plan.seed)
        hub = _make_hub(folder, plan)
        if plan.own_sites is None:
            write_site_files(folder, plan, hub)
    except SitesError as error:
        raise StackError(str(error)) from None
    (folder / STATE_FILE).unlink(missing_ok=True)
    supervisor = _spawn(folder)
    try:
        await _until_running(
            folder, supervisor, say, within=UP_WITHIN + AIRFLOW_WITHIN * plan.airflow * len(plan.sites)
        )
    except BaseException:
        supervisor.terminate()
        await asyncio.to_thread(supervisor.wait)
        raise
    return plan


async def down(folder: Path) -> bool:
    """Stop the stack, and all that an earlier one left behind; False where none ran.

    Raises:
        StackError: it does not stop, or there is none in the folder.
    """
    if read_plan(folder) is None:
        raise StackError(f"there is no stack in {folder}")
    ran = is_supervised(folder)
    state = read_state(folder)
    if ran and state is not None:
        with suppress(ProcessLookupError):
            os.kill(state.supervisor, signal.SIGTERM)
        try:
            async with asyncio.timeout(DOWN_WITHIN):
                while is_supervised(folder):  # noqa: ASYNC110 - a lock raises no event
                    await asyncio.sleep(LOOK_EVERY)
        except TimeoutError:
            raise StackError(f"the stack in {folder} did not stop; see {folder / LOGS / 'supervisor.log'}") from None
    return await sweep(folder) > 0 or ran


def delete(folder: Path) -> None:
    """Delete all data of a stack that does not run. Raises `OSError`."""
    shutil.rmtree(folder)


async def sweep(folder: Path) -> int:
    """End what runs with the mark of this stack though no supervisor does; how many there were."""
    ended = 0
    while left := _marked(folder):  # again, as one may have started another meanwhile
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        _, alive = await asyncio.to_thread(psutil.wait_procs, left, timeout=10)
        ended += len(left) - len(alive)
        if alive:
            break
    return ended


def _marked(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(STACK_VARIABLE) == str(folder):
                found.append(process)
    return found


def status(folder: Path) -> tuple[Plan, StackState]:
    """The plan and the state, as it is and not as a killed supervisor left it. Raises `StackError`."""
    plan, state = read_plan(folder), read_state(folder)
    if plan is None:
        raise StackError(f"there is no stack in {folder}; `wardround stack up` makes one")
    if state is None or not is_supervised(folder):
        programs = () if state is None else tuple(p.model_copy(update={"state": "stopped"}) for p in state.programs)
        state = StackState(supervisor=0, phase="stopped", error="" if state is None else state.error, programs=programs)
    return plan, state


def memory_of(pid: int | None) -> int | None:
    """The memory (bytes) of a process and its descendants, what they share counted once; None where it is gone."""
    if pid is None:
        return None
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        return None
    total = 0
    for each in family:
        with suppress(psutil.Error):
            full = each.memory_full_info()
            total += getattr(full, "pss", full.rss)  # where the system tells no shares, pages count in each
    return total


def _check_folder(folder: Path) -> None:
    """Nobody's other files are mixed with a stack's."""
    held = {entry.name for entry in folder.iterdir()} - {LOCK_FILE}
    if held and PLAN_FILE not in held:
        raise StackError(f"{folder} holds something else; name an empty or a new folder with --folder")


def _make_hub(folder: Path, plan: Plan) -> HubFolder:
    roster = Roster(
        broker=f"amqp://{LOOPBACK}:{plan.ports['broker']}",
        store=f"http://{LOOPBACK}:{plan.ports['store']}",
        metrics=f"http://{LOOPBACK}:{plan.ports['metrics']}",
        sites=(*plan.sites, *plan.guests),
        researchers=(RESEARCHER,),
    )
    hub = HubFolder(folder / "hub", roster)
    hub.write()
    return hub


def _spawn(folder: Path) -> "subprocess.Popen[bytes]":
    log = folder / LOGS / "supervisor.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("ab") as opened:
        return subprocess.Popen(  # noqa: S603 - our own module
            (sys.executable, "-P", "-m", "wardround.stack", str(folder)),
            env={**base_environment(folder), **_finding_servers()},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=opened,
            stderr=opened,
            start_new_session=True,
        )


def _finding_servers() -> dict[str, str]:
    """What was found from here: the supervisor works in another folder."""
    found = {RABBITMQ: find_rabbitmq(), MINIO: find_minio(), AIRFLOW: find_airflow()}
    return {name: str(path) for name, path in found.items() if path is not None}


async def _until_running(folder: Path, supervisor: "subprocess.Popen[bytes]", say: Said, *, within: float) -> None:
    said: set[str] = set()
    try:
        async with asyncio.timeout(within):
            while True:
                ended = supervisor.poll() is not None
                state = read_state(folder)
                for program in () if state is None else state.programs:
                    if program.state == "running" and program.name not in said:
                        said.add(program.name)
                        say(program.name)
                if state is not None and state.phase == "running":
                    return
                if ended:
                    why = state.error if state is not None and state.error else _last_line(folder)
                    raise StackError(f"the stack did not start: {why}")
                await asyncio.sleep(LOOK_EVERY)
    except TimeoutError:
        raise StackError(f"the stack was not ready within {within:.0f} s; see {folder / LOGS}") from None


def _last_line(folder: Path) -> str:
    lines = (folder / LOGS / "supervisor.log").read_text(errors="replace").strip().splitlines()
    return lines[-1][:500] if lines else "its process ended without a word"
