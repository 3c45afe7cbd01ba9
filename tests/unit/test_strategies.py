"""How members become one: weights, sums, maxima, and one model taken as it is."""

import numpy as np
import pytest

from wardround.aggregator.strategies import Adopt, FedAvg, Strategy, strategy_of
from wardround_messages.manifest import Cohort, Manifest, Rounds, Training
from wardround_messages.manifest import Strategy as Plan
from wardround_messages.names import Task


def merged(strategy: Strategy, members: list[list[float]], shares: tuple[float, ...], dtype: str = "f8") -> list[float]:
    total = np.empty(len(members[0]), dtype)
    strategy.start(total, np.array(members[0], dtype), shares[0])
    for values, share in zip(members[1:], shares[1:], strict=True):
        strategy.add(total, np.array(values, dtype), share)
    return list(total)


def test_fedavg_weighs_by_cases() -> None:
    shares = FedAvg("cases").shares([10, 30])

    assert shares == (0.25, 0.75)
    assert merged(FedAvg("cases"), [[0.0, 8.0], [4.0, 0.0]], shares) == [3.0, 2.0]


def test_fedavg_with_equal_weights_does_not_look_at_cases() -> None:
    assert FedAvg("equal").shares([10, 30, 60, 100]) == (0.25, 0.25, 0.25, 0.25)


def test_weights_of_a_great_many_cases_are_rounded_once() -> None:
    assert FedAvg("cases").shares([2**53, 2**53 - 1]) == (2**53 / (2**54 - 1), (2**53 - 1) / (2**54 - 1))


@pytest.mark.parametrize("dtype", ["i8", "u1", "u8"])
def test_fedavg_takes_the_maximum_of_integers(dtype: str) -> None:
    assert merged(FedAvg("cases"), [[1, 7], [3, 2]], (0.5, 0.5), dtype) == [3, 7]


def test_maximum_of_negative_integers_is_negative() -> None:
    assert merged(FedAvg("cases"), [[-5, -7], [-9, -2]], (0.5, 0.5), "i4") == [-5, -2]


def test_fedavg_merges_every_site_and_adopt_only_the_first() -> None:
    assert FedAvg("cases").pick(["clinic-1", "clinic-2"]) == ["clinic-1", "clinic-2"]
    assert Adopt().pick(["clinic-1", "clinic-2"]) == ["clinic-1"]
    assert Adopt().pick([]) == []


def test_adopt_takes_a_model_as_it_is() -> None:
    assert Adopt().shares([7]) == (1.0,)
    assert merged(Adopt(), [[0.1, -0.0]], (1.0,)) == [0.1, -0.0]
    with pytest.raises(ValueError, match="one site only"):
        merged(Adopt(), [[1.0], [2.0]], (1.0, 1.0))


def test_the_first_model_is_adopted_and_later_ones_are_averaged_as_the_manifest_says() -> None:
    manifest = Manifest(
        id="glioma-1",
        study="glioma",
        purpose="",
        cohort=Cohort(sites=("clinic-1",)),
        rounds=Rounds(count=1),
        strategy=Plan(weight="equal"),
        training=Training(trainer="adding", dataset="counting"),
    )

    assert isinstance(strategy_of(Task.INITIALISE, manifest), Adopt)
    assert strategy_of(Task.TRAIN, manifest).shares([1, 9]) == (0.5, 0.5)
