"""Trainers that go wrong, or use what the shipped ones do not. Their one weight starts at one."""

import os
import sys
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from wardround.training import NumpyTrainer, Outcome, Parameters


class Simple(NumpyTrainer[Parameters]):
    """Trains nothing; what goes wrong does so in a subclass."""

    metrics = {"loss": "min"}

    def initial_weights(self, job):
        return {"weight": np.ones(1, np.float32)}

    def data(self, job):
        return job.split(job.data.glob("*.txt"))

    def train(self, weights, cases, job):
        return Outcome(cases=len(cases))

    def evaluate(self, weights, cases, job):
        return Outcome(cases=len(cases), loss=0.5)


class Raising(Simple):
    def train(self, weights, cases, job):
        raise RuntimeError(f"no luck with {cases[0]}")


class Leaving(Simple):
    def train(self, weights, cases, job):
        sys.exit(0)


class Widening(Simple):
    def train(self, weights, cases, job):
        weights["weight"] = weights["weight"].astype(np.float64)
        return Outcome(cases=len(cases))


class Growing(Simple):
    def train(self, weights, cases, job):
        weights["bias"] = np.zeros(1, np.float32)
        return Outcome(cases=len(cases))


class Chatty(Simple):
    def evaluate(self, weights, cases, job):
        return Outcome(cases=len(cases), loss=0.5, weight_of_patient=70)


class Diverging(Simple):
    """Its loss is no number, its weights are."""

    def train(self, weights, cases, job):
        for _ in job.epochs():
            for _ in job.steps(range(3)):
                job.log(loss=float("nan"))
        return Outcome(cases=len(cases), loss=float("inf"))

    def evaluate(self, weights, cases, job):
        return Outcome(cases=len(cases), loss=float("nan"))


class CountingNone(Simple):
    def train(self, weights, cases, job):
        return Outcome(cases=0)


class OneSided(Simple):
    def data(self, job):
        return [job.data.glob("*.txt")]


class Reaching(Simple):
    def data(self, job):
        return job.split(job.data.glob("../*/*.txt"))


class Reading(Simple):
    def data(self, job):
        return [[np.loadtxt(file) for file in files] for files in job.split(job.data.glob("*.txt"))]


class Empty(Simple):
    def initial_weights(self, job):
        return {}


class Reserved(Simple):
    def initial_weights(self, job):
        return {"optimizer.weight": np.ones(1, np.float32)}


class Rolling(Simple):
    """Adds the number of steps its optimizer remembers, so that weights tell how often it was gone on with."""

    def train(self, weights, cases, job):
        state = job.optimizer_state
        state["steps"] = state.get("steps", np.zeros((), np.float32)) + np.float32(1)
        weights["weight"] += state["steps"]
        return Outcome(cases=len(cases))


class Drawing(Simple):
    """Draws from the job, and from what the process has."""

    def train(self, weights, cases, job):
        weights["weight"] += np.float32(job.rng.normal() + np.random.normal())
        return Outcome(cases=len(cases))


class Stepping(Simple):
    """Leaves the cases and the steps that it saw."""

    def train(self, weights, cases, job):
        for _ in job.epochs():
            for _ in job.steps(iter(range(5))):
                weights["weight"] += 1
                job.log(loss=1)
        Path(job.data.folders[0], "seen").write_text(f"{len(cases)} cases, {weights['weight'][0]:.0f}")
        return Outcome(cases=len(cases))


NOT_A_TRAINER = "text"


class WithoutParameters(NumpyTrainer):
    metrics = {}


class Moody(Simple):
    """Draws from the system, so that no two trainings are alike."""

    def train(self, weights, cases, job):
        weights["weight"] += np.float32(np.random.default_rng().normal())
        return Outcome(cases=len(cases))


class Falling(Simple):
    """Ends its process, as the kernel does where memory is short."""

    def train(self, weights, cases, job):
        print("out", file=sys.stderr, flush=True)
        os._exit(9)


class Choice(Parameters):
    loss: Literal["dice", "focal"] = "dice"
    widths: tuple[int, ...] = Field(max_length=5)
    limit: float | None = None


class Choosing(Simple, NumpyTrainer[Choice]):
    pass
