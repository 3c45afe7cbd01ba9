"""What runs inside a clinic's training task: the folder contract, and what a trainer is written with.

The torch variant stands in `wardround.training.torch_trainer`, so that nothing else needs torch.
"""

import logging

from wardround.training.errors import CancelledTaskError, CaseUnreadableError, TaskError
from wardround.training.job import Parameters, TrainingJob
from wardround.training.registry import describe
from wardround.training.runner import run_folder
from wardround.training.tensors import Weights
from wardround.training.trainer import NumpyTrainer, Outcome, Trainer

logging.getLogger(__name__).addHandler(logging.NullHandler())

__all__ = [
    "CancelledTaskError",
    "CaseUnreadableError",
    "NumpyTrainer",
    "Outcome",
    "Parameters",
    "TaskError",
    "Trainer",
    "TrainingJob",
    "Weights",
    "describe",
    "run_folder",
]
