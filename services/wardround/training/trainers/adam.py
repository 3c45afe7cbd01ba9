"""Adam in NumPy, its state in plain arrays that can be kept or averaged between rounds."""

import numpy as np

from wardround.training.tensors import Weights


class Adam:
    """Kingma, Ba 2015 (https://arxiv.org/abs/1412.6980), with the decoupled weight decay of Loshchilov, Hutter 2019.

    Args:
        weights: changed in place by `step`.
        state: the job's `optimizer_state`: gets one count of steps, and two moments for each weight.
        learning_rate: step size; the moments fade by 0.9 and 0.999 a step.
        weight_decay: share of a weight lost a step, in units of the step size.
    """

    def __init__(self, weights: Weights, state: Weights, learning_rate: float, *, weight_decay: float = 0.0) -> None:
        self._weights = weights
        self._state = state
        self._rate = learning_rate
        self._decay = weight_decay
        state.setdefault("steps", np.zeros((), np.float64))
        for name, value in weights.items():
            state.setdefault(f"{name}.first", np.zeros_like(value))
            state.setdefault(f"{name}.second", np.zeros_like(value))

    def step(self, gradients: Weights) -> None:
        """Move every weight against its gradient."""
        self._state["steps"] += 1
        steps = float(self._state["steps"])
        rate = self._rate * np.sqrt(1 - 0.999**steps) / (1 - 0.9**steps)
        for name, gradient in gradients.items():
            first, second = self._state[f"{name}.first"], self._state[f"{name}.second"]
            first += 0.1 * (gradient - first)
            second += 0.001 * (gradient**2 - second)
            weight = self._weights[name]
            weight -= self._rate * self._decay * weight + rate * first / (np.sqrt(second) + 1e-8)
