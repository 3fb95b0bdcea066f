"""Bias: any extra energy of positions and cell, with variables of its own where it has a memory.

A bias is a frozen pytree. Plain JAX functions ``energy(positions, cell)`` serve as well
(:func:`as_bias`), and so do several at once. Positions are on their continuous path (they never
jump when an atom crosses the boundary), so a bias that means distances between atoms must ask for
the nearest image itself, as those of :mod:`md.collective_variables` do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jaxtyping import Array, Float

from md import cells
from md.cells import Periodicity
from md.state import State

Table = dict[str, np.ndarray]
Scalar = Float[Array, ""] | float


@runtime_checkable
class Bias(Protocol):
    """An energy added to that of the potential; a frozen pytree."""

    def init(self, state: State) -> Any:
        """Variables at the start of a run, a pytree (None without a memory); on the host."""
        ...

    def reserve(self, variables: Any, steps: int) -> Any:
        """Variables with room for so many more steps, on the host: before each compiled chunk.

        Shapes change seldom, for each change compiles the chunk anew.
        """
        ...

    def energy(
        self,
        variables: Any,
        positions: Float[Array, "atoms 3"],
        cell: Float[Array, "3 3"],
        pbc: Periodicity,
    ) -> Float[Array, ""]:
        """Energy in eV from continuous positions and cell in Å; differentiable, compiled."""
        ...

    def update(self, variables: Any, state: State) -> tuple[Any, Float[Array, ""]]:
        """Variables after a step that led to ``state``, and what that adds to the energy, eV.

        The update may change the energy at the present positions, but not the forces: those of the
        state stay right.
        """
        ...

    def results(self, variables: Any) -> dict[str, Table]:
        """Tables to be written at the end, by name; on the host."""
        ...


class Static:
    """What a bias without a memory need not say."""

    def init(self, state: State) -> Any:
        return None

    def reserve(self, variables: Any, steps: int) -> Any:
        return variables

    def update(self, variables: Any, state: State) -> tuple[Any, Float[Array, ""]]:
        return variables, jnp.zeros((), state.positions.dtype)

    def results(self, variables: Any) -> dict[str, Table]:
        return {}


@struct.dataclass
class BiasFunction(Static):
    """A plain function ``(positions [N, 3], cell [3, 3]) -> eV`` of continuous positions in Å."""

    function: Callable[[Array, Array], Array] = struct.field(pytree_node=False)

    def energy(
        self,
        variables: Any,
        positions: Float[Array, "atoms 3"],
        cell: Float[Array, "3 3"],
        pbc: Periodicity,
    ) -> Float[Array, ""]:
        energy = jnp.asarray(self.function(positions, cell))
        if energy.shape != ():
            raise ValueError(
                f"a bias must return one energy, but {_name(self.function)} returns an array of "
                f"shape {energy.shape}: sum it"
            )
        return energy.astype(positions.dtype)


@struct.dataclass
class Sum:
    """Several biases at once; the variables are a tuple of theirs."""

    terms: tuple[Bias, ...]

    def init(self, state: State) -> tuple[Any, ...]:
        return tuple(term.init(state) for term in self.terms)

    def reserve(self, variables: tuple[Any, ...], steps: int) -> tuple[Any, ...]:
        return tuple(term.reserve(v, steps) for term, v in self._pairs(variables))

    def energy(
        self,
        variables: tuple[Any, ...],
        positions: Float[Array, "atoms 3"],
        cell: Float[Array, "3 3"],
        pbc: Periodicity,
    ) -> Float[Array, ""]:
        total = jnp.zeros((), positions.dtype)
        for term, own in self._pairs(variables):
            total = total + term.energy(own, positions, cell, pbc)
        return total

    def update(
        self, variables: tuple[Any, ...], state: State
    ) -> tuple[tuple[Any, ...], Float[Array, ""]]:
        updates = [term.update(own, state) for term, own in self._pairs(variables)]
        zero = jnp.zeros((), state.positions.dtype)
        return tuple(new for new, _ in updates), sum((added for _, added in updates), zero)

    def results(self, variables: tuple[Any, ...]) -> dict[str, Table]:
        tables: dict[str, Table] = {}
        for term, own in self._pairs(variables):
            for name, table in term.results(own).items():
                number = sum(other.partition("-")[0] == name for other in tables)
                tables[f"{name}-{number + 1}" if number else name] = table
        return tables

    def _pairs(self, variables: tuple[Any, ...]) -> list[tuple[Bias, Any]]:
        return list(zip(self.terms, variables, strict=True))


def as_bias(bias: Any) -> Bias:
    """A bias from a bias, a plain function of positions and cell, or a sequence of these.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(bias, Sequence) and not isinstance(bias, str):
        return Sum(tuple(as_bias(term) for term in bias))
    if isinstance(bias, Bias):
        return bias
    if callable(bias):
        return BiasFunction(bias)
    raise ValueError(
        f"a bias is a function of positions and cell, an object of md.bias.Bias, or a list of "
        f"these, not {bias!r}"
    )


def path(state: State) -> Float[Array, "atoms 3"]:
    """Positions on their continuous path, Å."""
    return cells.translate(state.positions, state.images, state.cell)


def forces(
    bias: Bias, variables: Any, state: State
) -> tuple[Float[Array, ""], Float[Array, "atoms 3"], Float[Array, "3 3"]]:
    """Energy (eV), forces (eV/Å) and virial dE/dε (eV) of a bias at a state; compiled.

    Under a homogeneous strain, r → r (1 + ε) of positions and lattice vectors alike,

        dE/dε = Σ_i r_i ⊗ ∂E/∂r_i + Σ_d cell_d ⊗ ∂E/∂cell_d.

    Anything that is fixed in space (the reference of a position restraint, a wall) does not take
    part in the strain.
    """
    positions = path(state)

    def energy(positions: Array, cell: Array) -> Array:
        return bias.energy(variables, positions, cell, state.pbc)

    value, (g_positions, g_cell) = jax.value_and_grad(energy, argnums=(0, 1))(positions, state.cell)
    virial = _outer(positions, g_positions) + _outer(state.cell, g_cell)
    return value, -g_positions, virial


def _outer(vectors: Float[Array, "n 3"], gradients: Float[Array, "n 3"]) -> Float[Array, "3 3"]:
    """Σ r ⊗ g."""
    return jnp.einsum("ni,nj->ij", vectors, gradients, precision=lax.Precision.HIGHEST)


def _name(function: Any) -> str:
    return getattr(function, "__name__", repr(function))
