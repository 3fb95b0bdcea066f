r"""Finite strains of a cell and of everything in it, r → r e^ε with ε symmetric.

e^ε is symmetric and positive definite: volumes keep their sign and no strain turns the cell. As
positions and lattice vectors are strained alike, fractional coordinates and image counters stay.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from md.cells import lattice_vector

Matrix = Float[Array, "3 3"]

Coupling = Literal["isotropic", "anisotropic", "full"]
"""What a strain may be: a multiple of the unit matrix, diagonal, or any symmetric matrix."""

FREEDOM = {"isotropic": 1, "anisotropic": 3, "full": 6}
"""Degrees of freedom of a cell under each coupling."""

# e^x − 1 = x Σ x^k/(k+1)!: 13 terms leave 1e-17 at |x| = 0.3, a strain beyond any sound time step.
_TERMS = 13


def projected(matrix: Matrix, coupling: Coupling) -> Matrix:
    """The strain of this kind that is nearest to a matrix."""
    if coupling == "full":
        return (matrix + matrix.T) / 2
    diagonal = jnp.diagonal(matrix)
    if coupling == "isotropic":
        diagonal = jnp.full_like(diagonal, jnp.mean(diagonal))
    return jnp.diag(diagonal)


def matrix_product(a: Matrix, b: Matrix) -> Matrix:
    """a · b in full precision, which accelerators do not give small matrix products."""
    return jnp.sum(a[:, :, None] * b[None, :, :], axis=1)


def mean_exponential(strain: Matrix, coupling: Coupling) -> Matrix:
    """∫₀¹ e^(sε) ds = (e^ε − 1)/ε, of a strain as :func:`projected` gives it."""
    one = jnp.eye(3, dtype=strain.dtype)
    return _series(strain, one, _product(coupling))


def mean_growth(exponent: Float[Array, ""]) -> Float[Array, ""]:
    """∫₀¹ e^(sx) ds = (e^x − 1)/x, of a number."""
    return _series(exponent, jnp.ones_like(exponent), jnp.multiply)


def strained(
    vectors: Float[Array, "rows 3"], strain: Matrix, coupling: Coupling
) -> Float[Array, "rows 3"]:
    """vectors · e^ε."""
    # the change by itself: small strains would lose their digits in 1 + ε
    change = _product(coupling)(strain, mean_exponential(strain, coupling))
    return vectors + lattice_vector(vectors, change)


def _product(coupling: Coupling) -> Callable[[Array, Array], Array]:
    """The product of two strains; of diagonal ones it is that of their elements."""
    return matrix_product if coupling == "full" else jnp.multiply


def _series(x: Array, one: Array, multiply: Callable[[Array, Array], Array]) -> Array:
    result = one
    for k in range(_TERMS, 1, -1):
        result = one + multiply(x, result) / k
    return result
