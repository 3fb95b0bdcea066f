"""Restraints and walls: biases without a memory that hold a system where it is wanted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from md import bias, cells, collective_variables
from md.bias import Static
from md.cells import Periodicity
from md.collective_variables import CollectiveVariable, wrapped
from md.state import State, hashable_indices, real_atoms

Number = Float[Array, ""] | float | int
Atoms = Sequence[int] | np.ndarray | None


@struct.dataclass
class Restraint(Static):
    """Harmonic restraint of a collective variable: ½ k (ξ − ξ₀)².

    Attributes:
        variable: ξ.
        centre: ξ₀, in the variable's unit.
        stiffness: k, eV per square of that unit.
    """

    variable: CollectiveVariable = struct.field(pytree_node=False)
    centre: Number
    stiffness: Number

    def init(self, state: State) -> None:
        collective_variables.check_atoms([self.variable], state)

    def energy(
        self,
        variables: Any,
        positions: Float[Array, "atoms 3"],
        cell: Float[Array, "3 3"],
        pbc: Periodicity,
    ) -> Float[Array, ""]:
        value = self.variable.value(positions, cell, pbc)
        return self.stiffness / 2 * wrapped(value - self.centre, self.variable.period) ** 2


@struct.dataclass
class VariableWall(Static):
    """Wall for a collective variable: ½ k d², with d how far it is beyond a limit.

    Attributes:
        variable: ξ, without a period.
        limit: in the variable's unit.
        stiffness: k, eV per square of that unit.
        side: ``"upper"`` keeps the variable below the limit, ``"lower"`` above it.
    """

    variable: CollectiveVariable = struct.field(pytree_node=False)
    limit: Number
    stiffness: Number
    side: str = struct.field(pytree_node=False, default="upper")

    def __post_init__(self) -> None:
        if self.side not in ("upper", "lower"):
            raise ValueError(f'side must be "upper" or "lower", not {self.side!r}')
        if self.variable.period is not None:
            raise ValueError(f"{self.variable.name} goes round and round: no wall can limit it")

    def init(self, state: State) -> None:
        collective_variables.check_atoms([self.variable], state)

    def energy(
        self,
        variables: Any,
        positions: Float[Array, "atoms 3"],
        cell: Float[Array, "3 3"],
        pbc: Periodicity,
    ) -> Float[Array, ""]:
        outward = 1 if self.side == "upper" else -1
        beyond = outward * (self.variable.value(positions, cell, pbc) - self.limit)
        return self.stiffness / 2 * jnp.maximum(beyond, 0) ** 2


@struct.dataclass
class PositionRestraint(Static):
    """Springs between atoms and the places where they were at the start: ½ k Σ_i |r_i − r_i⁰|².

    The places are fixed in space: they do not follow a cell that changes.

    Attributes:
        stiffness: k, eV/Å².
        atoms: indices of the restrained atoms; all unless given.
        places: [atoms, 3] Å, on the continuous paths; those at the start of the run unless given.
    """

    stiffness: Number
    atoms: Atoms = struct.field(pytree_node=False, default=None)
    places: Float[Array, "chosen 3"] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "atoms", hashable_indices(self.atoms))

    def init(self, state: State) -> tuple[Array, Array]:
        """Places of all atoms (Å), and the stiffness of each (eV/Å²) in units of k."""
        chosen = _members(state, self.atoms)
        places = bias.path(state)
        if self.places is not None:
            rows = np.flatnonzero(np.asarray(chosen)) if self.atoms is None else self.atoms
            if np.shape(self.places) != (len(rows), 3):
                raise ValueError(
                    f"places must have the shape ({len(rows)}, 3), not {np.shape(self.places)}"
                )
            places = places.at[np.asarray(rows)].set(self.places)
        return places, chosen.astype(places.dtype)

    def energy(
        self,
        variables: tuple[Array, Array],
        positions: Float[Array, "atoms 3"],
        cell: Float[Array, "3 3"],
        pbc: Periodicity,
    ) -> Float[Array, ""]:
        places, chosen = variables
        squared = jnp.sum(cells.difference(positions, places) ** 2, axis=-1)
        return self.stiffness / 2 * jnp.sum(chosen * squared)


@struct.dataclass
class PlaneWall(Static):
    """A plane that atoms cannot pass: ½ k Σ_i d_i², with d_i how far atom i is beyond it.

    Atoms are kept where normal · r ≤ offset. Meant for directions that do not repeat.

    Attributes:
        normal: [3] direction that points out of the allowed half; of any length.
        offset: of the plane from the origin along the normal, Å.
        stiffness: k, eV/Å².
        atoms: indices of the atoms that feel it; all unless given.
    """

    normal: Sequence[float | int] = struct.field(pytree_node=False)
    offset: Number
    stiffness: Number
    atoms: Atoms = struct.field(pytree_node=False, default=None)

    def __post_init__(self) -> None:
        object.__setattr__(self, "atoms", hashable_indices(self.atoms))
        object.__setattr__(self, "normal", _vector(self.normal, "normal"))
        if not np.linalg.norm(self.normal) > 0:
            raise ValueError(f"the normal {self.normal} of a wall has no length")

    def init(self, state: State) -> Array:
        return _members(state, self.atoms)

    def energy(
        self,
        variables: Array,
        positions: Float[Array, "atoms 3"],
        cell: Float[Array, "3 3"],
        pbc: Periodicity,
    ) -> Float[Array, ""]:
        normal = np.asarray(self.normal) / np.linalg.norm(self.normal)
        height = jnp.sum(positions * jnp.asarray(normal, positions.dtype), axis=-1)
        return _penalty(height - self.offset, variables, self.stiffness)


@struct.dataclass
class SphereWall(Static):
    """A sphere that atoms cannot leave: ½ k Σ_i d_i², with d_i how far atom i is outside.

    Attributes:
        centre: [3] Å.
        radius: Å.
        stiffness: k, eV/Å².
        atoms: indices of the atoms that feel it; all unless given.
    """

    centre: Sequence[float | int] = struct.field(pytree_node=False)
    radius: Number
    stiffness: Number
    atoms: Atoms = struct.field(pytree_node=False, default=None)

    def __post_init__(self) -> None:
        object.__setattr__(self, "atoms", hashable_indices(self.atoms))
        object.__setattr__(self, "centre", _vector(self.centre, "centre"))

    def init(self, state: State) -> Array:
        return _members(state, self.atoms)

    def energy(
        self,
        variables: Array,
        positions: Float[Array, "atoms 3"],
        cell: Float[Array, "3 3"],
        pbc: Periodicity,
    ) -> Float[Array, ""]:
        outward = cells.difference(positions, jnp.asarray(self.centre, positions.dtype))
        squared = jnp.sum(outward**2, axis=-1)
        # the root has no gradient at the centre, where it is not needed either
        distance = jnp.sqrt(jnp.where(squared > 0, squared, 1))
        distance = jnp.where(squared > 0, distance, 0)
        return _penalty(distance - self.radius, variables, self.stiffness)


def _penalty(beyond: Array, chosen: Array, stiffness: Number) -> Array:
    return stiffness / 2 * jnp.sum(jnp.where(chosen, jnp.maximum(beyond, 0) ** 2, 0))


def _vector(values: Any, name: str) -> tuple[float, ...]:
    if len(values) != 3:
        raise ValueError(f"{name} must be three numbers, along x, y and z, not {values}")
    return tuple(float(value) for value in values)


def _members(state: State, atoms: Atoms) -> Array:
    """[N] which atoms are meant; never padded ones."""
    real = real_atoms(state.species)
    if atoms is None:
        return real
    n = int(np.sum(np.asarray(real)))
    if not atoms or min(atoms) < 0 or max(atoms) >= n:
        raise ValueError(f"atoms must be indices from 0 to {n - 1}, not {atoms}")
    return real & jnp.zeros(len(real), bool).at[np.asarray(atoms)].set(True)
