"""Irreps, tensor-product paths and Clebsch-Gordan coefficients, all found at trace time."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math

import e3nn_jax as e3nn
import numpy as np
from jax import Array
from jaxtyping import Float

from allegro_jax.config import AllegroConfig

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


def products_of(config: AllegroConfig) -> tuple[TensorProduct, ...]:
    """The products of a model's layers."""
    return tensor_products(config.l_max, config.parity, config.num_layers)


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


@functools.cache
def coefficient_table(product: TensorProduct) -> np.ndarray:
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


def degrees_of_components(components: int) -> np.ndarray:
    """The degree of each component of harmonics that have so many in all."""
    degrees = np.arange(math.isqrt(components))
    return np.repeat(degrees, 2 * degrees + 1)
