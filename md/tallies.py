"""Running totals for millions of steps: a plain float32 would stop counting at 2²⁴."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from md import summation, totals
from md.summation import TwoFloat
from md.totals import Axes

_WORD = 2**30


class Tally(NamedTuple):
    """Whole numbers up to 2⁶¹, as high · 2³⁰ + low; both int32, of any shape."""

    high: Int[Array, "*shape"]
    low: Int[Array, "*shape"]


def empty_tally(shape: tuple[int, ...]) -> Tally:
    return Tally(jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.int32))


def count(tally: Tally, counts: Int[Array, "*shape"]) -> Tally:
    """Add counts, each from 0 to 2³⁰."""
    low = tally.low + counts
    return Tally(tally.high + low // _WORD, low % _WORD)


def counts(tally: Tally) -> np.ndarray:
    """The numbers as float64, on the host."""
    high, low = np.asarray(tally.high, np.float64), np.asarray(tally.low, np.float64)
    return np.asarray(high * _WORD + low)


def over_devices(tally: Tally, axes: Axes) -> Tally:
    """The sum of the numbers of all devices, of which there are up to 2¹⁴."""
    if not axes:
        return tally
    half = 2**15
    parts = tally.high, tally.low // half, tally.low % half
    high, upper, lower = totals.over_devices(parts, axes)
    return count(Tally(high + upper // half, lower), upper % half * half)


def merged(first: Any, second: Any) -> Any:
    """The sum of two pytrees of the same kind: of tallies, sums, and plain numbers."""

    def add(a: Any, b: Any) -> Any:
        if isinstance(a, Tally):
            total = count(a, b.low)
            return total._replace(high=total.high + b.high)
        return summation.add(a, b) if isinstance(a, TwoFloat) else a + b

    return jax.tree.map(add, first, second, is_leaf=lambda x: isinstance(x, (Tally, TwoFloat)))


def empty_sum(shape: tuple[int, ...], dtype: Any) -> TwoFloat:
    """Sums of any shape, each a pair of floats (:mod:`md.summation`)."""
    return TwoFloat(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))


def accumulate(total: TwoFloat, values: Float[Array, "*shape"]) -> TwoFloat:
    """Add values to sums of the same shape."""
    return summation.add(total, TwoFloat(values, jnp.zeros_like(values)))


def total(value: TwoFloat) -> np.ndarray:
    """The sums as float64, on the host."""
    return np.asarray(np.asarray(value.high, np.float64) + np.asarray(value.low, np.float64))
