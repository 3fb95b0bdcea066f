"""One step of training: optimiser, learning rate, moving average of the weights."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float

from allegro_jax.data.batches import Batch
from allegro_jax.train.config import FitConfig
from allegro_jax.train.gradient import loss_and_gradient
from allegro_jax.train.loss import Loss
from md.local_potential import LocalPotential

Params = Any


@struct.dataclass
class TrainState:
    """Everything a step changes.

    Attributes:
        params: the weights.
        average: their exponential moving average.
        optimiser: the state of the optax transformation.
        step: steps taken, an int32 scalar.
    """

    params: Params
    average: Params
    optimiser: Any
    step: Any


def build_optimiser(fit: FitConfig) -> optax.GradientTransformation:
    """Gradients to a descent direction; the learning rate is applied by :func:`train_step`."""
    scale = optax.scale_by_amsgrad() if fit.optimiser == "amsgrad" else optax.scale_by_adam()
    parts = [optax.clip_by_global_norm(fit.clip), scale]
    if fit.optimiser == "adamw":
        parts.append(optax.add_decayed_weights(fit.weight_decay))
    return optax.chain(*parts)


def initial_state(params: Params, fit: FitConfig) -> TrainState:
    return TrainState(
        params=params,
        average=jax.tree.map(jnp.array, params),
        optimiser=build_optimiser(fit).init(params),
        step=jnp.zeros((), jnp.int32),
    )


def train_step(
    state: TrainState,
    batch: Batch,
    learning_rate: Float[Array, ""],
    *,
    potential: LocalPotential,
    loss: Loss,
    fit: FitConfig,
) -> tuple[TrainState, Float[Array, " sums"]]:
    """One step of gradient descent; also returns the sums for the errors of the batch.

    The moving average starts fast and slows down, decay = min(ema, (1 + t)/(10 + t)), so that the
    first weights are soon forgotten.
    """
    (_, sums), gradient = loss_and_gradient(potential, state.params, batch, loss)
    direction, optimiser = build_optimiser(fit).update(gradient, state.optimiser, state.params)
    params = jax.tree.map(
        lambda weight, change: weight - learning_rate.astype(weight.dtype) * change,
        state.params,
        direction,
    )
    t = state.step.astype(learning_rate.dtype)
    decay = jnp.minimum(fit.ema, (1 + t) / (10 + t)) if fit.ema else jnp.zeros_like(t)
    average = jax.tree.map(
        lambda old, new: new + decay.astype(new.dtype) * (old - new), state.average, params
    )
    return TrainState(params, average, optimiser, state.step + 1), sums


@dataclasses.dataclass
class LearningRate:
    """The learning rate at any point of a run, in epochs; a plateau needs validations.

    Attributes:
        fit: schedule and its constants.
        factor: by which plateaus have lowered it so far.
        waited: epochs since the best validation, or since it was last lowered.
    """

    fit: FitConfig
    factor: float = 1.0
    waited: int = 0

    def __call__(self, epochs: float) -> float:
        """At ``epochs`` (fractional) since the start of the run."""
        fit = self.fit
        if fit.warmup_epochs > 0 and epochs < fit.warmup_epochs:
            return fit.learning_rate * self.factor * (epochs / fit.warmup_epochs)
        return fit.learning_rate * self.factor * self._shape(epochs - fit.warmup_epochs)

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
        return 1.0
