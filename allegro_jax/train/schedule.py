"""What changes in the course of a run: the learning rate and the weights of the loss."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from flax import struct
from jaxtyping import Float

from allegro_jax.settings import value_at
from allegro_jax.train.config import FitConfig


@struct.dataclass
class StepSettings:
    """What a step is told from outside; traced, so that no value of it compiles anew.

    Attributes:
        learning_rate: of the optimiser.
        weights: of the loss's terms: energy, forces, stress.
    """

    learning_rate: Float[Any, ""]
    weights: Float[Any, " terms"]


@dataclasses.dataclass
class Schedule:
    """Learning rate and weights at any point of a run, in epochs; a plateau needs validations.

    Attributes:
        fit: schedules and their constants.
        factor: by which plateaus have lowered the learning rate so far.
        waited: epochs since the best validation, or since it was last lowered.
    """

    fit: FitConfig
    factor: float = 1.0
    waited: int = 0

    def __call__(self, epochs: float) -> StepSettings:
        """For a step that ends ``epochs`` (fractional) after the start of the run."""
        dtype, fit = np.dtype(self.fit.precision), self.fit
        terms = (fit.energy_weight, fit.forces_weight, fit.stress_weight)
        return StepSettings(
            learning_rate=np.asarray(self.learning_rate(epochs), dtype),
            weights=np.asarray([value_at(weight, epochs, fit.epochs) for weight in terms], dtype),
        )

    def learning_rate(self, epochs: float) -> float:
        """Linear warm-up, then the shape of the schedule."""
        fit = self.fit
        highest = fit.learning_rate * self.factor
        if epochs < fit.warmup_epochs:
            return highest * (epochs / fit.warmup_epochs)
        return highest * self._shape(epochs - fit.warmup_epochs)

    def validated(self, improved: bool) -> None:
        """Tell of an epoch's validation."""
        if self.fit.schedule != "plateau":
            return
        self.waited = 0 if improved else self.waited + 1
        if self.waited >= self.fit.plateau_patience:
            self.factor = max(self.factor * self.fit.plateau_factor, self.fit.final_learning_rate)
            self.waited = 0

    def _shape(self, epochs: float) -> float:
        fit = self.fit
        share = min(epochs / max(fit.epochs - fit.warmup_epochs, 1e-9), 1.0)
        least = fit.final_learning_rate
        if fit.schedule == "cosine":
            return least + (1 - least) * (1 + math.cos(math.pi * share)) / 2
        if fit.schedule == "exponential":
            return least**share
        if fit.schedule == "linear":
            decline = min((1 - share) / fit.decay_share, 1.0)
            return least + (1 - least) * decline
        return 1.0
