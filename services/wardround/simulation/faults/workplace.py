"""Where runs take place: a folder in memory, with clinics that are as new at the beginning of each."""

import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wardround.runtime import ids
from wardround.simulation.faults.plan import TWIN, Plan
from wardround.simulation.sites import Clinic, make_clinics

MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it


class Workplace:
    """One run at a time. Clinics are made once for each number of sites, which takes longer than half a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._clinics: dict[tuple[int, str], dict[str, Clinic]] = {}

    def clinics(self, plan: Plan) -> dict[str, Clinic]:
        """The plan's clinics by the names of their agents; nothing has happened in them yet."""
        twins = self._made(plan, TWIN)
        clinics = self._made(plan, "") | {site + TWIN: twins[site + TWIN] for site in plan.twins}
        for clinic in clinics.values():
            paths = clinic.settings.paths
            shutil.rmtree(paths.spool, ignore_errors=True)
            for left in (paths.log, *paths.inbox.parent.glob(f"{paths.inbox.name}*")):
                left.unlink(missing_ok=True)
        return clinics

    def _made(self, plan: Plan, suffix: str) -> dict[str, Clinic]:
        if (plan.sites, suffix) not in self._clinics:
            folder = self.folder / f"{plan.sites} sites{suffix}"
            made = make_clinics(folder, plan.manifest, scheduler="inline")
            self._clinics[plan.sites, suffix] = {clinic.name + suffix: clinic for clinic in made}
        return self._clinics[plan.sites, suffix]


@contextmanager
def workplace() -> Iterator[Workplace]:
    """A folder that is gone afterwards; in memory, where the machine has such a place."""
    with tempfile.TemporaryDirectory(prefix="wardround-faults-", dir=MEMORY if MEMORY.is_dir() else None) as name:
        yield Workplace(Path(name))


@contextmanager
def seeded(seed: str) -> Iterator[None]:
    """All chance in this process follows from the seed meanwhile."""
    state = random.getstate()
    random.seed(seed)
    ids.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
        ids.seed(str(random.SystemRandom().random()))
