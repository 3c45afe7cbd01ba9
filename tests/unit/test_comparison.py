"""What a comparison shows: every way of training, over the seeds, and what the figures were measured on."""

import pytest
from rich.console import Console

from wardround.client.comparison import Comparison, comparison_json, comparison_table, setting
from wardround.client.site_cells import NOTHING

TWO_SEEDS = Comparison(
    experiment="brain",
    metric="dice/mean",
    rounds=10,
    epochs=4,
    tested_on=12,
    seeds=(7, 8),
    scores={
        "federated": [{"dice/mean": 0.70, "loss": 0.5}, {"dice/mean": 0.80, "loss": None}],
        "pooled": [{"dice/mean": 0.74, "loss": 0.4}, {"dice/mean": 0.82, "loss": 0.3}],
        "clinic-1 alone": [{"dice/mean": 0.60, "loss": 0.9}, {"dice/mean": 0.60, "loss": 0.9}],
    },
)
ONE_SEED = Comparison("brain", None, 1, 1, None, (7,), {"federated": [{"loss": 0.5}], "pooled": [{}]})


def text_of(comparison: Comparison) -> list[str]:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(comparison_table(comparison))
    return [" ".join(line.split()) for line in captured.get().splitlines()]


def test_several_seeds_are_shown_as_mean_and_standard_deviation() -> None:
    lines = text_of(TWO_SEEDS)
    assert "dice/mean loss" in lines  # the experiment's own metric first
    assert "federated 0.750 ± 0.071 0.500" in lines  # of one measured value there is no deviation
    assert "pooled 0.780 ± 0.057 0.350 ± 0.071" in lines
    assert "clinic-1 alone 0.600 ± 0.000 0.900 ± 0.000" in lines


def test_losses_come_last() -> None:
    scores = {"federated": [{"loss": 0.5, "sensitivity": 0.9, "dice/wt": 0.8, "loss/dice": 0.2}]}
    assert Comparison("brain", None, 1, 1, None, (7,), scores).metrics == [
        "dice/wt",
        "sensitivity",
        "loss",
        "loss/dice",
    ]


def test_differences_are_taken_seed_by_seed() -> None:
    assert TWO_SEEDS.differences("dice/mean") == pytest.approx([-0.04, -0.02])
    assert TWO_SEEDS.differences("loss") == pytest.approx([0.1])
    assert "federated - pooled -0.030 ± 0.014 +0.100" in text_of(TWO_SEEDS)


def test_what_was_not_measured_is_a_dash() -> None:
    assert f"pooled {NOTHING}" in text_of(ONE_SEED)
    assert f"federated - pooled {NOTHING}" in text_of(ONE_SEED)


def test_no_figure_is_without_its_setting() -> None:
    words = setting(TWO_SEEDS)
    assert "10 rounds of 4 epochs, mean ± sd over the seeds 7, 8; on 12 common test cases" in words
    assert "0.083, and where a region is in fewer cases, by more" in words  # what one of twelve cases can move
    assert "seed 7; each on validation cases of its own" in setting(ONE_SEED)


def test_programs_get_the_values_of_each_seed() -> None:
    told = comparison_json(TWO_SEEDS)
    assert told["seeds"] == [7, 8]
    assert told["metrics"]["loss"] == {  # type: ignore[index]
        "federated": [0.5, None],
        "pooled": [0.4, 0.3],
        "clinic-1 alone": [0.9, 0.9],
    }
