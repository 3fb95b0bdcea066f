"""The gradient of a step on several batches, one after another.

The means of a loss run over the labels of all the batches, whichever carries how many: labels are
counted first, and then every batch adds its share. So the gradient is that on one batch that holds
them all, to rounding, with the memory of one.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from allegro_jax.data.batches import Batch
from allegro_jax.train.gradient import loss_and_gradient
from allegro_jax.train.loss import Loss
from allegro_jax.train.optimiser import Total, itself
from allegro_jax.train.schedule import StepSettings
from md.local_potential import LocalPotential

Params = Any


@struct.dataclass
class Accumulation:
    """A gradient under way.

    Attributes:
        params: the weights.
        gradient: of the batches so far.
        normalisers: labels of all the batches, by term of the loss.
    """

    params: Params
    gradient: Params
    normalisers: Float[Any, " terms"]


def count_labels(
    so_far: Float[Array, " terms"],
    batch: Batch,
    *,
    loss: Loss,
    total: Total = itself,
) -> Float[Array, " terms"]:
    """Add a batch's labels; ``total`` as for :func:`~.optimiser.train_step`."""
    return so_far + total(loss.normalisers(batch))


def add_gradient(
    accumulation: Accumulation,
    batch: Batch,
    settings: StepSettings,
    *,
    potential: LocalPotential,
    loss: Loss,
    total: Total = itself,
) -> tuple[Params, Float[Array, " sums"]]:
    """The gradient with the share of a batch; and its sums for the errors of the batch."""
    part = functools.partial(loss, weights=settings.weights, normalisers=accumulation.normalisers)
    (_, sums), gradient = total(loss_and_gradient(potential, accumulation.params, batch, part))
    return jax.tree.map(jnp.add, accumulation.gradient, gradient), sums
