r"""Finite strains of a cell and of everything in it, r → r e^ε with ε symmetric.

e^ε is symmetric and positive definite: volumes keep their sign and no strain turns the cell. As
positions and lattice vectors are strained alike, fractional coordinates and image counters stay.
"""

from __future__ import annotations

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


def exponential_less_one(strain: Matrix, coupling: Coupling) -> Matrix:
    """e^ε − 1, of a strain as :func:`projected` gives it."""
    if coupling == "full":
        return matrix_product(strain, mean_exponential(strain, coupling))
    return jnp.diag(jnp.expm1(jnp.diagonal(strain)))


def mean_exponential(strain: Matrix, coupling: Coupling) -> Matrix:
    """∫₀¹ e^(sε) ds = (e^ε − 1)/ε, of a strain as :func:`projected` gives it."""
    if coupling != "full":
        return jnp.diag(mean_growth(jnp.diagonal(strain)))
    one = jnp.eye(3, dtype=strain.dtype)
    result = one
    for k in range(_TERMS, 1, -1):
        result = one + matrix_product(strain, result) / k
    return result


def mean_growth(exponent: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """∫₀¹ e^(sx) ds = (e^x − 1)/x, of numbers."""
    nothing = exponent == 0
    return jnp.where(nothing, 1, jnp.expm1(exponent) / jnp.where(nothing, 1, exponent))


def strained(
    vectors: Float[Array, "rows 3"], strain: Matrix, coupling: Coupling
) -> Float[Array, "rows 3"]:
    """vectors · e^ε."""
    # the change by itself: small strains would lose their digits in 1 + ε
    return vectors + lattice_vector(vectors, exponential_less_one(strain, coupling))
