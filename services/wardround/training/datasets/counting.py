"""A data set to test with: the site at place k, counted from 1, has k cases and the amount k."""

from collections.abc import Sequence
from pathlib import Path

from wardround.training.trainers.adding import AMOUNT

TEST_CASES = 3


def write(out: Path, sites: Sequence[str], seed: int) -> dict[str, dict[str, Path]]:
    """Write one folder per site for the trainer `adding`, and common test cases at the first site.

    `seed` changes nothing: there is no chance in it.

    Returns:
        site -> {name of the data set -> its folder}
    """
    written = {
        site: {"counting": _folder(out / site / "counting", cases=number, amount=number)}
        for number, site in enumerate(sites, 1)
    }
    if sites:
        written[sites[0]]["counting-test"] = _folder(out / sites[0] / "counting-test", cases=TEST_CASES, amount=0)
    return written


def _folder(folder: Path, *, cases: int, amount: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, cases + 1):
        (folder / f"case-{number:04d}.txt").write_text(f"{number}\n")
    (folder / AMOUNT).write_text(f"{amount}\n")
    return folder
