"""Sums and extremes over all atoms, wherever they are.

Compiled code sees the atoms of one device. On one device those are all; where atoms are spread over
a mesh of devices (:mod:`md.domains`), ``axes`` names the axes of that mesh, and every total here
is that of all devices, the same on each.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from md import summation
from md.summation import TwoFloat

Axes = tuple[str, ...]


def total(values: Float[Array, "atoms ..."], axes: Axes) -> Float[Array, ...]:
    """Σ over atoms."""
    return over_devices(jnp.sum(values, axis=0), axes)


def over_devices(value: Any, axes: Axes) -> Any:
    """Σ over devices of what each has summed already."""
    return jax.lax.psum(value, axes) if axes else value


def compensated(values: Float[Array, " atoms"], axes: Axes) -> TwoFloat:
    """Σ over atoms, as accurate as if summed in twice the precision."""
    own = summation.compensated_sum(values)
    if not axes:
        return own
    parts = jax.lax.all_gather(own, axes)
    total = summation.compensated_sum(parts.high)
    return summation.add(total, jnp.sum(parts.low))


def largest(values: Array, axes: Axes, initial: float | int = 0) -> Array:
    """The largest value of any atom, and at least ``initial``."""
    return largest_of_devices(jnp.max(values, initial=initial), axes)


def largest_of_devices(value: Array, axes: Axes) -> Array:
    """The largest of what each device has."""
    return jax.lax.pmax(value, axes) if axes else value


def every(condition: Bool[Array, "*shape"], axes: Axes) -> Bool[Array, ""]:
    """Whether a condition holds for all atoms."""
    own = jnp.all(condition)
    return jax.lax.pmin(own.astype(jnp.int32), axes) > 0 if axes else own


def joined(bits: Int[Array, ""], axes: Axes) -> Int[Array, ""]:
    """The bits that are set on any device."""
    if not axes:
        return bits
    every = jax.lax.all_gather(bits, axes)
    return jax.lax.reduce(every, jnp.zeros((), bits.dtype), jax.lax.bitwise_or, (0,))


def of_the_largest(
    key: Float[Array, " atoms"], values: Int[Array, " atoms"], axes: Axes
) -> Int[Array, ""]:
    """The value of the atom whose key is largest."""
    place = jnp.argmax(key)
    return of_the_smallest(-key[place], values[place], axes)[1]


def of_the_smallest(key: Float[Array, ""], value: Any, axes: Axes) -> tuple[Any, ...]:
    """The smallest key of any device, and the values that this device has."""
    values = value if isinstance(value, tuple) else (value,)
    if not axes:
        return (key, *values)
    keys, *found = jax.lax.all_gather((key, *values), axes)
    place = jnp.argmin(keys)
    return (keys[place], *(each[place] for each in found))
