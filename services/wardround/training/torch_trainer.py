"""Trainers in torch. This module imports torch only where there is work to do, as it takes seconds and much memory."""

import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from wardround.training.errors import TaskError
from wardround.training.job import Parameters, TrainingJob
from wardround.training.tensors import Array, Weights
from wardround.training.trainer import Trainer

if TYPE_CHECKING:
    import torch
    from torch import nn

P = TypeVar("P", bound=Parameters)
O = TypeVar("O", bound="torch.optim.Optimizer")  # noqa: E741 - an optimizer, as P are parameters
# Torch has no type of its own for it: "Found no NVIDIA driver", "Torch not compiled with CUDA enabled", and the like.
_WANTS_A_GPU = re.compile("CUDA|NVIDIA")


class TorchJob(TrainingJob[P]):
    """A job whose batches come on its device, and that looks after the optimizer between rounds."""

    _optimizers: tuple["torch.optim.Optimizer", ...] = ()

    @property
    def device(self) -> "torch.device":
        """The CPU for a deterministic job, since a GPU's bytes differ from kind to kind; else a GPU where one is."""
        return _device(self)

    def steps(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The batches on the job's device: tensors, also inside tuples, lists and dictionaries."""
        for batch in super().steps(batches):
            yield _on(self.device, batch)

    def optimizer(self, optimizer: O) -> O:
        """The optimizer, gone on with from the last round where the experiment says `keep` or `average`.

        What it remembers is taken up again when the training is over. A trainer with several calls it in one order.
        """
        remembered = self.optimizer_state
        number = len(self._optimizers)
        self._optimizers += (optimizer,)
        if state := _numbered(remembered, number):
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        return optimizer

    def state_to_keep(self) -> Weights:
        """What the optimizers remember, as `<optimizer>.<parameter>.<name>`."""
        return {
            f"{number}.{parameter}.{name}": _array(value)
            for number, optimizer in enumerate(self._optimizers)
            for parameter, values in optimizer.state_dict()["state"].items()
            for name, value in values.items()
            if value is not None
        }


class TorchTrainer(Trainer[P, "nn.Module"]):
    """A trainer that says what its network is, and how to train and measure it.

    Weights travel as the network's `state_dict`, each tensor with memory of its own; types that NumPy lacks, such as
    bfloat16, travel as float32. `evaluate` runs in evaluation mode and without gradients. A deterministic job has one
    CPU thread and only deterministic algorithms.

    The class names what it `needs`, so that a trainer whose module imports torch in its methods alone is described
    without torch; one that imports it at the top works as well.
    """

    job_type = TorchJob
    # The first optimizer of a process imports torch._dynamo, which takes longer than torch itself (4.4 s after 2.8 s).
    needs: ClassVar[tuple[str, ...]] = ("torch", "torch._dynamo")

    @abstractmethod
    def network(self, parameters: Any) -> "nn.Module":
        """The network, with the weights of a first model."""

    def load(self, weights: Weights | None, job: TrainingJob[P]) -> "nn.Module":
        import torch

        network = self.network(job.parameters)
        if weights is not None:
            try:
                network.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
            except RuntimeError as error:
                hint = "the received model has other tensors than this trainer's network with these parameters"
                raise TaskError("model_unsuitable", hint) from error
        return network.to(_device(job))

    def save(self, model: "nn.Module") -> Weights:
        return {name: _array(value) for name, value in model.state_dict().items()}

    @contextmanager
    def measuring(self, model: "nn.Module") -> Iterator[None]:
        import torch

        modes = {module: module.training for module in model.modules()}
        model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for module, mode in modes.items():
                module.training = mode

    @contextmanager
    def session(self, job: TrainingJob[P]) -> Iterator[None]:
        import torch

        threads = torch.get_num_threads()
        algorithms = torch.get_deterministic_debug_mode()
        gpus = [torch.cuda.current_device()] if _device(job).type == "cuda" else []
        with super().session(job), torch.random.fork_rng(gpus):
            torch.manual_seed(job.seed)
            if job.deterministic:
                torch.set_num_threads(1)
                # `use_deterministic_algorithms` also imports torch's compiler, to tell it: 4 s in a new process.
                torch.set_deterministic_debug_mode("error")
            try:
                yield
            except torch.OutOfMemoryError as error:
                raise TaskError("gpu_memory", "the GPU has too little memory free for this trainer") from error
            except (RuntimeError, AssertionError) as error:
                if torch.cuda.is_available() or not _WANTS_A_GPU.search(str(error)):
                    raise
                raise TaskError("gpu_missing", "the trainer needs a GPU, and torch finds none here") from error
            finally:
                torch.set_num_threads(threads)
                torch.set_deterministic_debug_mode(algorithms)


def _device(job: TrainingJob[Any]) -> "torch.device":
    import torch

    return torch.device("cuda" if torch.cuda.is_available() and not job.deterministic else "cpu")


def _on(device: "torch.device", batch: Any) -> Any:
    import torch

    match batch:
        case torch.Tensor():
            return batch.to(device)
        case dict():
            return {name: _on(device, value) for name, value in batch.items()}
        case list() | tuple():
            moved = [_on(device, value) for value in batch]
            return type(batch)(*moved) if hasattr(batch, "_fields") else type(batch)(moved)
        case _:
            return batch


def _array(value: Any) -> Array:
    import torch

    if isinstance(value, bool | int | float):
        return np.array(value)
    if not isinstance(value, torch.Tensor):
        hint = f"only tensors and numbers travel, but the network or its optimizer holds {type(value).__name__}"
        raise TaskError("state_unsupported", hint)
    tensor = value.detach().cpu()
    if tensor.is_floating_point() and tensor.dtype not in (torch.float64, torch.float32, torch.float16):
        tensor = tensor.float()
    return np.array(tensor.numpy())


def _numbered(remembered: Weights, number: int) -> "dict[int, dict[str, torch.Tensor]]":
    """One optimizer's part of what was remembered: parameter -> {name: value}."""
    import torch

    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in remembered.items():
        optimizer, parameter, name = key.split(".", 2)
        if optimizer == str(number):
            state.setdefault(int(parameter), {})[name] = torch.from_numpy(value.copy())
    return state
