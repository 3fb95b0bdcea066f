"""Sums that do not depend on the order of their terms: fixed point, in integers.

Accelerators add to the same place in whatever order their threads come by, and floating-point sums
then differ from run to run. Integer sums never do.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

_COARSE = 2.0**10
_FINE = 2.0**30
LARGEST = 2.0**19
"""Terms must be smaller than this; the sum of any 4096 such terms fits."""


class FixedPoint(NamedTuple):
    """The value coarse/2¹⁰ + fine/2³⁰, with a resolution of 1e-9.

    Attributes:
        coarse, fine: int32. Fine parts of single terms are below 2¹⁹.
        spoilt: whether a term was too large or not finite.
    """

    coarse: Int[Array, "*shape"]
    fine: Int[Array, "*shape"]
    spoilt: Bool[Array, ""]


def zeros(shape: tuple[int, ...]) -> FixedPoint:
    return FixedPoint(jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.int32), jnp.asarray(False))


def add_at(
    total: FixedPoint, indices: Int[Array, "*rows"], terms: Float[Array, "*rows 3"]
) -> FixedPoint:
    """Add terms to rows of a sum; indices past its end are dropped."""
    good = jnp.abs(terms) < LARGEST  # false for NaN
    terms = jnp.where(good, terms, 0)
    coarse = jnp.round(terms * _COARSE)
    fine = jnp.round((terms - coarse / _COARSE) * _FINE)
    return FixedPoint(
        total.coarse.at[indices].add(coarse.astype(jnp.int32), mode="drop"),
        total.fine.at[indices].add(fine.astype(jnp.int32), mode="drop"),
        total.spoilt | ~jnp.all(good),
    )


def to_float(total: FixedPoint, dtype: Any) -> Float[Array, "*shape"]:
    """The sum; NaN throughout where it was spoilt."""
    value = total.coarse.astype(dtype) / _COARSE + total.fine.astype(dtype) / _FINE
    return jnp.where(total.spoilt, jnp.nan, value)
