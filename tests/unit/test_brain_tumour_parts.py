"""What the brain tumour trainer is made of: network, loss, patches, inference, Dice."""

import math
import os
from typing import Any

import numpy as np
import pytest

if "CI" not in os.environ:
    pytest.importorskip("torch")
import torch

from wardround.training import TaskError
from wardround.training.imaging.cases import Case
from wardround.training.trainers.brain_tumour import patches
from wardround.training.trainers.brain_tumour.inference import sliding, whole
from wardround.training.trainers.brain_tumour.loss import dice_and_cross_entropy, pull
from wardround.training.trainers.brain_tumour.network import ResidualUnet
from wardround.training.trainers.brain_tumour.parameters import BrainTumourParameters
from wardround.training.trainers.brain_tumour.patches import Patches
from wardround.training.trainers.brain_tumour.regions import mean, region_dice

REGIONS = BrainTumourParameters().regions


def case_of(shape: tuple[int, int, int], lesion: tuple[slice, ...] = ()) -> Case:
    rng = np.random.default_rng(0)
    label = np.zeros(shape, np.uint8)
    if lesion:
        label[lesion] = 2
    return Case("case", rng.normal(size=(4, *shape)).astype(np.float32), label)


# --- parameters --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"patch": 20}, "multiple of 8"),
        ({"patch": 8}, "a multiple of 8, from 16 on"),
        ({"patch": 40, "channels": [8, 16, 32, 64, 128]}, "a multiple of 16, from 32 on"),
        ({"labels": ["edema", "core", "Edema "]}, "labels names one twice"),
        ({"modalities": ["T1w", "t1W"]}, "modalities names one twice"),
        (
            {"labels": ["tumour"], "whole_tumour": [1], "tumour_core": [1]},
            "enhancing_tumour names a place beyond the 1",
        ),
        ({"inference": "quick"}, "inference"),
    ],
)
def test_parameters_that_do_not_fit_together_are_told(given: dict[str, Any], said: str) -> None:
    with pytest.raises(TaskError) as raised:
        BrainTumourParameters.read(given)
    assert raised.value.code == "parameters_invalid"
    assert said in raised.value.hint


# --- network -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [(4, 8), (4, 6, 8), (16, 32, 64, 128)])
def test_the_network_scores_each_voxel(channels: tuple[int, ...]) -> None:
    network = ResidualUnet(3, 5, channels)
    edge = 2 ** len(channels)
    scores = network(torch.randn(2, 3, edge, 2 * edge, 3 * edge))
    assert scores.shape == (2, 5, edge, 2 * edge, 3 * edge)
    scores.sum().backward()
    assert all(weight.grad is not None for weight in network.parameters())


def test_the_network_of_the_defaults_has_1_2_million_weights() -> None:
    network = ResidualUnet(4, 4, (16, 32, 64, 128))
    assert sum(weight.numel() for weight in network.parameters()) == 1_191_413


# --- loss --------------------------------------------------------------------------------------------------------


def test_the_loss_is_dice_of_the_foreground_classes_plus_cross_entropy() -> None:
    share = torch.tensor([[[0.7, 0.1], [0.2, 0.3]], [[0.2, 0.8], [0.3, 0.3]], [[0.1, 0.1], [0.5, 0.4]]])
    label = torch.tensor([[0, 1], [2, 2]])
    # Overlap 0.8 of sums 1.6 and 1; overlap 0.9 of sums 1.1 and 2.
    dice = (2 * 0.8 / (1.6 + 1) + 2 * 0.9 / (1.1 + 2)) / 2
    entropy = -(math.log(0.7) + math.log(0.8) + math.log(0.5) + math.log(0.4)) / 4
    loss = dice_and_cross_entropy(share.log()[None, ..., None], label[None, ..., None])
    assert loss.item() == pytest.approx(1 - dice + entropy, abs=1e-4)


def test_a_perfect_prediction_costs_nothing_also_where_a_class_is_absent() -> None:
    label = torch.zeros(2, 4, 4, 4, dtype=torch.long)
    label[0, 1, 1, 1] = 1
    scores = 50.0 * torch.nn.functional.one_hot(label, 3).movedim(-1, 1)
    assert dice_and_cross_entropy(scores, label).item() == pytest.approx(0, abs=1e-4)


def test_fedprox_adds_the_distance_from_the_received_weights_to_the_gradient() -> None:
    weight = torch.tensor([1.0, -2.0], requires_grad=True)
    bias = torch.tensor(0.5, requires_grad=True)
    received = [torch.tensor([0.0, 1.0]), torch.tensor(0.5)]
    term = pull([weight, bias], received, 0.1)
    assert term.item() == pytest.approx(0.05 * (1 + 9))
    term.backward()
    torch.testing.assert_close(weight.grad, 0.1 * torch.tensor([1.0, -3.0]))
    assert bias.grad == 0


# --- patches -----------------------------------------------------------------------------------------------------


def test_two_thirds_of_the_patches_show_a_lesion_and_all_lie_inside() -> None:
    torch.manual_seed(0)
    label = np.zeros((40, 30, 16), np.uint8)
    label[35, 25, 3] = 3
    corners = [patches.draw_corner(label, 8) for _ in range(900)]
    assert all(
        0 <= start <= length - 8 for corner in corners for start, length in zip(corner, label.shape, strict=True)
    )
    hits = sum(all(0 <= at - start < 8 for at, start in zip((35, 25, 3), corner, strict=True)) for corner in corners)
    assert 0.6 < hits / len(corners) < 0.75
    assert len({tuple(corner) for corner in corners}) > 200


def test_without_a_lesion_patches_are_anywhere() -> None:
    torch.manual_seed(0)
    corners = np.array([patches.draw_corner(np.zeros((20, 9, 8), np.uint8), 8) for _ in range(200)])
    assert corners.min(axis=0).tolist() == [0, 0, 0]
    assert corners.max(axis=0).tolist() == [12, 1, 0]


def test_a_patch_of_a_small_scan_is_filled_up_with_zeros() -> None:
    case = case_of((5, 9, 12), (slice(2, 4),) * 3)
    image, label = patches.cut(case, [0, 1, 2], 8)
    assert (image.shape, label.shape, label.dtype) == ((4, 8, 8, 8), (8, 8, 8), torch.int64)
    np.testing.assert_array_equal(image[:, :5], case.image[:, :, 1:9, 2:10])
    np.testing.assert_array_equal(label[:5], case.label[:, 1:9, 2:10])
    assert not image[:, 5:].any()


def test_variation_keeps_image_and_label_together_and_the_background_at_zero() -> None:
    image, label = torch.zeros(2, 4, 4, 4), torch.zeros(4, 4, 4, dtype=torch.long)
    image[:, 0], label[0] = 1.0, 2
    seen = set()
    for seed in range(20):
        torch.manual_seed(seed)
        varied, with_it = patches.varied(image, label)
        side = 0 if with_it[0].any() else 3
        seen.add(side)
        assert (varied[:, side] != 0).all()
        assert (with_it[side] == 2).all()
        assert varied.count_nonzero() == image.count_nonzero()
        assert ((varied[:, side] - 1).abs() <= 0.2 + 1e-6).all()
    assert seen == {0, 3}


def test_patches_follow_torchs_seed_and_leave_the_case_as_it_is() -> None:
    case = case_of((12, 12, 12), (slice(4, 6),) * 3)
    before = case.image.copy()
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        drawn.append([image for image, _ in (Patches([case], 8)[0] for _ in range(5))])
    for one, other in zip(*drawn, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    np.testing.assert_array_equal(case.image, before)


# --- inference ---------------------------------------------------------------------------------------------------


class Constant(torch.nn.Module):
    """Says the same of every voxel, whatever it sees."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.tensor([0.5, -1.0, 2.0])[None, :, None, None, None].expand(len(image), 3, *image.shape[2:])


class Looking(torch.nn.Module):
    """Says of every voxel what stands there."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([image, -image], 1)


@pytest.mark.parametrize("network", [Constant(), Looking()])
@pytest.mark.parametrize("shape", [(8, 8, 8), (21, 9, 16), (3, 30, 11)])
def test_windows_and_the_whole_scan_agree_where_a_voxels_score_is_its_own(
    network: torch.nn.Module, shape: tuple[int, int, int]
) -> None:
    image = torch.randn(4, *shape)
    expected = network(image[None])[0]
    torch.testing.assert_close(whole(network, image, 4), expected)
    for batch in (1, 5):
        torch.testing.assert_close(sliding(network, image, 8, batch), expected)


def test_a_whole_scan_is_padded_to_what_the_network_takes() -> None:
    network = ResidualUnet(4, 3, (4, 8, 16)).eval()
    for shape in ((4, 9, 17), (8, 12, 16)):
        assert whole(network, torch.randn(4, *shape), 4).shape == (3, *shape)


def test_between_windows_there_is_time_to_stop() -> None:
    class StopError(Exception):
        pass

    asked = []

    def stop() -> None:
        asked.append(1)
        if len(asked) == 3:
            raise StopError

    with pytest.raises(StopError):
        sliding(Looking(), torch.randn(1, 16, 16, 16), 8, 2, between=stop)


# --- Dice --------------------------------------------------------------------------------------------------------


def classes(text: str) -> torch.Tensor:
    return torch.tensor([int(each) for each in text.replace(" ", "")], dtype=torch.uint8).reshape(-1, 2, 2)


def test_dice_of_the_regions_computed_by_hand() -> None:
    truth, predicted = classes("0112 2330 0000"), classes("0111 2230 1000")
    assert region_dice(predicted, truth, REGIONS) == pytest.approx(
        {
            "dice/wt": 2 * 6 / (7 + 6),
            "dice/tc": 2 * 3 / (3 + 4),
            "dice/et": 2 * 1 / (1 + 2),
        }
    )


def test_a_region_that_the_truth_lacks_is_skipped_and_one_that_is_missed_counts_as_zero() -> None:
    truth = classes("0112 2000")
    assert region_dice(classes("0112 2333"), truth, REGIONS).keys() == {"dice/wt", "dice/tc"}
    assert region_dice(torch.zeros_like(truth), truth, REGIONS) == {"dice/wt": 0, "dice/tc": 0}
    assert region_dice(truth, torch.zeros_like(truth), REGIONS) == {}


def test_the_mean_of_nothing_is_no_number() -> None:
    assert math.isnan(mean([]))
    assert mean([0.25, 0.75]) == 0.5
