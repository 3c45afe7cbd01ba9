"""Segments brain tumours in MRI. Described without torch and nibabel, which its methods import when they are called."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from wardround.training.torch_trainer import TorchJob, TorchTrainer
from wardround.training.trainer import Outcome
from wardround.training.trainers.brain_tumour.parameters import REGIONS, BrainTumourParameters

if TYPE_CHECKING:
    from torch import nn

    from wardround.training.imaging.cases import Cases
    from wardround.training.pictures import Picture

BYTES = 1_000_000

Job = TorchJob[BrainTumourParameters]


class BrainTumourUnet(TorchTrainer[BrainTumourParameters]):
    """A residual 3-D U-Net on patches of scans, soft Dice and cross entropy, Adam.

    The data folder is laid out as the Medical Segmentation Decathlon's Task01_BrainTumour. Measured are the loss and
    the Dice of BraTS' three regions on whole scans: means over the cases whose segmentation has the region.
    """

    metrics = {"loss": "min", **dict.fromkeys(REGIONS, "max"), "dice/mean": "max"}
    needs = (*TorchTrainer.needs, "nibabel")

    def network(self, parameters: BrainTumourParameters) -> "nn.Module":
        from wardround.training.trainers.brain_tumour.network import ResidualUnet

        return ResidualUnet(len(parameters.modalities), 1 + len(parameters.labels), parameters.channels)

    def data(self, job: Job) -> "Iterator[Cases]":
        from wardround.training.imaging.cases import CaseReader, Cases
        from wardround.training.imaging.decathlon import find_cases

        parameters = job.parameters
        found = find_cases(job.data, parameters.modalities, parameters.labels)
        reader = CaseReader(parameters.spacing, parameters.cache_mb * BYTES)
        sides = job.split(list(found), parameters.validation)
        return (Cases([found[image] for image in side], reader) for side in sides)

    def train(self, model: "nn.Module", cases: "Cases", job: Job) -> Outcome:
        from wardround.training.trainers.brain_tumour.learning import learn

        learn(model, cases, job)
        return Outcome(cases=len(cases))

    def evaluate(self, model: "nn.Module", cases: "Cases", job: Job) -> Outcome:
        from wardround.training.trainers.brain_tumour.measuring import measure

        return Outcome(cases=len(cases), **measure(model, cases, job))

    def pictures(self, model: "nn.Module", cases: "Cases", job: Job) -> "Iterator[Picture]":
        from wardround.training.trainers.brain_tumour.showing import show

        return show(model, cases, job)
