"""The tensor track of the modern architecture, without a tensor feature of any edge.

A layer's product is linear in the features of an edge: V^(k+1) = M_k V^k, where the matrix M_k
[channels, c, a] comes from the weights of the paths and the environment of the *atom*. Of V^(k+1)
the edge itself uses the invariant alone, the row 0e of M_k … M_0 V⁰, and V⁰ = w Y. So the row is
carried down to V⁰ once per atom,

    row_k = M_k[0e] M_(k−1) … M_0,

without ever making a matrix, and all that is done per edge, in each of however many layers, is
Σ_a row_k[a] w[l(a)] Y[a].

Environments and rows are [atoms, channels, components]; weights of harmonics [atoms, neighbours,
degrees · channels], degrees first.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array
from jaxtyping import Float

from allegro_jax.tensor_product import TensorProduct, coefficient_table, degrees_of_components


@struct.dataclass
class ProductWeights:
    """A layer's tensor product, with the weights of its paths in it.

    Without a weight per channel the axis u is missing.

    Attributes:
        invariant: of 0e, which couples each component of the features with one of the environment.
        outputs: of all outputs, with a row for every component b of the environment and c of the
            output; ``None`` in the last layer, where no more than 0e is needed.
    """

    invariant: Float[Array, "*u a"]
    outputs: Float[Array, "*u bc a"] | None


def weigh_paths(
    product: TensorProduct, weights: Float[Array, "*u paths"], *, last: bool
) -> ProductWeights:
    """Σ_paths W[u, path] · CG_path, of the last layer or another."""
    table, partner = coefficient_table(product), _partners(product)
    components = np.arange(table.shape[3])
    diagonal = jnp.asarray(table[:, partner, 0, components], weights.dtype)
    if last:
        return ProductWeights(weights @ diagonal, None)
    pairs = table.reshape(len(table), -1, table.shape[3])
    outputs = jnp.einsum("...p,pxa->...xa", weights, jnp.asarray(pairs, weights.dtype))
    return ProductWeights(weights @ diagonal, outputs)


def environment_sum(
    weights: Float[Array, "n K degrees_u"], harmonics: Float[Array, "n K b"]
) -> Float[Array, "n u b"]:
    """Σ_k weights[n, k, (l(b), u)] · harmonics[n, k, b].

    All degrees of the weights meet all harmonics in one matrix product, which is quicker than one
    product per degree; what they do not share is dropped.
    """
    own = jnp.asarray(_own_degree(harmonics.shape[2]), weights.dtype)
    sums = jnp.einsum("nkw,nkb->nwb", weights, harmonics)
    sums = sums.reshape(sums.shape[0], len(own), -1, own.shape[1])
    return jnp.sum(sums * own[:, None], axis=1)


def invariant_row(
    product: TensorProduct, weights: ProductWeights, environment: Float[Array, "n u b"]
) -> Float[Array, "n u a"]:
    """The row of 0e of a layer's matrix: what its invariants are of the features before it."""
    partners = _partners(product)
    if not np.array_equal(partners, np.arange(environment.shape[2])):
        environment = environment[:, :, partners]
    return weights.invariant * environment


def carried_down(
    row: Float[Array, "n u c"], weights: ProductWeights, environment: Float[Array, "n u b"]
) -> Float[Array, "n u a"]:
    """A row times the matrix of the layer before, Σ_bc environment[b] row[c] W[u, b, c, a].

    The matrix is never made: pairs of components are, and meet the weights channel by channel.
    """
    assert weights.outputs is not None
    pairs = environment[..., :, None] * row[..., None, :]
    pairs = pairs.swapaxes(0, 1).reshape(*row.shape[1::-1], -1)
    return jnp.matmul(pairs, weights.outputs).swapaxes(0, 1)


def invariants(
    rows: Float[Array, "n u a"],
    weights: Float[Array, "n K degrees_u"],
    harmonics: Float[Array, "n K a"],
) -> Float[Array, "n K u"]:
    """Σ_a rows[n, u, a] · weights[n, k, (l(a), u)] · harmonics[n, k, a]."""
    atoms, channels, components = rows.shape
    own = jnp.asarray(_own_degree(components), rows.dtype)
    by_degree = (rows[:, None] * own[:, None]).reshape(atoms, -1, components)
    products = weights * jnp.einsum("nka,nwa->nkw", harmonics, by_degree)
    return products.reshape(*products.shape[:2], -1, channels).sum(axis=2)


def _own_degree(components: int) -> Float[np.ndarray, "degrees components"]:
    """1 where a component of the harmonics is of a degree."""
    degrees = degrees_of_components(components)
    return (np.arange(degrees[-1] + 1)[:, None] == degrees).astype(float)


@functools.cache
def _partners(product: TensorProduct) -> np.ndarray:
    """The component of the environment that makes 0e with each component of the features.

    Features of a parity that the harmonics do not have make none; their coefficients are 0 with
    whichever is named.
    """
    partners = np.abs(coefficient_table(product)[:, :, 0]).sum(axis=0).argmax(axis=0)
    return partners.astype(np.int32)
