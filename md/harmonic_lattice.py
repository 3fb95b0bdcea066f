"""A crystal of linear springs: the one potential whose statistical mechanics is known exactly."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations, product
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

# Vectors to the nearest neighbours, in units of half the lattice constant; signs and orders vary.
_NEAREST = {"sc": (2, 0, 0), "bcc": (1, 1, 1), "fcc": (1, 1, 0)}


@struct.dataclass
class HarmonicLattice:
    """A Bravais crystal whose energy is quadratic in the displacements u of its atoms.

    E = ½ Σ_i Σ_b ½ (u_j − u_i) K_b (u_j − u_i),    K_b = k_along b̂b̂ᵀ + k_across (1 − b̂b̂ᵀ)

    over the bonds b of an atom i, where j is the atom at the bond's end (M. Born and K. Huang,
    Dynamical Theory of Crystal Lattices, 1954). A neighbour's bond is the one that its vector is
    nearest to: a model of small vibrations, blind to rotations (they cost energy) and meaningless
    once an atom has left its place by about a quarter of a bond. All species feel the same springs.

    Attributes:
        params: ``{"bonds": [B, 3] Å, "along": eV/Å², "across": eV/Å²}``.
        species: chemical symbols.
        capture: Å; a vector farther than this from every bond has no spring.
        cutoff: Å; the longest bond and ``capture``.
    """

    params: dict[str, Any]
    species: tuple[str, ...] = struct.field(pytree_node=False)
    capture: float = struct.field(pytree_node=False)
    cutoff: float = struct.field(pytree_node=False)

    @classmethod
    def create(
        cls,
        species: Sequence[str],
        bonds: Any,
        along: float | int,
        across: float | int = 0.0,
    ) -> HarmonicLattice:
        """A crystal from its bonds.

        Args:
            species: chemical symbols.
            bonds: [B, 3] lattice vectors to neighbours, Å; with each b also −b.
            along, across: spring constants along the bond and at right angles to it, eV/Å².

        Raises:
            ValueError: if the bonds are not closed under inversion.
        """
        vectors = np.asarray(bonds, float)
        apart = np.linalg.norm(vectors[:, None] - vectors[None, :], axis=-1)
        opposite = np.linalg.norm(vectors[:, None] + vectors[None, :], axis=-1)
        shortest = np.linalg.norm(vectors, axis=1).min()
        if opposite.min(axis=1).max() > 1e-6 * shortest:
            raise ValueError("bonds must hold with each vector b also −b")
        np.fill_diagonal(apart, np.inf)
        capture = min(float(apart.min()), shortest) / 2
        params = {
            "bonds": jnp.asarray(vectors, float),
            "along": jnp.asarray(along, float),
            "across": jnp.asarray(across, float),
        }
        reach = float(np.linalg.norm(vectors, axis=1).max()) + capture
        return cls(params, tuple(species), float(capture), reach)

    @classmethod
    def crystal(
        cls,
        species: Sequence[str],
        structure: str,
        lattice_constant: float | int,
        along: float | int,
        across: float | int = 0.0,
    ) -> HarmonicLattice:
        """Springs between nearest neighbours of a cubic crystal: ``"sc"``, ``"bcc"`` or ``"fcc"``.

        The cubic axes are those of space; ``lattice_constant`` is in Å.
        """
        if structure not in _NEAREST:
            raise ValueError(f"structure must be one of {', '.join(_NEAREST)}, not {structure!r}")
        half = np.array(_NEAREST[structure])
        bonds = {
            tuple(sign * component for sign, component in zip(signs, order, strict=True))
            for order in permutations(half.tolist())
            for signs in product((1, -1), repeat=3)
        }
        vectors = np.array(sorted(bonds)) * lattice_constant / 2
        return cls.create(species, vectors, along, across)

    @property
    def pair_cutoffs(self) -> None:
        return None

    @property
    def reference_energies(self) -> tuple[float, ...]:
        return (0.0,) * len(self.species)

    @property
    def bytes_per_slot(self) -> int:
        return 64 * len(self.params["bonds"]) if self.params else 1024

    @property
    def pairwise(self) -> bool:
        return True

    def dynamical_matrix(
        self, wavevectors: Float[np.ndarray, "Q 3"], mass: float | int
    ) -> Float[np.ndarray, "Q 3 3"]:
        """D(q) = Σ_b K_b (1 − cos q·b)/m, eV/(Å²·amu): its eigenvalues are ω².

        Args:
            wavevectors: 1/Å, with the factor 2π.
            mass: amu; frequencies follow in the engine's unit of time (:mod:`md.units`).
        """
        bonds = np.asarray(self.params["bonds"], float)
        along, across = float(self.params["along"]), float(self.params["across"])
        unit = bonds / np.linalg.norm(bonds, axis=1, keepdims=True)
        projector = unit[:, :, None] * unit[:, None, :]
        springs = along * projector + across * (np.eye(3) - projector)
        return np.einsum("qb,bij->qij", 1 - np.cos(wavevectors @ bonds.T), springs) / mass

    def site_energies(
        self,
        params: dict[str, Any],
        vectors: Float[Array, "n K 3"],
        mask: Bool[Array, "n K"],
        centre_species: Int[Array, " n"],
        neighbour_species: Int[Array, "n K"],
    ) -> Float[Array, " n"]:
        bonds = params["bonds"].astype(vectors.dtype)
        nearest = jnp.argmin(jnp.sum((vectors[:, :, None] - bonds) ** 2, axis=-1), axis=-1)
        bond = bonds[nearest]
        stretch = vectors - bond
        squared = jnp.sum(stretch**2, axis=-1)
        along = jnp.sum(stretch * bond, axis=-1) ** 2 / jnp.sum(bond**2, axis=-1)
        energies = (params["along"] * along + params["across"] * (squared - along)) / 2
        inside = mask & (squared < self.capture**2) & (centre_species >= 0)[:, None]
        return jnp.sum(jnp.where(inside, energies, 0), axis=-1) / 2
