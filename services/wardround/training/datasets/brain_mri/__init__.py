"""Brain tumour MRI as a federation: synthetic scans in the layout of the Medical Segmentation Decathlon.

No patient is in them. An average brain is bent into that of a subject, a tumour grown in it, and the contrasts computed
by the equations of MRI, so that a site's data are as its scanner makes them.
"""

from collections.abc import Sequence
from pathlib import Path

from wardround.training.datasets.brain_mri.cohort import Cohort, write_cohort
from wardround.training.datasets.brain_mri.fields import Grid
from wardround.training.datasets.brain_mri.scanner import SHIFTS, Shift

__all__ = ["SHIFTS", "Cohort", "Grid", "Shift", "write", "write_cohort"]


def write(out: Path, sites: Sequence[str], seed: int) -> dict[str, dict[str, Path]]:
    """Write one data set per site, each from a scanner of its own, and the common test cases at the first site.

    Returns:
        site -> {name of the data set -> its folder}

    Raises:
        ValueError: too many sites to give each case a number of its own.
    """
    written = {site: {"brain-mri": out / site / "brain-mri"} for site in sites}
    test = out / sites[0] / "brain-mri-test"
    write_cohort(Cohort(), [folders["brain-mri"] for folders in written.values()], test, seed)
    written[sites[0]]["brain-mri-test"] = test
    return written
