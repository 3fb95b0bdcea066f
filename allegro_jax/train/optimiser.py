"""One step of training: gradient, optimiser, moving average of the weights."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from flax import struct
from jaxtyping import Array, Float

from allegro_jax.data.batches import Batch
from allegro_jax.train.config import FitConfig
from allegro_jax.train.frozen import hold
from allegro_jax.train.gradient import loss_and_gradient
from allegro_jax.train.loss import Loss
from allegro_jax.train.schedule import StepSettings
from md.local_potential import LocalPotential

Params = Any
# Adds up a tree of sums over the parts of a batch.
Total = Callable[[Any], Any]


def itself(tree: Any) -> Any:
    """The total of a batch that is one part."""
    return tree


@struct.dataclass
class TrainState:
    """Everything a step changes.

    Attributes:
        params: the weights.
        average: their average, which is validated: exponential, or that of schedule-free.
        optimiser: the state of the optax transformation.
        step: steps taken, an int32 scalar.
    """

    params: Params
    average: Params
    optimiser: Any
    step: Any


# Muon's quintic iteration x ↦ a x + (b x xᵀ + c (x xᵀ)²) x (K. Jordan, 2024).
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
# Leaves that are looked up or multiplied element by element, though they have two axes.
TABLES = frozenset({"type_embedding", "spline", "tensor_product"})


def matrices(params: Params) -> Params:
    """Which leaves are matrices W of a map x·W between features: a tree of booleans.

    These are orthogonalised by muon and shrink under weight decay. The rest have no singular
    vectors worth the name: tables of species and splines, whose rows are looked up one by one;
    weights of tensor-product paths [channels, paths], which multiply element by element; and the
    Bessel frequencies, scales and shifts, which are physical quantities and not small ones.
    """

    def is_matrix(path: tuple[Any, ...], leaf: Any) -> bool:
        keys = {getattr(entry, "key", None) for entry in path}
        return leaf.ndim == 2 and not keys & TABLES

    return jax.tree_util.tree_map_with_path(is_matrix, params)


def build_optimiser(
    fit: FitConfig, learning_rate: float | Float[Array, ""]
) -> optax.GradientTransformation:
    """Gradients to changes of the weights.

    Muon (K. Jordan, 2024) sets all singular values of a matrix's momentum to about one, so that
    every direction is learnt at the same pace; what is no matrix goes by Adam. Its changes are
    scaled to Adam's root mean square, 0.2 (J. Liu et al., arXiv:2502.16982), so that one learning
    rate serves both.

    Schedule-free (A. Defazio et al., arXiv:2405.15682) keeps two more sets of weights: those that
    take the steps, and their running mean. Gradients are taken in between, which serves instead of
    momentum; the mean is what is validated, and serves instead of a falling learning rate.
    """
    if fit.optimiser == "muon":
        rule = optax.contrib.muon(
            learning_rate,
            weight_decay=fit.weight_decay,
            consistent_rms=0.2,
            ns_coeffs=(NEWTON_SCHULZ,) * 5,  # given one by one they make a loop: quicker to compile
            muon_weight_dimension_numbers=lambda params: jax.tree.map(
                lambda chosen: optax.contrib.MuonDimensionNumbers() if chosen else None,
                matrices(params),
            ),
        )
    elif fit.optimiser in ("adamw", "schedule_free"):
        momentum = 0.9 if fit.optimiser == "adamw" else 0.0
        rule = optax.adamw(learning_rate, b1=momentum, weight_decay=fit.weight_decay, mask=matrices)
    elif fit.optimiser == "amsgrad":
        rule = optax.amsgrad(learning_rate)
    else:
        rule = optax.adam(learning_rate)
    if fit.clip is not None:
        rule = optax.chain(optax.clip_by_global_norm(fit.clip), rule)
    if fit.optimiser == "schedule_free":
        rule = optax.contrib.schedule_free(rule, learning_rate)
    return rule


def initial_state(params: Params, fit: FitConfig) -> TrainState:
    return TrainState(
        params=params,
        average=jax.tree.map(jnp.array, params),
        optimiser=build_optimiser(fit, 0.0).init(params),
        step=jnp.zeros((), jnp.int32),
    )


def train_step(
    state: TrainState,
    batch: Batch,
    settings: StepSettings,
    *,
    potential: LocalPotential,
    loss: Loss,
    fit: FitConfig,
    total: Total = itself,
    frozen: frozenset[str] = frozenset(),
) -> tuple[TrainState, Float[Array, " sums"]]:
    """One step of gradient descent; also returns the sums for the errors of the batch.

    ``batch`` may be one of several parts of it, on as many devices; ``total`` then adds up what
    the parts found (:mod:`~allegro_jax.train.parallel`), and all take the same step.
    """
    whole = functools.partial(
        loss, weights=settings.weights, normalisers=total(loss.normalisers(batch))
    )
    (_, sums), gradient = total(loss_and_gradient(potential, state.params, batch, whole))
    return apply_gradient(state, gradient, settings, fit=fit, frozen=frozen), sums


def apply_gradient(
    state: TrainState,
    gradient: Params,
    settings: StepSettings,
    *,
    fit: FitConfig,
    frozen: frozenset[str] = frozenset(),
) -> TrainState:
    """The state after a step along a gradient.

    Frozen weights, given by name, stay bit for bit what they are, whatever the rule; they have no
    share in the norm of the gradient either.

    The moving average starts fast and slows down, decay = min(ema, (1 + t)/(10 + t)), so that the
    first weights are soon forgotten.
    """
    learning_rate = settings.learning_rate
    gradient = hold(frozen, jax.tree.map(jnp.zeros_like, gradient), gradient)
    rule = build_optimiser(fit, learning_rate)
    change, optimiser = rule.update(gradient, state.optimiser, state.params)
    params = hold(frozen, state.params, optax.apply_updates(state.params, change))
    if fit.optimiser == "schedule_free":
        average = optax.contrib.schedule_free_eval_params(optimiser, params)
        average = hold(frozen, state.average, average)
        return TrainState(params, average, optimiser, state.step + 1)
    t = state.step.astype(learning_rate.dtype)
    decay = jnp.minimum(fit.ema, (1 + t) / (10 + t)) if fit.ema else jnp.zeros_like(t)
    average = jax.tree.map(
        lambda old, new: new + decay.astype(new.dtype) * (old - new), state.average, params
    )
    return TrainState(params, average, optimiser, state.step + 1)
