"""The first example: its data, its network, its optimizer."""

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from training_folder import SITES, breast_cancer_data, fill, update_of

from wardround.training import CaseUnreadableError, run_folder
from wardround.training.datasets import breast_cancer, counting
from wardround.training.trainers.adam import Adam
from wardround.training.trainers.breast_cancer_mlp import (
    DIAGNOSIS,
    FEATURES,
    PATIENT,
    Patients,
    area_under_curve,
    loss_and_gradients,
    read_patients,
)
from wardround_messages.names import Task
from wardround_messages.task_folder import UPDATE


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    return breast_cancer_data(tmp_path_factory.mktemp("data"))


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "patients.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def malignant(folder: Path) -> float:
    return float(np.mean([row[DIAGNOSIS] == "malignant" for row in rows(folder)]))


# --- the data ----------------------------------------------------------------------------------------------------


def test_every_patient_is_at_one_place(data: dict[str, dict[str, Path]]) -> None:
    places = [data[site]["breast-cancer"] for site in SITES] + [data["clinic-1"]["breast-cancer-test"]]
    patients = [row[PATIENT] for place in places for row in rows(place)]
    assert len(patients) == len(set(patients)) == 569


def test_the_test_patients_are_a_quarter_with_the_share_of_malignant_of_all(data: dict[str, dict[str, Path]]) -> None:
    test = data["clinic-1"]["breast-cancer-test"]
    assert len(rows(test)) == 142
    assert malignant(test) == pytest.approx(212 / 569, abs=0.005)
    assert [site for site in SITES if "breast-cancer-test" in data[site]] == ["clinic-1"]


def test_sites_differ_in_size_in_diagnoses_and_in_the_size_of_tumours(data: dict[str, dict[str, Path]]) -> None:
    sites = [data[site]["breast-cancer"] for site in SITES]
    sizes = [len(rows(site)) for site in sites]
    shares = [malignant(site) for site in sites]
    radii = [np.mean([float(row["mean_radius"]) for row in rows(site)]) for site in sites]
    assert sizes == sorted(sizes, reverse=True)
    assert shares[0] + 0.1 < shares[1] < shares[2] - 0.1
    assert radii[0] + 1 < radii[1] < radii[2] - 1


def test_the_seed_divides_all_but_the_test_patients(tmp_path: Path, data: dict[str, dict[str, Path]]) -> None:
    def content(written: dict[str, dict[str, Path]]) -> list[bytes]:
        return [(folder / "patients.csv").read_bytes() for sets in written.values() for folder in sets.values()]

    assert content(breast_cancer.write(tmp_path / "again", SITES, 7)) == content(data)
    other = breast_cancer.write(tmp_path / "other", SITES, 8)
    assert content(other) != content(data)
    assert rows(other["clinic-1"]["breast-cancer-test"]) == rows(data["clinic-1"]["breast-cancer-test"])


def test_any_number_of_sites_has_patients_until_there_are_too_many(tmp_path: Path) -> None:
    many = [f"clinic-{number}" for number in range(21)]
    written = breast_cancer.write(tmp_path, many, 1)
    assert min(len(rows(written[site]["breast-cancer"])) for site in many) >= 10
    assert len(breast_cancer.write(tmp_path / "one", ["alone"], 1)["alone"]) == 2
    with pytest.raises(ValueError, match="too many"):
        breast_cancer.write(tmp_path, [f"clinic-{number}" for number in range(22)], 1)


def test_the_counting_set_gives_site_k_k_cases_and_the_amount_k(tmp_path: Path) -> None:
    written = counting.write(tmp_path, SITES, 0)
    for number, site in enumerate(SITES, 1):
        folder = written[site]["counting"]
        assert len(list(folder.glob("case-*.txt"))) == number
        assert float((folder / "amount.txt").read_text()) == number
    assert written["clinic-1"]["counting-test"].is_dir()


# --- reading it --------------------------------------------------------------------------------------------------

HEADER = ",".join([PATIENT, DIAGNOSIS, *FEATURES])
ROW = ",".join(["p1", "benign", *["1"] * 30])


@pytest.mark.parametrize(
    "content",
    [
        HEADER.replace("mean_radius", "radius") + f"\n{ROW}\n",
        f"{HEADER}\n{ROW.replace('benign', 'unsure')}\n",
        f"{HEADER}\n{ROW.removesuffix(',1')}\n",
        f"{HEADER}\n{ROW.replace(',1', ',x', 1)}\n",
        f"{HEADER}\n{ROW.replace(',1', ',nan', 1)}\n",
        f"{HEADER}\n{ROW.replace(',1', ',1e999', 1)}\n",
        f"{HEADER}\n{ROW}\n{ROW}\n",
        f"{HEADER}\n{ROW.replace('benign', 'x' * 200_000)}\n",
    ],
)
def test_a_row_that_is_not_a_patient_is_unreadable(tmp_path: Path, content: str) -> None:
    file = tmp_path / "patients.csv"
    file.write_text(content)
    with pytest.raises(CaseUnreadableError):
        read_patients([file])


def test_a_file_that_is_no_text_is_unreadable(tmp_path: Path) -> None:
    file = tmp_path / "patients.csv"
    file.write_bytes(HEADER.encode() + b"\n\xff\xfe")
    with pytest.raises(CaseUnreadableError):
        read_patients([file])


def test_measures_of_real_patients_are_of_order_one(data: dict[str, dict[str, Path]]) -> None:
    folder = data["clinic-1"]["breast-cancer-test"]
    measures = np.array([measures for measures, _ in read_patients([folder / "patients.csv"]).values()])
    assert measures.shape == (142, 30)
    assert np.abs(measures.mean(axis=0)).max() < 0.6
    assert np.abs(measures).max() < 4


# --- measuring and learning --------------------------------------------------------------------------------------


@given(
    arrays.arrays(np.float32, st.integers(1, 30), elements=st.sampled_from([-1.0, 0.0, 0.5, 2.0])).flatmap(
        lambda scores: st.tuples(st.just(scores), arrays.arrays(np.bool_, len(scores)))
    )
)
def test_the_area_under_the_curve_is_the_share_of_pairs_in_order(
    drawn: tuple[np.ndarray, np.ndarray],
) -> None:
    scores, positive = drawn
    difference = scores[positive][:, None] - scores[~positive][None, :]
    if difference.size == 0:
        assert np.isnan(area_under_curve(scores, positive))
    else:
        assert area_under_curve(scores, positive) == pytest.approx(np.mean((np.sign(difference) + 1) / 2))


def test_gradients_are_the_slopes_of_the_loss() -> None:
    rng = np.random.default_rng(0)
    weights = {
        "hidden.bias": rng.normal(size=4),
        "hidden.weight": rng.normal(size=(30, 4)),
        "output.bias": rng.normal(size=1),
        "output.weight": rng.normal(size=(4, 1)),
    }
    cases = Patients(rng.normal(size=(9, 30)), rng.integers(0, 2, 9).astype(float))
    _, gradients = loss_and_gradients(weights, cases)
    for name, value in weights.items():
        for place in np.ndindex(value.shape):
            step = 1e-6
            value[place] += step
            above = loss_and_gradients(weights, cases)[0]
            value[place] -= 2 * step
            below = loss_and_gradients(weights, cases)[0]
            value[place] += step
            assert gradients[name][place] == pytest.approx((above - below) / (2 * step), abs=1e-6)


def test_adam_follows_its_paper_and_goes_on_from_its_state() -> None:
    weights, state = {"w": np.array([1.0, -2.0])}, {}
    expected, first, second = weights["w"].copy(), np.zeros(2), np.zeros(2)
    for step in range(1, 6):
        gradient = np.array([0.5, -0.1]) * step
        Adam(weights, state, 0.01, weight_decay=0.1).step({"w": gradient})
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        unbiased = (first / (1 - 0.9**step)) / np.sqrt(second / (1 - 0.999**step))
        expected -= 0.01 * 0.1 * expected + 0.01 * unbiased
        np.testing.assert_allclose(weights["w"], expected, rtol=1e-5)
    assert state["steps"] == 5


@pytest.mark.parametrize("treatment", ["reset", "average", "keep"])
def test_training_tells_the_diagnoses_apart(tmp_path: Path, data: dict[str, dict[str, Path]], treatment: str) -> None:
    folder = data["clinic-2"]["breast-cancer"]
    job = {"trainer": "breast-cancer-mlp", "optimizer_state": treatment, "carry": "carry"}
    first = fill(tmp_path / "first", Task.INITIALISE, folder, **job)
    run_folder(first)
    trained = fill(tmp_path / "trained", Task.TRAIN, folder, model=(first / UPDATE).read_bytes(), epochs=10, **job)
    result = run_folder(trained)
    assert result.failure is None
    assert result.trained["loss"] is not None
    assert sum(name.startswith("optimizer.") for name in update_of(trained)) == (9 if treatment == "average" else 0)
    test = data["clinic-1"]["breast-cancer-test"]
    measured = fill(tmp_path / "test", Task.TEST, test, model=(trained / UPDATE).read_bytes(), **job)
    received = run_folder(measured).received
    assert received is not None
    assert received.values["auc"] is not None
    assert received.values["auc"] > 0.97
