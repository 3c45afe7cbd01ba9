"""Training: Adam on patches."""

import torch
from torch import nn
from torch.utils.data import DataLoader

from wardround.training.imaging.cases import Cases
from wardround.training.torch_trainer import TorchJob
from wardround.training.trainers.brain_tumour.loss import dice_and_cross_entropy, pull
from wardround.training.trainers.brain_tumour.parameters import BrainTumourParameters
from wardround.training.trainers.brain_tumour.patches import Patches


def learn(model: nn.Module, cases: Cases, job: TorchJob[BrainTumourParameters]) -> None:
    """Train in place: one patch of each case an epoch. Logs the loss without FedProx' part, to compare."""
    parameters = job.parameters
    weights = list(model.parameters())
    received = [weight.detach().clone() for weight in weights] if parameters.proximal else []
    adam = torch.optim.Adam(weights, parameters.learning_rate, weight_decay=parameters.weight_decay)
    optimizer = job.optimizer(adam)
    batches = DataLoader(Patches(cases, parameters.patch), parameters.batch_size, shuffle=True)
    for _ in job.epochs():
        for image, label in job.steps(batches):
            loss = dice_and_cross_entropy(model(image), label)
            job.log(loss=loss)
            if parameters.proximal:
                loss = loss + pull(weights, received, parameters.proximal)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
