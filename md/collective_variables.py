"""Collective variables: a few numbers that say where a system is, for biases to act on.

Each is a frozen, hashable dataclass whose ``value`` JAX differentiates. Distances are those to the
nearest periodic image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from md import cells
from md.cells import Periodicity
from md.state import State

Positions = Float[Array, "atoms 3"]
Cell = Float[Array, "3 3"]
Scalar = Float[Array, ""]


@runtime_checkable
class CollectiveVariable(Protocol):
    """A number that depends on positions and cell.

    Attributes:
        name: with its unit, for columns of tables (``distance_A``).
        period: after which the values repeat; None if they do not.
        atoms: indices of the atoms that it names.
    """

    @property
    def name(self) -> str: ...

    @property
    def period(self) -> float | None: ...

    @property
    def atoms(self) -> tuple[int, ...]: ...

    def value(self, positions: Positions, cell: Cell, pbc: Periodicity) -> Scalar:
        """From continuous positions (Å) and cell (Å); differentiable wherever it is defined."""
        ...


@dataclasses.dataclass(frozen=True)
class Distance:
    """Distance between two atoms, Å."""

    first: int
    second: int
    name: str = "distance_A"
    period: None = None

    def __post_init__(self) -> None:
        _check_distinct(self.name, self.atoms)

    @property
    def atoms(self) -> tuple[int, ...]:
        return self.first, self.second

    def value(self, positions: Positions, cell: Cell, pbc: Periodicity) -> Scalar:
        return _norm(_bond(positions, self.first, self.second, cell, pbc))


@dataclasses.dataclass(frozen=True)
class Angle:
    """Angle first-centre-last, radians from 0 to π."""

    first: int
    centre: int
    last: int
    name: str = "angle_rad"
    period: None = None

    def __post_init__(self) -> None:
        _check_distinct(self.name, self.atoms)

    @property
    def atoms(self) -> tuple[int, ...]:
        return self.first, self.centre, self.last

    def value(self, positions: Positions, cell: Cell, pbc: Periodicity) -> Scalar:
        u = _bond(positions, self.centre, self.first, cell, pbc)
        v = _bond(positions, self.centre, self.last, cell, pbc)
        return jnp.arctan2(_norm(jnp.cross(u, v)), jnp.sum(u * v))


@dataclasses.dataclass(frozen=True)
class Torsion:
    """Dihedral angle of four atoms in a chain, radians from −π to π; 0 is cis (IUPAC's sign)."""

    first: int
    second: int
    third: int
    fourth: int
    name: str = "torsion_rad"
    period: float = 2 * np.pi

    def __post_init__(self) -> None:
        _check_distinct(self.name, self.atoms)

    @property
    def atoms(self) -> tuple[int, ...]:
        return self.first, self.second, self.third, self.fourth

    def value(self, positions: Positions, cell: Cell, pbc: Periodicity) -> Scalar:
        a = _bond(positions, self.first, self.second, cell, pbc)
        b = _bond(positions, self.second, self.third, cell, pbc)
        c = _bond(positions, self.third, self.fourth, cell, pbc)
        ab, bc = jnp.cross(a, b), jnp.cross(b, c)
        return jnp.arctan2(_norm(b) * jnp.sum(a * bc), jnp.sum(ab * bc))


@dataclasses.dataclass(frozen=True)
class Coordination:
    """How many of some atoms are near some others: Σ_ij 1 / (1 + (r_ij / r_0)ⁿ).

    The switch is 1/2 at r_0, and must have died out at half the cell (only the nearest images are
    counted). An atom is not its own neighbour. Time and memory are those of all pairs of the two
    groups.

    Attributes:
        centres, others: indices of atoms.
        radius: r_0, Å.
        power: n; even.
    """

    centres: Sequence[int]
    others: Sequence[int]
    radius: float | int
    power: int = 6
    name: str = "coordination"
    period: None = None

    def __post_init__(self) -> None:
        for group in ("centres", "others"):
            object.__setattr__(self, group, tuple(int(index) for index in getattr(self, group)))
            if not getattr(self, group) or min(getattr(self, group)) < 0:
                raise ValueError(f"{self.name}: {group} must be indices of atoms, at least one")
        if not self.radius > 0:
            raise ValueError(f"{self.name}: radius must be positive, not {self.radius}")
        if self.power < 2 or self.power % 2:
            raise ValueError(f"{self.name}: power must be even and positive, not {self.power}")

    @property
    def atoms(self) -> tuple[int, ...]:
        return (*self.centres, *self.others)

    def value(self, positions: Positions, cell: Cell, pbc: Periodicity) -> Scalar:
        centres, others = np.asarray(self.centres), np.asarray(self.others)
        vectors = nearest_image(positions[others][None, :], positions[centres][:, None], cell, pbc)
        # even powers of the distance need no square root, which has no gradient at zero
        switch = 1 / (1 + (jnp.sum(vectors**2, axis=-1) / self.radius**2) ** (self.power // 2))
        return jnp.sum(jnp.where(centres[:, None] == others[None, :], 0, switch))


@dataclasses.dataclass(frozen=True)
class Volume:
    """Volume of the cell, Å³."""

    name: str = "volume_A3"
    period: None = None

    @property
    def atoms(self) -> tuple[int, ...]:
        return ()

    def value(self, positions: Positions, cell: Cell, pbc: Periodicity) -> Scalar:
        return cells.volume(cell)


@dataclasses.dataclass(frozen=True)
class Coordinate:
    """Coordinate of an atom on its continuous path along a direction in space, Å."""

    atom: int
    direction: Sequence[float | int] = (0.0, 0.0, 1.0)
    name: str = "coordinate_A"
    period: None = None

    def __post_init__(self) -> None:
        _check_distinct(self.name, self.atoms)
        length = float(np.linalg.norm(self.direction))
        if not (np.isfinite(length) and length > 0):
            raise ValueError(f"{self.name}: the direction {self.direction} has no length")
        x, y, z = (float(component / length) for component in self.direction)
        object.__setattr__(self, "direction", (x, y, z))

    @property
    def atoms(self) -> tuple[int, ...]:
        return (self.atom,)

    def value(self, positions: Positions, cell: Cell, pbc: Periodicity) -> Scalar:
        return jnp.sum(positions[self.atom] * jnp.asarray(self.direction, positions.dtype))


@dataclasses.dataclass(frozen=True)
class VariableFunction:
    """A plain function ``(positions, cell) -> number`` of continuous positions, as a variable."""

    function: Callable[[Array, Array], Array]
    name: str = "variable"
    period: float | None = None

    @property
    def atoms(self) -> tuple[int, ...]:
        return ()

    def value(self, positions: Positions, cell: Cell, pbc: Periodicity) -> Scalar:
        return jnp.asarray(self.function(positions, cell)).astype(positions.dtype)


def nearest_image(
    r_neighbour: Float[Array, "*#batch 3"],
    r_centre: Float[Array, "*#batch 3"],
    cell: Cell,
    pbc: Periodicity,
) -> Float[Array, "*batch 3"]:
    """Vector from a centre to the nearest periodic image of its neighbour, Å.

    Rounding fractional coordinates finds it in cells that are not very oblique; the 26 images
    around that one are tried as well, which is enough for any reduced cell.
    """
    if not any(pbc):
        return cells.difference(r_neighbour, r_centre)
    basis = cells.frame(cell, pbc)
    fractional = cells.fractional(cells.difference(r_neighbour, r_centre), basis)
    rounded = jnp.where(jnp.asarray(pbc), -jnp.round(fractional), 0).astype(jnp.int32)
    around = [(-1, 0, 1) if periodic else (0,) for periodic in pbc]
    shifts = rounded[..., None, :] + np.asarray(list(product(*around)), np.int32)
    vectors = cells.displacement(r_neighbour[..., None, :], r_centre[..., None, :], shifts, cell)
    nearest = jnp.argmin(jnp.sum(vectors**2, axis=-1), axis=-1)
    return jnp.take_along_axis(vectors, nearest[..., None, None], axis=-2)[..., 0, :]


def wrapped(difference: Any, period: float | None) -> Any:
    """A difference of two values of a variable, the shorter way round; of JAX or numpy."""
    if period is None:
        return difference
    return difference - period * (difference / period).round()


def check_atoms(variables: Sequence[CollectiveVariable], state: State) -> None:
    """Refuse variables of atoms that a state does not have: compiled code would take others."""
    n = int(np.sum(np.asarray(state.species) >= 0))
    for variable in variables:
        if variable.atoms and max(variable.atoms) >= n:
            raise ValueError(
                f"{variable.name}: there is no atom {max(variable.atoms)}, "
                f"only atoms from 0 to {n - 1}"
            )


def _bond(
    positions: Positions, start: int, end: int, cell: Cell, pbc: Periodicity
) -> Float[Array, " 3"]:
    return nearest_image(positions[end], positions[start], cell, pbc)


def _norm(vector: Float[Array, " 3"]) -> Scalar:
    """Length; with gradient zero, not NaN, where there is none."""
    squared = jnp.sum(vector**2)
    safe = jnp.where(squared > 0, squared, 1)
    return jnp.where(squared > 0, jnp.sqrt(safe), 0)


def _check_distinct(name: str, atoms: tuple[int, ...]) -> None:
    if min(atoms) < 0 or len(set(atoms)) < len(atoms):
        raise ValueError(f"{name}: atoms must be different indices from 0 on, not {atoms}")
