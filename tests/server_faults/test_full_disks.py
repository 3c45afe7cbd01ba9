"""A clinic of a real stack whose disk is full: it says so, loses nothing, and goes on by itself when there is room."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from servers.disturber import resettled
from servers.fault_table import FaultTable
from servers.stack import Stack
from servers.trials import SITES, Undisturbed, adding, members_of, model_of, trial
from wardround.stack.folder import LOGS
from wardround.stack.sites import SITES as FOLDER

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

SITE = "clinic-2"
ROUNDS = 4


class SmallDisk:
    """A disk that can be filled, to its last byte."""

    def __init__(self, folder: Path) -> None:
        self._filler = folder / "filler"

    def fill(self) -> None:
        with self._filler.open("wb", buffering=0) as filler:
            try:
                while filler.write(bytes(4096)):
                    pass
            except OSError:
                return

    def make_room(self) -> None:
        self._filler.unlink(missing_ok=True)


@contextmanager
def small_disk(folder: Path) -> Iterator[SmallDisk]:
    """At that place, and gone again with all that was on it."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    folder.mkdir(exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def spool(stack: Stack) -> Iterator[SmallDisk]:
    with small_disk(stack.folder / FOLDER / SITE / "spool") as disk:
        yield disk


@pytest.fixture
async def inbox(stack: Stack) -> AsyncIterator[SmallDisk]:
    with small_disk(stack.folder / FOLDER / SITE / "disk") as disk:
        async with resettled(stack, SITE, {"/inbox.sqlite": "/disk/inbox.sqlite"}):
            yield disk


async def test_a_full_spool_holds_the_clinic_up_until_there_is_room(
    stack: Stack, spool: SmallDisk, undisturbed: Undisturbed, fault_table: FaultTable
) -> None:
    await assert_waits_for_room(stack, "full-spool", spool, "the disk is full", undisturbed, fault_table)
    assert not list((stack.folder / FOLDER / SITE / "spool").rglob("*.part"))


@pytest.mark.faults
async def test_a_full_disk_under_the_inbox_holds_the_clinic_up_until_there_is_room(
    stack: Stack, inbox: SmallDisk, undisturbed: Undisturbed, fault_table: FaultTable
) -> None:
    await assert_waits_for_room(stack, "full-inbox", inbox, "the inbox cannot be written", undisturbed, fault_table)


async def assert_waits_for_room(
    stack: Stack, name: str, disk: SmallDisk, said: str, undisturbed: Undisturbed, fault_table: FaultTable
) -> None:
    manifest = adding(name, ROUNDS)
    log = stack.folder / LOGS / f"{SITE}.log"
    before = log.stat().st_size
    async with trial(stack, manifest) as disturbed:
        await disturbed.recording.until_training(SITE, 2)
        async with disturbed.disturber.during(name.replace("-", " "), SITE):
            disk.fill()
            async with asyncio.timeout(60):
                while said not in log.read_text()[before:]:  # noqa: ASYNC110
                    await asyncio.sleep(0.2)
            assert not disturbed.ended
            disk.make_room()
        outcome = await disturbed.until_ended()

    expected = await undisturbed(manifest)
    fault_table.judge(outcome, expected)
    assert model_of(outcome) == expected
    assert members_of(outcome) == {round_: set(SITES) for round_ in range(1, ROUNDS + 1)}
