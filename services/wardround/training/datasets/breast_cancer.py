"""Wisconsin Diagnostic Breast Cancer as a federation: 569 real patients, divided among sites that differ.

Street, Wolberg, Mangasarian, "Nuclear feature extraction for breast tumor diagnosis", 1993; it comes with scikit-learn,
which only this writer needs.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround.training.trainers.breast_cancer_mlp import DIAGNOSIS, FEATURES, PATIENT

TEST_EVERY = 4
PATIENTS_AT_LEAST = 10
PATIENTS = "patients.csv"


def write(out: Path, sites: Sequence[str], seed: int) -> dict[str, dict[str, Path]]:
    """Write one folder per site, `patients.csv` in it, and the common test patients at the first site.

    Every fourth patient of either diagnosis is for testing, whatever the seed, so that runs can be compared. Of the
    others the first sites get more than the last (3 : 1), and mostly small tumours where the last get mostly large
    ones: so sites differ in size, in tumour size and in the share of malignant tumours.

    Returns:
        site -> {name of the data set -> its folder}

    Raises:
        ValueError: too many sites for ten patients each.
    """
    features, malignant = _patients()
    test = _every_fourth(malignant)
    rest = np.setdiff1d(np.arange(len(malignant)), test)
    if len(sites) * 2 * PATIENTS_AT_LEAST > len(rest):
        raise ValueError(f"{len(sites)} sites are too many to divide {len(rest)} patients among")

    def folder(site: str, name: str, patients: NDArray[np.intp]) -> Path:
        return _write_folder(out / site / name, patients, features, malignant)

    shares = _divide(features[:, FEATURES.index("mean_radius")], rest, len(sites), np.random.default_rng(seed))
    written = {
        site: {"breast-cancer": folder(site, "breast-cancer", patients)}
        for site, patients in zip(sites, shares, strict=True)
    }
    written[sites[0]]["breast-cancer-test"] = folder(sites[0], "breast-cancer-test", test)
    return written


def _patients() -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    from sklearn.datasets import load_breast_cancer

    loaded: Any = load_breast_cancer()
    columns = [list(loaded.feature_names).index(_as_published(feature)) for feature in FEATURES]
    return loaded.data[:, columns], loaded.target == list(loaded.target_names).index("malignant")


def _as_published(feature: str) -> str:
    kind, measure = feature.replace("_", " ").split(" ", 1)
    return f"{measure} error" if kind == "se" else f"{kind} {measure}"


def _every_fourth(malignant: NDArray[np.bool_]) -> NDArray[np.intp]:
    groups = [np.flatnonzero(malignant == diagnosis) for diagnosis in (False, True)]
    return np.sort(np.concatenate([group[TEST_EVERY - 1 :: TEST_EVERY] for group in groups]))


def _divide(
    radius: NDArray[np.float64], patients: NDArray[np.intp], sites: int, rng: np.random.Generator
) -> list[NDArray[np.intp]]:
    """Give each patient to a site with a free place, more likely to one that attracts tumours of this size."""
    places = _places(len(patients), sites)
    attraction = np.linspace(-1, 1, sites) if sites > 1 else np.zeros(1)
    size = (radius - radius.mean()) / radius.std()
    given: list[list[int]] = [[] for _ in range(sites)]
    for patient in rng.permutation(patients):
        weights = places * np.exp(attraction * size[patient])
        site = rng.choice(sites, p=weights / weights.sum())
        places[site] -= 1
        given[site].append(int(patient))
    return [np.sort(np.array(some, np.intp)) for some in given]


def _places(patients: int, sites: int) -> NDArray[np.int64]:
    """How many patients each site gets, from three shares at the first to one at the last."""
    shares = np.linspace(3, 1, sites)
    borders = np.round(np.cumsum(shares) / shares.sum() * patients)
    places: NDArray[np.int64] = np.diff(borders, prepend=0).astype(np.int64)
    return places


def _write_folder(
    folder: Path, patients: NDArray[np.intp], features: NDArray[np.float64], malignant: NDArray[np.bool_]
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / PATIENTS).open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow([PATIENT, DIAGNOSIS, *FEATURES])
        for patient in patients:
            diagnosis = "malignant" if malignant[patient] else "benign"
            rows.writerow([f"patient-{patient + 1:04d}", diagnosis, *features[patient].tolist()])
    return folder
