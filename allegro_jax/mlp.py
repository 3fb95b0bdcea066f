"""Multi-layer perceptrons without biases, in the normalisations of both architectures."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

# Second-moment constant of silu, 1/√E[silu(z)²] for z ~ N(0, 1), as e3nn computed it.
SILU_GAIN = 1.6791767923989418

# All vanish at 0, as an energy that must vanish at the cutoff needs; "none" and "identity" differ
# only in the gain (config.py).
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "mish": jax.nn.mish,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "ssp": lambda x: jax.nn.softplus(x) - math.log(2.0),
    "tanh": jnp.tanh,
    "none": lambda x: x,
    "identity": lambda x: x,
}


def uniform(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """U(−√3, √3): zero mean, unit variance."""
    return jax.random.uniform(key, shape, dtype, -math.sqrt(3), math.sqrt(3))


def mlp_shapes(width_in: int, hidden: Sequence[int], width_out: int) -> list[tuple[int, int]]:
    widths = [width_in, *hidden, width_out]
    return list(itertools.pairwise(widths))


def scaled_weights(
    weights: Sequence[Array], nonlinearity: str, *, forward: bool = True
) -> list[Array]:
    """The weights with the modern architecture's factors: gain/√fan.

    The gain is √2 behind a nonlinearity and 1 elsewhere; ``forward`` takes the fan-in (activations
    keep their variance), else the fan-out (gradients keep theirs).
    """
    last = len(weights) - 1
    scaled = []
    for layer, weight in enumerate(weights):
        linear = nonlinearity == "none" or layer == (0 if forward else last)
        gain = 1.0 if linear else math.sqrt(2)
        scaled.append(weight * (gain / math.sqrt(weight.shape[0 if forward else 1])))
    return scaled


def scaled_weights_original(weights: Sequence[Array], nonlinearity: str) -> list[Array]:
    """The weights with the original architecture's factors: c/√fan-in, c = 1 on the first layer."""
    if nonlinearity not in ("silu", "none"):
        raise ValueError(
            f"nonlinearity {nonlinearity!r}: the original architecture has silu or none"
        )
    gain = SILU_GAIN if nonlinearity == "silu" else 1.0
    return [
        weight * ((gain if layer else 1.0) / math.sqrt(weight.shape[0]))
        for layer, weight in enumerate(weights)
    ]


def apply_mlp(
    weights: Sequence[Array], x: Float[Array, "*batch width"], nonlinearity: str
) -> Float[Array, "*batch out"]:
    """x·W₀, then act(…)·W for every further layer: no activation after the last."""
    activation = ACTIVATIONS[nonlinearity]
    x = linear(x, weights[0])
    for weight in weights[1:]:
        x = linear(activation(x), weight)
    return x


def linear(
    x: Float[Array, "*batch width"], weight: Float[Array, "width out"]
) -> Float[Array, "*batch out"]:
    """x·W as a product of two matrices: XLA takes its gradient without copies in other orders."""
    flat = x.reshape(-1, x.shape[-1]) @ weight
    return flat.reshape(*x.shape[:-1], weight.shape[1])
