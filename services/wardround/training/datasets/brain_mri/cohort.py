"""Whole sites of synthetic subjects, and common test cases: who comes where, drawn case by case."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wardround.training.datasets.brain_mri.decathlon import make_folders, write_case, write_index
from wardround.training.datasets.brain_mri.fields import VOXELS_AT_MOST, Grid
from wardround.training.datasets.brain_mri.scanner import Scanner, Shift, scanner_of
from wardround.training.datasets.brain_mri.subject import made_subject

FIRST_TEST_NUMBER = 501
LAST_NUMBER = 999
TEST_SITE = 99  # where the draws of the test cases come from: no site has this place
USUAL_GRID = Grid((48, 56, 48), 3.5)
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """What is to be made: cases at each site, and test cases that show the scanners of all sites in turn."""

    cases: int = 18
    test_cases: int = 12
    shift: Shift = "mild"
    grid: Grid = USUAL_GRID


@dataclass(frozen=True, slots=True)
class _Case:
    folder: Path
    number: int
    draws: tuple[int, int, int]
    scanner: Scanner


def write_cohort(
    cohort: Cohort,
    folders: Sequence[Path],
    test: Path,
    seed: int,
    *,
    workers: int | None = None,
    progress: Progress = lambda done, of: None,
) -> None:
    """Write a data set into each site's folder, and the test cases, if there are to be any, into `test`.

    A case depends on the seed, its site's place and its own place there: more cases or sites leave it as it is.
    `workers` threads make cases side by side, by default one per core, and fewer where cases are so large that
    more than `VOXELS_AT_MOST` would be worked on at once. `progress` is told (done, of) in the caller's thread.

    Raises:
        ValueError: there are no numbers for so many cases.
    """
    cases = [*_site_cases(cohort, folders, seed), *_test_cases(cohort, len(folders), test, seed)]
    numbers = {folder: [case.number for case in cases if case.folder == folder] for folder in (*folders, test)}
    for folder, some in numbers.items():
        if some:
            make_folders(folder)
    # Threads, not processes: the array functions let go of Python's lock, so two are 1.9 times as fast as one, and
    # none has to be started anew, for a second each, with the caller's main module.
    pool = ThreadPoolExecutor(workers or _side_by_side(cohort.grid))
    try:
        futures = [pool.submit(_write, case, cohort.grid) for case in cases]
        for done, future in enumerate(as_completed(futures), 1):
            future.result()
            progress(done, len(cases))
    finally:
        pool.shutdown(cancel_futures=True)
    for folder, some in numbers.items():
        if some:
            write_index(folder, some)


def _side_by_side(grid: Grid) -> int:
    return max(1, min(len(os.sched_getaffinity(0)), VOXELS_AT_MOST // grid.voxels))


def _site_cases(cohort: Cohort, folders: Sequence[Path], seed: int) -> list[_Case]:
    sites, in_all = len(folders), len(folders) * cohort.cases
    if sites > TEST_SITE or in_all >= FIRST_TEST_NUMBER:
        raise ValueError(
            f"{sites} sites with {cohort.cases} cases each are too many: "
            f"at most {TEST_SITE} sites, and {FIRST_TEST_NUMBER - 1} cases in all"
        )
    return [
        _Case(folder, 1 + site * cohort.cases + case, (seed, site, case), scanner_of(site, cohort.shift))
        for site, folder in enumerate(folders)
        for case in range(cohort.cases)
    ]


def _test_cases(cohort: Cohort, sites: int, folder: Path, seed: int) -> list[_Case]:
    at_most = LAST_NUMBER - FIRST_TEST_NUMBER + 1
    if cohort.test_cases > at_most:
        raise ValueError(f"{cohort.test_cases} test cases are too many: at most {at_most}")
    return [
        _Case(folder, FIRST_TEST_NUMBER + case, (seed, TEST_SITE, case), scanner_of(case % sites, cohort.shift))
        for case in range(cohort.test_cases)
    ]


def _write(case: _Case, grid: Grid) -> None:
    subject = made_subject(np.random.default_rng(case.draws), case.scanner, grid)
    write_case(case.folder, case.number, subject, grid.spacing)
