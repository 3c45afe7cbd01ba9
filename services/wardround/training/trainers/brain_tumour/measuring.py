"""Measuring on whole scans, one at a time."""

import torch
from torch import nn

from wardround.training.imaging.cases import Case, Cases
from wardround.training.torch_trainer import TorchJob
from wardround.training.trainers.brain_tumour.inference import sliding, whole
from wardround.training.trainers.brain_tumour.loss import dice_and_cross_entropy
from wardround.training.trainers.brain_tumour.parameters import BrainTumourParameters
from wardround.training.trainers.brain_tumour.regions import mean, region_dice

Job = TorchJob[BrainTumourParameters]


def measure(model: nn.Module, cases: Cases, job: Job) -> dict[str, float]:
    """The mean loss; the mean Dice of each region over the cases that have it, NaN where none does; their mean."""
    regions = job.parameters.regions
    losses = []
    dice: dict[str, list[float]] = {name: [] for name in regions}
    for case in job.steps(cases):
        scores, label = segment(model, case, job), torch.from_numpy(case.label).to(job.device)
        losses.append(float(dice_and_cross_entropy(scores[None], label.long()[None])))
        for name, value in region_dice(scores.argmax(0), label, regions).items():
            dice[name].append(value)
    means = {name: mean(values) for name, values in dice.items()}
    present = [means[name] for name, values in dice.items() if values]
    return {"loss": mean(losses), **means, "dice/mean": mean(present)}


def segment(model: nn.Module, case: Case, job: Job) -> torch.Tensor:
    """Scores [classes, x, y, z] of the case, on the job's device."""
    parameters = job.parameters
    image = torch.from_numpy(case.image).to(job.device)
    if parameters.inference == "whole":
        return whole(model, image, parameters.stride)
    return sliding(model, image, parameters.patch, parameters.batch_size, between=job.stop_if_cancelled)
