"""A clinic whose disk is full: it says so, loses nothing, and goes on by itself when there is room."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from servers.stack import Stack
from simulation.whole import counting

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def small_spool(stack: Stack) -> Iterator[Path]:
    """The spool of clinic-2 on a disk with less room than a model needs."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    spool = stack.folder / "sites" / "clinic-2" / "spool"
    spool.mkdir(exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", spool], capture_output=True)
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    yield spool
    subprocess.run(["umount", "-l", spool], check=True)


async def test_a_full_spool_holds_the_clinic_up_until_there_is_room(stack: Stack, small_spool: Path) -> None:
    manifest = counting(id="full-disk", count=2, parameters={"size_mb": 1.0})
    async with stack.hub() as hub:
        await hub.start(manifest)
        async with asyncio.timeout(60):
            while "waiting" not in (log := _log(stack)) or "the disk is full" not in log:  # noqa: ASYNC110
                await asyncio.sleep(0.2)
        view = await hub.view("full-disk")
        assert view is not None
        assert not view.ended

        subprocess.run(["mount", "-o", "remount,size=64m", small_spool], check=True)  # noqa: ASYNC221

        async with asyncio.timeout(90):
            async for view in hub.watch("full-disk"):
                last = view
    assert last.phase == "finished"
    assert {site.site: site.rounds for site in last.sites} == {"clinic-1": 2, "clinic-2": 2, "clinic-3": 2}
    assert not list(small_spool.rglob("*.part"))


def _log(stack: Stack) -> str:
    return (stack.folder / "logs" / "clinic-2.log").read_text()
