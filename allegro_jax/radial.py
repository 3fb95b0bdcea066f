"""Functions of the distance: envelopes, Bessel and spline bases, and the ZBL repulsion."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int

from md.pair_potentials import screened_repulsion


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def envelope(x: Float[Array, "*batch"], power: int) -> Float[Array, "*batch"]:
    """The polynomial cutoff f_p(x), 1 at x = 0, 0 from x = 1 on, with two continuous derivatives.

    1 − (p+1)(p+2)/2·x^p + p(p+2)·x^(p+1) − p(p+1)/2·x^(p+2) (Gasteiger et al., arXiv:2003.03123,
    eq. 8), written without cancellation as (1−x)³·Σ_{k<p} (k+1)(k+2)/2·x^k.
    """
    coefficients = [(k + 1) * (k + 2) / 2 for k in range(power)]
    inside = x < 1
    x = jnp.where(inside, x, 1)
    total = jnp.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + coefficient
    return jnp.where(inside, (1 - x) ** 3 * total, 0)


@envelope.defjvp
def _envelope_jvp(power, primals, tangents):
    (x,), (dx,) = primals, tangents
    safe = jnp.where(x < 1, x, 1)
    slope = -power * (power + 1) * (power + 2) / 2 * safe ** (power - 1) * (1 - safe) ** 2
    return envelope(x, power), jnp.where(x < 1, slope, 0) * dx


def bessel_basis(
    x: Float[Array, "*batch"], frequencies: Float[Array, " n"]
) -> Float[Array, "*batch n"]:
    """sin(nπx)/(πx) for every frequency n (Gasteiger et al., arXiv:2003.03123, less √(2/r_c))."""
    return jnp.sinc(x[..., None] * frequencies) * frequencies


def spline_basis(
    x: Float[Array, "*batch"], num_splines: int, span: int
) -> Float[Array, "*batch num_splines"]:
    """Overlapping bumps ¼(1 − cos(2π/d·(x − lo_k)))² on [lo_k, lo_k + d], 0 elsewhere."""
    lower = np.arange(-span, num_splines - span) / num_splines
    width = (span + 1) / num_splines
    phase = jnp.clip(x[..., None] - lower.astype(x.dtype), 0, width)
    return 0.25 * (1 - jnp.cos(2 * math.pi / width * phase)) ** 2


@functools.cache
def bessel_moments(num_bessels: int, cutoff: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of (2/r_c)·sin(nπr/r_c)/r over 4000 distances in (0, r_c]."""
    r = np.linspace(0, cutoff, 4001)[1:, None]
    values = 2 / cutoff * np.sin(np.arange(1, num_bessels + 1) * math.pi * r / cutoff) / r
    return values.mean(0), values.std(0, ddof=1)


def zbl(
    distances: Float[Array, "n K"],
    inside: Bool[Array, "n K"],
    centre_numbers: Float[Array, " n"],
    neighbour_numbers: Float[Array, "n K"],
) -> Float[Array, "n K"]:
    """The Ziegler-Biersack-Littmark screened repulsion of each directed pair (half a bond), eV.

    Half of :func:`md.pair_potentials.screened_repulsion`. Distances must be positive, also where
    not ``inside``.
    """
    repulsion = screened_repulsion(distances, centre_numbers[:, None], neighbour_numbers)
    return jnp.where(inside, 0.5 * repulsion, 0)


def pair_index(
    centre_species: Int[Array, " n"], neighbour_species: Int[Array, "n K"], num_species: int
) -> Int[Array, "n K"]:
    """Row-major index of the ordered pair (centre, neighbour)."""
    return centre_species[:, None] * num_species + neighbour_species
