"""Sums that keep the digits of a float32: pairs of numbers whose unevaluated sum is the value.

The steps are those of T. J. Dekker, Numer. Math. 18, 224 (1971), and D. E. Knuth, TAOCP vol. 2,
4.2.2. They rely on IEEE arithmetic that the compiler does not reassociate, which XLA does not.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_BLOCK = 2**20  # halving needs as much memory again as what is summed


class TwoFloat(NamedTuple):
    """The value high + low, with |low| at most half a unit in the last place of high."""

    high: Float[Array, ""]
    low: Float[Array, ""]


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """a + b rounded, and the rounding error, exactly."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def zero(dtype: Any) -> TwoFloat:
    return TwoFloat(jnp.zeros((), dtype), jnp.zeros((), dtype))


def add(a: TwoFloat, b: Float[Array, ""] | TwoFloat) -> TwoFloat:
    """a + b, with b a number or a pair."""
    high, low = b if isinstance(b, TwoFloat) else (b, jnp.zeros_like(b))
    total, error = two_sum(a.high, high)
    return TwoFloat(*two_sum(total, error + (a.low + low)))


def negative(value: TwoFloat) -> TwoFloat:
    return TwoFloat(-value.high, -value.low)


def compensated_sum(values: Float[Array, " n"]) -> TwoFloat:
    """Σ values, as accurate as if summed in twice the precision: by halving, in blocks."""
    blocks = values.shape[0] // _BLOCK
    total = _by_halving(values[blocks * _BLOCK :])

    def with_block(number: Array, total: TwoFloat) -> TwoFloat:
        block = jax.lax.dynamic_slice_in_dim(values, number * _BLOCK, _BLOCK)
        return add(total, _by_halving(block))

    return jax.lax.fori_loop(0, blocks, with_block, total) if blocks else total


def _by_halving(values: Float[Array, " n"]) -> TwoFloat:
    high, low = values, jnp.zeros_like(values)
    while high.shape[0] > 1:
        if high.shape[0] % 2:
            high, low = (jnp.concatenate([x, jnp.zeros(1, x.dtype)]) for x in (high, low))
        half = high.shape[0] // 2
        high, error = two_sum(high[:half], high[half:])
        low = low[:half] + low[half:] + error
    if high.shape[0] == 0:
        return zero(values.dtype)
    return TwoFloat(*two_sum(high[0], low[0]))


def rounded(value: TwoFloat) -> Float[Array, ""]:
    """The value in single precision (that of its parts), for use in compiled code."""
    return value.high + value.low


def to_float(value: TwoFloat) -> float:
    """The value as a float64, on the host."""
    return float(value.high) + float(value.low)
