"""The process behind `wardround stack up`: it runs the stack in the folder that is its one argument."""

import asyncio
import os
import signal
import sys
from pathlib import Path

from wardround.hub.folder import HubFolder
from wardround.runtime.logging import configure_logging
from wardround.stack.folder import StackError, read_plan, supervised
from wardround.stack.program import ProgramError
from wardround.stack.stages import stages
from wardround.stack.supervisor import Supervisor


async def _run(folder: Path) -> None:
    plan = read_plan(folder)
    if plan is None:
        raise StackError(f"no stack was made in {folder}")
    hub = HubFolder.open(folder / "hub")
    stop = asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(each, stop.set)
    await Supervisor(folder, stages(folder, plan, hub), pid=os.getpid()).run(stop)


def main() -> None:
    configure_logging(style="json")
    folder = Path(sys.argv[1])
    try:
        with supervised(folder):
            asyncio.run(_run(folder))
    except (StackError, ProgramError) as error:
        sys.exit(f"wardround stack: {error}")


main()
