"""Irreps, tensor-product paths and Clebsch-Gordan coefficients, all found at trace time."""

from __future__ import annotations

import dataclasses
import functools
import math

import e3nn_jax as e3nn
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from allegro_jax.contraction import contract

Irrep = tuple[int, int]  # (degree l, parity ±1)
SCALAR: Irrep = (0, 1)


def harmonics(l_max: int) -> tuple[Irrep, ...]:
    """The irreps of the spherical harmonics up to ``l_max``: 0e + 1o + 2e + …"""
    return tuple((degree, (-1) ** degree) for degree in range(l_max + 1))


def dimension(irreps: tuple[Irrep, ...]) -> int:
    return sum(2 * degree + 1 for degree, _ in irreps)


def slices(irreps: tuple[Irrep, ...]) -> tuple[slice, ...]:
    """Where each irrep's components stand in the concatenation of all."""
    ends = np.cumsum([0] + [2 * degree + 1 for degree, _ in irreps])
    return tuple(slice(int(a), int(b)) for a, b in zip(ends[:-1], ends[1:], strict=True))


def degree_of_component(l_max: int) -> np.ndarray:
    """The degree l of each of the (l_max + 1)² components of the harmonics."""
    return np.repeat(np.arange(l_max + 1), 2 * np.arange(l_max + 1) + 1)


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

    Features start as harmonics; a layer may produce every irrep up to ``l_max`` (of both parities if
    ``parity``), the last one scalars only. Dropped are irreps that no path reaches and, from the end
    backwards, those from which no path leads to a kept irrep.
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
        TensorProduct.between(left, environment, out)
        for left, out in zip(stages[:-1], stages[1:], strict=True)
    )


def environment_sum(
    weights: Float[Array, "n K degrees u"], harmonics: Float[Array, "n K b"], l_max: int
) -> Float[Array, "n b u"]:
    """Σ_k weights[n, k, l(b), u] · harmonics[n, k, b], as one matrix product per atom."""
    n, neighbours, degrees, channels = weights.shape
    selected = np.eye(degrees, dtype=bool)[degree_of_component(l_max)].T  # [degrees, b]
    spread = jnp.where(selected, harmonics[:, :, None, :], 0)
    return jnp.einsum(
        "nkb,nku->nbu",
        spread.reshape(n, neighbours * degrees, -1),
        weights.reshape(n, neighbours * degrees, channels),
    )


def weighted_harmonics(
    weights: Float[Array, "n K degrees u"], harmonics: Float[Array, "n K b"], l_max: int
) -> Float[Array, "n K b u"]:
    """weights[n, k, l(b), u] · harmonics[n, k, b]."""
    return jnp.concatenate(
        [
            weights[:, :, degree, None, :] * harmonics[:, :, span, None]
            for degree, span in enumerate(slices(tuple((d, 1) for d in range(l_max + 1))))
        ],
        axis=2,
    )


def mix_paths(
    product: TensorProduct,
    features: Float[Array, "n K a u"],
    environment: Float[Array, "n b u"],
    weights: Float[Array, "u paths"] | Float[Array, " paths"],
) -> Float[Array, "n K c u"]:
    """Σ_paths W[u, path] · CG_path(features, environment): the product of the modern architecture.

    The environment belongs to the atom, so it is first contracted with the weighted coefficients to
    one matrix per atom and channel; the neighbours then see a vector-matrix product.
    """
    out_spans = slices(product.out)
    left_spans = slices(product.left)
    right_spans = slices(product.right)
    coefficients = np.zeros(
        (
            len(product.paths),
            dimension(product.right),
            dimension(product.left),
            dimension(product.out),
        )
    )
    for p, (i_left, i_right, i_out) in enumerate(product.paths):
        values = product.coefficients((i_left, i_right, i_out))
        coefficients[p, right_spans[i_right], left_spans[i_left], out_spans[i_out]] = np.swapaxes(
            values, 0, 1
        )
    coefficients = jnp.asarray(coefficients, weights.dtype)
    if weights.ndim == 1:
        table = jnp.einsum("p,pbac->bac", weights, coefficients)
        matrix = jnp.einsum("nbu,bac->nacu", environment, table)
    else:
        table = jnp.einsum("up,pbac->ubac", weights, coefficients)
        matrix = jnp.einsum("nbu,ubac->nacu", environment, table)
    return contract(features, matrix)


def separate_paths(
    product: TensorProduct,
    features: Float[Array, "n K a u"],
    environment: Float[Array, "n b u"],
) -> list[Float[Array, "n K c paths u"]]:
    """CG_path(features, environment) for every path, grouped by output irrep (original architecture)."""
    left_spans, right_spans = slices(product.left), slices(product.right)
    results: dict[tuple[int, int, int], Array] = {}
    for i_left in range(len(product.left)):
        paths = [path for path in product.paths if path[0] == i_left]
        if not paths:
            continue
        matrices = [
            jnp.einsum(
                "nbu,abc->nacu",
                environment[:, right_spans[path[1]]],
                jnp.asarray(product.coefficients(path), environment.dtype),
            )
            for path in paths
        ]
        out = contract(features[:, :, left_spans[i_left]], jnp.concatenate(matrices, axis=2))
        sizes = np.cumsum([matrix.shape[2] for matrix in matrices])[:-1]
        results |= dict(zip(paths, jnp.split(out, sizes, axis=2), strict=True))
    return [
        jnp.stack([results[path] for path in product.paths if path[2] == i_out], axis=3)
        for i_out in range(len(product.out))
    ]
