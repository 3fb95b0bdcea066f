"""Irreps, tensor-product paths and Clebsch-Gordan coefficients, all found at trace time."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math

import e3nn_jax as e3nn
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

Irrep = tuple[int, int]  # (degree l, parity ±1)
SCALAR: Irrep = (0, 1)


def harmonics(l_max: int) -> tuple[Irrep, ...]:
    """The irreps of the spherical harmonics up to ``l_max``: 0e + 1o + 2e + …"""
    return tuple((degree, (-1) ** degree) for degree in range(l_max + 1))


def dimension(irreps: tuple[Irrep, ...]) -> int:
    return sum(2 * degree + 1 for degree, _ in irreps)


def slices(irreps: tuple[Irrep, ...]) -> tuple[slice, ...]:
    """Where each irrep's components stand in the concatenation of all."""
    ends = np.cumsum([0] + [2 * degree + 1 for degree, _ in irreps]).tolist()
    return tuple(slice(*span) for span in itertools.pairwise(ends))


def spherical_harmonics(
    unit_vectors: Float[Array, "*batch 3"], l_max: int
) -> Float[Array, "*batch components"]:
    """Real harmonics in e3nn's basis, component norm (|Y_l|² = 2l + 1), of unit vectors."""
    return e3nn.spherical_harmonics(
        e3nn.Irreps.spherical_harmonics(l_max),
        e3nn.IrrepsArray("1o", unit_vectors),
        normalize=False,
        normalization="component",
    ).array


def _selects(left: Irrep, right: Irrep, out: Irrep) -> bool:
    """Whether left ⊗ right holds ``out``."""
    in_range = abs(left[0] - right[0]) <= out[0] <= left[0] + right[0]
    return in_range and left[1] * right[1] == out[1]


@dataclasses.dataclass(frozen=True)
class TensorProduct:
    """One layer's product features ⊗ environment → output.

    Attributes:
        left, right, out: irreps of the features, the environment and the result.
        paths: (index in left, index in right, index in out), in the reference's order.
    """

    left: tuple[Irrep, ...]
    right: tuple[Irrep, ...]
    out: tuple[Irrep, ...]
    paths: tuple[tuple[int, int, int], ...]

    @classmethod
    def between(
        cls, left: tuple[Irrep, ...], right: tuple[Irrep, ...], out: tuple[Irrep, ...]
    ) -> TensorProduct:
        paths = tuple(
            (i_left, i_right, i_out)
            for i_out, ir_out in enumerate(out)
            for i_left, ir_left in enumerate(left)
            for i_right, ir_right in enumerate(right)
            if _selects(ir_left, ir_right, ir_out)
        )
        return cls(left, right, out, paths)

    def coefficients(self, path: tuple[int, int, int]) -> np.ndarray:
        """√(2l_out + 1) times the Clebsch-Gordan tensor (unit Frobenius norm) of one path."""
        i_left, i_right, i_out = path
        l_left, l_right, l_out = self.left[i_left][0], self.right[i_right][0], self.out[i_out][0]
        return math.sqrt(2 * l_out + 1) * np.asarray(e3nn.clebsch_gordan(l_left, l_right, l_out))


@functools.cache
def tensor_products(l_max: int, parity: bool, num_layers: int) -> tuple[TensorProduct, ...]:
    """The product of every layer, with unreachable and useless irreps dropped.

    Features start as harmonics; a layer may produce every irrep up to ``l_max`` (of both parities
    if ``parity``), the last one scalars only. Dropped are irreps that no path reaches and, from the
    end backwards, those from which no path leads to a kept irrep.
    They stay in the order 0e, 0o, 1e, 1o, …, which both reference codes share.
    """
    environment = harmonics(l_max)
    allowed = environment
    if parity:
        allowed = tuple((degree, p) for degree in range(l_max + 1) for p in (1, -1))

    stages = [environment]
    for layer in range(num_layers):
        candidates = (SCALAR,) if layer == num_layers - 1 else allowed
        stages.append(
            tuple(
                out
                for out in candidates
                if any(_selects(left, right, out) for left in stages[-1] for right in environment)
            )
        )
    for layer in reversed(range(num_layers)):
        stages[layer] = tuple(
            left
            for left in stages[layer]
            if any(_selects(left, right, out) for right in environment for out in stages[layer + 1])
        )
    return tuple(
        TensorProduct.between(left, environment, out) for left, out in itertools.pairwise(stages)
    )


def weighted_harmonics(
    weights: Float[Array, "n u degrees K"], harmonics: Float[Array, "n b K"]
) -> Float[Array, "n u b K"]:
    """weights[n, u, l(b), k] · harmonics[n, b, k]."""
    return jnp.concatenate(
        [
            weights[:, :, degree, None] * harmonics[:, None, span]
            for degree, span in enumerate(_degrees(weights.shape[2]))
        ],
        axis=2,
    )


def environment_sum(
    weights: Float[Array, "n u degrees K"], harmonics: Float[Array, "n b K"]
) -> Float[Array, "n u b"]:
    """Σ_k weights[n, u, l(b), k] · harmonics[n, b, k]."""
    return jnp.concatenate(
        [
            jnp.einsum("nuk,nbk->nub", weights[:, :, degree], harmonics[:, span])
            for degree, span in enumerate(_degrees(weights.shape[2]))
        ],
        axis=2,
    )


def _degrees(count: int) -> tuple[slice, ...]:
    return slices(harmonics(count - 1))


def mix_paths(
    product: TensorProduct,
    features: Float[Array, "n u a K"],
    environment: Float[Array, "n u b"],
    weights: Float[Array, "u paths"] | Float[Array, " paths"],
) -> Float[Array, "n u c K"]:
    """Σ_paths W[u, path] · CG_path(features, environment): the product of the modern architecture.

    The environment belongs to the atom, so it is first contracted with the weighted coefficients to
    one matrix per atom and channel; the neighbours then see a matrix product.
    """
    table = _coefficient_table(product)
    if weights.ndim == 1:
        mixed = jnp.einsum("p,pbca->bca", weights, jnp.asarray(table, weights.dtype))
        matrix = jnp.einsum("nub,bca->nuca", environment, mixed)
    else:
        mixed = jnp.einsum("up,pbca->ubca", weights, jnp.asarray(table, weights.dtype))
        matrix = jnp.einsum("nub,ubca->nuca", environment, mixed)
    return jnp.einsum("nuca,nuak->nuck", matrix, features)


@functools.cache
def _coefficient_table(product: TensorProduct) -> np.ndarray:
    """The coefficients of all paths as one array [paths, b, c, a]."""
    spans = slices(product.left), slices(product.right), slices(product.out)
    table = np.zeros(
        (
            len(product.paths),
            dimension(product.right),
            dimension(product.out),
            dimension(product.left),
        )
    )
    for p, path in enumerate(product.paths):
        left, right, out = (span[i] for span, i in zip(spans, path, strict=True))
        table[p, right, out, left] = product.coefficients(path).transpose(1, 2, 0)
    return table


def separate_paths(
    product: TensorProduct,
    features: Float[Array, "n u a K"],
    environment: Float[Array, "n u b"],
) -> list[Float[Array, "n u paths c K"]]:
    """CG_path(features, environment) of every path, by output irrep: the original's product."""
    left_spans, right_spans = slices(product.left), slices(product.right)
    results: dict[tuple[int, int, int], Array] = {}
    for i_left, span in enumerate(left_spans):
        paths = [path for path in product.paths if path[0] == i_left]
        matrices = [
            jnp.einsum(
                "nub,abc->nuca",
                environment[:, :, right_spans[path[1]]],
                jnp.asarray(product.coefficients(path), environment.dtype),
            )
            for path in paths
        ]
        out = jnp.einsum("nuca,nuak->nuck", jnp.concatenate(matrices, axis=2), features[:, :, span])
        ends = np.cumsum([matrix.shape[2] for matrix in matrices])[:-1]
        results |= dict(zip(paths, jnp.split(out, ends, axis=2), strict=True))
    return [
        jnp.stack([results[path] for path in product.paths if path[2] == i_out], axis=2)
        for i_out in range(len(product.out))
    ]
