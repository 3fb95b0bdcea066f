"""Functions of the distance as cubic splines, a table for each ordered pair of species.

A table divides x = r/r_c(pair), from 0 to 1, into equal intervals. On each of them every function
is the cubic of t ∈ [0, 1) that has the function's values and slopes at both ends (Hermite's):
energies and forces are continuous, and forces are the exact gradient of the energies. One more row
of zeros ends each table; all that lies outside the cutoff, padding included, looks there.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from allegro_jax.neighbourhoods import Geometry
from allegro_jax.radial import pair_index

Table = Float[Array, "rows functions 4"]
"""The coefficients of t⁰ to t³; the rows of one pair stand together, in the order of
:func:`allegro_jax.radial.pair_index`."""


@dataclasses.dataclass(frozen=True)
class Sampled:
    """Functions of all pairs at some distances, on the host in float64.

    Attributes:
        values: [T, T, functions, points], centre first.
        slopes: the same of their derivatives with respect to x = r/r_c(pair).
    """

    values: Float[np.ndarray, "T T functions points"]
    slopes: Float[np.ndarray, "T T functions points"]


def coefficients(nodes: Sampled) -> Float[np.ndarray, "rows functions 4"]:
    """The table through functions sampled at the ends of equal intervals, x = 0 to 1."""
    intervals = nodes.values.shape[-1] - 1
    left, right = nodes.values[..., :-1], nodes.values[..., 1:]
    at_left, at_right = nodes.slopes[..., :-1] / intervals, nodes.slopes[..., 1:] / intervals
    rise = right - left
    cubic = np.stack(
        [left, at_left, 3 * rise - 2 * at_left - at_right, at_left + at_right - 2 * rise], axis=-1
    )  # [T, T, functions, intervals, 4]
    cubic = np.pad(cubic, [(0, 0)] * 3 + [(0, 1), (0, 0)])
    functions = cubic.shape[2]
    return np.moveaxis(cubic, 2, 3).reshape(-1, functions, 4)


def interpolated(
    table: Float[np.ndarray, "rows functions 4"], num_species: int, x: Float[np.ndarray, " points"]
) -> Sampled:
    """What a table says of all pairs at some x below 1, on the host: for measuring its error."""
    functions = table.shape[1]
    cubic = table.reshape(num_species, num_species, -1, functions, 4)
    intervals = cubic.shape[2] - 1
    row = (x * intervals).astype(int)
    t = x * intervals - row
    powers = np.stack([np.ones_like(t), t, t**2, t**3])
    slopes = np.stack([np.zeros_like(t), np.ones_like(t), 2 * t, 3 * t**2]) * intervals
    at = cubic[:, :, row]
    return Sampled(np.einsum("abxfc,cx->abfx", at, powers), np.einsum("abxfc,cx->abfx", at, slopes))


def look_up(
    table: Table, edges: Geometry, num_species: int
) -> tuple[list[Float[Array, "n K"]], list[Float[Array, "n K"]]]:
    """Every function of every slot, and its derivative with respect to r; 0 outside the cutoff."""
    intervals = table.shape[0] // num_species**2 - 1
    along = edges.x * intervals
    row = jnp.where(edges.inside, along.astype(jnp.int32), intervals)
    t = along - row
    if num_species > 1:
        pair = pair_index(edges.centre_species, edges.neighbour_species, num_species)
        row = row + pair * (intervals + 1)
    per_length = intervals * edges.x / edges.distances
    values, slopes = [], []
    for function in range(table.shape[1]):
        # one number at a time, so that no array [n, K, functions, 4] comes into being
        c0, c1, c2, c3 = (
            table.at[row, function, power].get(mode="promise_in_bounds") for power in range(4)
        )
        values.append(c0 + t * (c1 + t * (c2 + t * c3)))
        slopes.append((c1 + t * (2 * c2 + t * (3 * c3))) * per_length)
    return values, slopes
