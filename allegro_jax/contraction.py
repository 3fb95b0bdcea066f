"""The product of neighbour features with a matrix per atom, as one differentiable primitive.

Allegro's tensor product, once summed over environments, is for every atom n, neighbour k and
channel u a small vector-matrix product::

    out[n, k, c, u] = Σ_a features[n, k, a, u] · matrix[n, a, c, u]                     (contract)

and its derivative with respect to the matrix is the outer product summed over neighbours::

    out[n, a, c, u] = Σ_k left[n, k, a, u] · right[n, k, c, u]                              (outer)

The two are each other's transposes, so derivatives of every order and mode stay among them. As a
``dot_general`` the channels become a batch dimension of tiny matrices, which XLA runs on CPUs at a
tenth of the machine's speed. With channels innermost and the short sum written out, each becomes one
vectorised loop; automatic differentiation of that loop would not, hence the primitives.
"""

from __future__ import annotations

from functools import partial

import jax.numpy as jnp
from jax import Array
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Float

# Above this many terms a written-out sum costs more compile time than it saves.
MAX_UNROLLED = 256


def contract(features: Float[Array, "n K a u"], matrix: Float[Array, "n a c u"]) -> Array:
    """Σ_a features[n, k, a, u] · matrix[n, a, c, u] → [n, K, c, u]."""
    return contract_p.bind(features, matrix)


def outer(left: Float[Array, "n K a u"], right: Float[Array, "n K c u"]) -> Array:
    """Σ_k left[n, k, a, u] · right[n, k, c, u] → [n, a, c, u]."""
    return outer_p.bind(left, right)


def _transposed(matrix: Array) -> Array:
    return jnp.swapaxes(matrix, 1, 2)


# -- evaluation -----------------------------------------------------------------------------------


def _contract_einsum(features: Array, matrix: Array) -> Array:
    return jnp.einsum("nkau,nacu->nkcu", features, matrix)


def _outer_einsum(left: Array, right: Array) -> Array:
    return jnp.einsum("nkau,nkcu->nacu", left, right)


def _contract_unrolled(features: Array, matrix: Array) -> Array:
    terms = features.shape[2]
    if not 0 < terms <= MAX_UNROLLED:
        return _contract_einsum(features, matrix)
    return sum(features[:, :, a, None, :] * matrix[:, None, a] for a in range(terms))


def _outer_unrolled(left: Array, right: Array) -> Array:
    terms = left.shape[1]
    if not 0 < terms <= MAX_UNROLLED:
        return _outer_einsum(left, right)
    return sum(left[:, k, :, None] * right[:, k, None] for k in range(terms))


# -- primitives -----------------------------------------------------------------------------------


def _contract_shape(features: ShapedArray, matrix: ShapedArray) -> ShapedArray:
    n, neighbours, _, channels = features.shape
    return ShapedArray((n, neighbours, matrix.shape[2], channels), features.dtype)


def _outer_shape(left: ShapedArray, right: ShapedArray) -> ShapedArray:
    n, _, rows, channels = left.shape
    return ShapedArray((n, rows, right.shape[2], channels), left.dtype)


def _batched(operation, arguments, dimensions):
    """vmap: the mapped axis joins the atoms."""
    size = next(
        argument.shape[dimension]
        for argument, dimension in zip(arguments, dimensions, strict=True)
        if dimension is not None
    )
    folded = []
    for argument, dimension in zip(arguments, dimensions, strict=True):
        if dimension is None:
            argument = jnp.broadcast_to(argument, (size, *argument.shape))
        else:
            argument = jnp.moveaxis(argument, dimension, 0)
        folded.append(argument.reshape(-1, *argument.shape[2:]))
    out = operation(*folded)
    return out.reshape(size, -1, *out.shape[1:]), 0


def _primitive(name, shape, operation, on_cpu, elsewhere, transpose_left, transpose_right):
    primitive = Primitive(name)
    primitive.def_impl(elsewhere)
    primitive.def_abstract_eval(shape)
    ad.defbilinear(primitive, transpose_left, transpose_right)
    batching.primitive_batchers[primitive] = partial(_batched, operation)
    mlir.register_lowering(primitive, mlir.lower_fun(elsewhere, multiple_results=False))
    mlir.register_lowering(
        primitive, mlir.lower_fun(on_cpu, multiple_results=False), platform="cpu"
    )
    return primitive


contract_p = _primitive(
    "allegro_contract",
    _contract_shape,
    contract,
    _contract_unrolled,
    _contract_einsum,
    transpose_left=lambda ct, _features, matrix: contract(ct, _transposed(matrix)),
    transpose_right=lambda ct, features, _matrix: outer(features, ct),
)
outer_p = _primitive(
    "allegro_outer",
    _outer_shape,
    outer,
    _outer_unrolled,
    _outer_einsum,
    transpose_left=lambda ct, _left, right: contract(right, _transposed(ct)),
    transpose_right=lambda ct, left, _right: contract(left, ct),
)
