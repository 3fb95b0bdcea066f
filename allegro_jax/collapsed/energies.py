"""Site energies and their gradients, from the radial functions of every slot."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from allegro_jax.config import AllegroConfig
from allegro_jax.neighbourhoods import Geometry
from allegro_jax.tensor_product import harmonics, slices, spherical_harmonics

Functions = Sequence[Float[Array, "n K"]] | Float[Array, "functions n K"]
"""α, b, a and r·u_ZBL of every slot, in the order of
:func:`allegro_jax.collapsed.functions.radial_functions`."""


class Terms(NamedTuple):
    """Radial functions of every slot by what they are for; or their derivatives.

    Attributes:
        alpha: α.
        b, a: one for each degree and channel, the channels of one degree together.
        zbl: r·u_ZBL, or none.
    """

    alpha: Float[Array, "n K"]
    b: Any
    a: Any
    zbl: Float[Array, "n K"] | None


def _terms(functions: Functions, config: AllegroConfig) -> Terms:
    count = config.num_tensor_features * (config.l_max + 1)
    b, a = functions[1 : count + 1], functions[count + 1 : 2 * count + 1]
    return Terms(functions[0], b, a, functions[-1] if config.zbl else None)


def _directions(unit_vectors: Float[Array, "n K 3"], l_max: int) -> list[Float[Array, "n K"]]:
    """Harmonics of norm 1, component by component: 1, x, y, z, …

    Every component is an array of its own, for reductions over neighbours read them one by one.
    """
    found = [jnp.ones_like(unit_vectors[..., 0])]
    if l_max > 0:
        found += [unit_vectors[..., m] for m in range(3)]
    if l_max > 1:
        found += _higher(unit_vectors, l_max)
    return found


def _higher(unit_vectors: Float[Array, "n K 3"], l_max: int) -> list[Float[Array, "n K"]]:
    """The components from degree 2 on."""
    values = spherical_harmonics(unit_vectors, l_max)
    return [
        values[..., m] / math.sqrt(2 * degree + 1)
        for degree, span in enumerate(slices(harmonics(l_max)))
        for m in range(span.start, span.stop)
        if degree > 1
    ]


def _products(config: AllegroConfig) -> Iterator[tuple[int, int]]:
    """(function among b and among a, component) of every product of two sums."""
    for degree, span in enumerate(slices(harmonics(config.l_max))):
        for channel in range(config.num_tensor_features):
            for component in range(span.start, span.stop):
                yield degree * config.num_tensor_features + channel, component


def energies_of(
    functions: Functions,
    edges: Geometry,
    config: AllegroConfig,
) -> Float[Array, " n"]:
    """Site energies less the shift, eV, from the values of the functions in every slot."""
    terms = _terms(functions, config)
    ways = _directions(edges.unit_vectors, config.l_max)
    energies = jnp.sum(terms.alpha, axis=-1)
    if terms.zbl is not None:
        energies = energies + jnp.sum(terms.zbl / edges.distances, axis=-1)
    for f, m in _products(config):
        sums = (_sum(side[f], ways, m) for side in (terms.b, terms.a))
        energies = energies + math.prod(sums)
    return energies


def energies_and_gradients(
    functions: Functions,
    derivatives: Functions,
    edges: Geometry,
    config: AllegroConfig,
) -> tuple[Float[Array, " n"], Float[Array, "n K 3"]]:
    """Site energies less the shift, eV, and ∂E_i/∂r_ij, eV/Å.

    Args:
        functions, derivatives: of all slots, the latter with respect to the distance.
        edges: the slots.
        config: the hyperparameters.
    """
    terms, slopes = _terms(functions, config), _terms(derivatives, config)
    ways = _directions(edges.unit_vectors, config.l_max)
    inverse = 1 / edges.distances

    energies, along = jnp.sum(terms.alpha, axis=-1), slopes.alpha
    if terms.zbl is not None:
        repulsion = terms.zbl * inverse
        energies = energies + jnp.sum(repulsion, axis=-1)
        along = along + (slopes.zbl - repulsion) * inverse
    across = [jnp.zeros_like(inverse) for _ in ways]  # ∂E/∂Y
    for f, m in _products(config):
        sum_b, sum_a = (_sum(side[f], ways, m) for side in (terms.b, terms.a))
        energies = energies + sum_b * sum_a
        sum_b, sum_a = sum_b[:, None], sum_a[:, None]
        change = slopes.b[f] * sum_a + slopes.a[f] * sum_b
        along = along + (change * ways[m] if m else change)
        across[m] = across[m] + terms.b[f] * sum_a + terms.a[f] * sum_b

    unit = [edges.unit_vectors[..., m] for m in range(3)]
    turned = across[1:4] or [jnp.zeros_like(inverse)] * 3  # ∂E/∂r̂
    if config.l_max > 1:
        _, pull = jax.vjp(functools.partial(_higher, l_max=config.l_max), edges.unit_vectors)
        (more,) = pull(across[4:])
        turned = [turned[m] + more[..., m] for m in range(3)]
    along = along - inverse * sum(turned[m] * unit[m] for m in range(3))
    gradients = [along * unit[m] + inverse * turned[m] for m in range(3)]
    return energies, jnp.stack(gradients, axis=-1)


def _sum(function: Array, ways: list[Array], component: int) -> Float[Array, " n"]:
    """Σ f Y over the neighbours."""
    return jnp.sum(function * ways[component] if component else function, axis=-1)
