"""Pair potentials: Lennard-Jones and Morse, cut and shifted, and the ZBL repulsion of nuclei.

Each is a :class:`md.local_potential.LocalPotential` whose site energy is half the sum over the
atom's pairs, E_i = ½ Σ_j u(r_ij). ``params`` holds one symmetric table [T, T] per coefficient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from ase.data import atomic_numbers
from flax import struct
from jaxtyping import Array, Float, Int

COULOMB = 14.399645
"""e²/4πε₀, eV·Å, as LAMMPS' metal units have it."""

_ZBL_LENGTH = 0.46850  # Å
_ZBL_TERMS = ((0.02817, 0.20162), (0.28022, 0.40290), (0.50986, 0.94229), (0.18175, 3.19980))


@struct.dataclass
class PairPotential:
    """What pair potentials share; each of them states ``pair_energies``.

    Attributes:
        params: coefficients.
        species: chemical symbols, in the order of the tables.
        cutoff: Å.
    """

    params: Any
    species: tuple[str, ...] = struct.field(pytree_node=False)
    cutoff: float = struct.field(pytree_node=False)

    @property
    def pair_cutoffs(self) -> None:
        return None

    @property
    def reference_energies(self) -> tuple[float, ...]:
        return (0.0,) * len(self.species)

    @property
    def bytes_per_slot(self) -> int:
        return 128

    @property
    def pairwise(self) -> bool:
        return True

    def pair_energies(
        self, params: Any, squared: Array, of_pair: Callable[[Array], Array]
    ) -> Float[Array, "n K"]:
        """u(r) of each slot, eV.

        Args:
            params: coefficients.
            squared: [n, K] r², Å²; that of the cutoff where a slot is empty.
            of_pair: looks each slot's species up in a table [T, T].
        """
        raise NotImplementedError

    def site_energies(
        self,
        params: Any,
        vectors: Float[Array, "n K 3"],
        mask: Any,
        centre_species: Int[Array, " n"],
        neighbour_species: Int[Array, "n K"],
    ) -> Float[Array, " n"]:
        squared = jnp.sum(vectors**2, axis=-1)
        inside = mask & (squared < self.cutoff**2) & (centre_species >= 0)[:, None]
        # the inner where keeps 1/0 out of the gradient of masked slots
        squared = jnp.where(inside, squared, self.cutoff**2)

        def of_pair(table: Array) -> Array:
            if table.shape == (1, 1):
                return table[0, 0]  # a gather would cost as much as the energy
            return table[centre_species[:, None], neighbour_species]

        energies = self.pair_energies(params, squared, of_pair)
        return jnp.sum(jnp.where(inside, energies, 0), axis=-1) / 2


@struct.dataclass
class LennardJones(PairPotential):
    """Lennard-Jones mixture, cut and shifted so that the energy is continuous at the cutoff.

    u(r) = 4ε[(σ/r)¹² − (σ/r)⁶] − u(r_c).

    Attributes:
        params: ``{"epsilon": [T, T] eV, "sigma": [T, T] Å}``.
    """

    @classmethod
    def create(
        cls, species: Sequence[str], epsilon: Any, sigma: Any, cutoff: float | int
    ) -> LennardJones:
        """A mixture from ε (eV) and σ (Å).

        Numbers of each species [T], or one for all, are combined by the Lorentz-Berthelot rules
        (ε_ab = √(ε_a ε_b), σ_ab = (σ_a + σ_b)/2); symmetric tables [T, T] are taken as they are.
        """
        count = len(species)
        epsilon, sigma = jnp.asarray(epsilon, float), jnp.asarray(sigma, float)
        if epsilon.ndim < 2:
            each = jnp.broadcast_to(epsilon, (count,))
            epsilon = jnp.sqrt(each[:, None] * each[None, :])
        if sigma.ndim < 2:
            each = jnp.broadcast_to(sigma, (count,))
            sigma = (each[:, None] + each[None, :]) / 2
        params = {
            "epsilon": pair_table(epsilon, count, "epsilon"),
            "sigma": pair_table(sigma, count, "sigma"),
        }
        return cls(params, tuple(species), float(cutoff))

    def pair_energies(
        self, params: Any, squared: Array, of_pair: Callable[[Array], Array]
    ) -> Float[Array, "n K"]:
        epsilon, sigma = params["epsilon"], params["sigma"]
        at_cutoff = (sigma / self.cutoff) ** 6
        shift = at_cutoff - at_cutoff**2
        sixth = (of_pair(sigma**2) / squared) ** 3
        return 4 * of_pair(epsilon) * (sixth**2 - sixth + of_pair(shift))


@struct.dataclass
class Morse(PairPotential):
    """Morse potential, cut and shifted so that the energy is continuous at the cutoff.

    u(r) = D[(1 − e^(−a(r − d)))² − 1] − u(r_c)    (P. M. Morse, Phys. Rev. 34, 57 (1929))

    Attributes:
        params: ``{"depth": D [T, T] eV, "steepness": a [T, T] 1/Å, "distance": d [T, T] Å}``.
    """

    @classmethod
    def create(
        cls,
        species: Sequence[str],
        depth: Any,
        steepness: Any,
        distance: Any,
        cutoff: float | int,
    ) -> Morse:
        """From D (eV), a (1/Å) and d (Å): numbers for all pairs or symmetric tables [T, T]."""
        given = {"depth": depth, "steepness": steepness, "distance": distance}
        params = {name: pair_table(value, len(species), name) for name, value in given.items()}
        return cls(params, tuple(species), float(cutoff))

    def pair_energies(
        self, params: Any, squared: Array, of_pair: Callable[[Array], Array]
    ) -> Float[Array, "n K"]:
        depth, steepness, distance = params["depth"], params["steepness"], params["distance"]

        def energy(r: Array, a: Array, d: Array) -> Array:  # in units of D
            decay = jnp.exp(-a * (r - d))
            return decay * (decay - 2)

        at_cutoff = energy(jnp.full_like(distance, self.cutoff), steepness, distance)
        found = energy(jnp.sqrt(squared), of_pair(steepness), of_pair(distance))
        return of_pair(depth) * (found - of_pair(at_cutoff))


@struct.dataclass
class ZBL(PairPotential):
    """The Ziegler-Biersack-Littmark repulsion of nuclei, switched off as LAMMPS' ``zbl`` is.

    u(r) = E(r) + S(r), with E of :func:`screened_repulsion`, t = r − r_in, w = r_c − r_in:
    S = C + (A/3 t³ + B/4 t⁴ beyond r_in),

        A = (w E″ − 3E′)/w²    B = (2E′ − w E″)/w³    C = −E + w E′/2 − w² E″/12    (all at r_c)

    so that energy, force and curvature vanish at the cutoff.

    Attributes:
        params: ``{"numbers": [T]}``, nuclear charges.
        inner: r_in, Å.
    """

    inner: float = struct.field(pytree_node=False)

    @classmethod
    def create(cls, species: Sequence[str], inner: float | int, cutoff: float | int) -> ZBL:
        """The repulsion between nuclei of these elements."""
        if not 0 <= inner < cutoff:
            raise ValueError(f"inner must lie between 0 and the cutoff, {cutoff} Å, not {inner}")
        numbers = jnp.asarray([atomic_numbers[symbol] for symbol in species], float)
        return cls({"numbers": numbers}, tuple(species), float(cutoff), float(inner))

    def pair_energies(
        self, params: Any, squared: Array, of_pair: Callable[[Array], Array]
    ) -> Float[Array, "n K"]:
        z_i, z_j = jnp.broadcast_arrays(params["numbers"][:, None], params["numbers"][None, :])

        def energy(r: Array) -> Array:
            return screened_repulsion(r, z_i, z_j)

        def slope(r: Array) -> Array:
            return jax.jvp(energy, (r,), (jnp.ones_like(r),))[1]

        end = jnp.full_like(z_i, self.cutoff)
        second = jax.jvp(slope, (end,), (jnp.ones_like(end),))[1]
        first, width = slope(end), self.cutoff - self.inner
        a = (width * second - 3 * first) / width**2
        b = (2 * first - width * second) / width**3
        c = -energy(end) + width * first / 2 - width**2 * second / 12

        r = jnp.sqrt(squared)
        t = jnp.maximum(r - self.inner, 0)
        switch = of_pair(c) + t**3 * (of_pair(a) / 3 + t * of_pair(b) / 4)
        return screened_repulsion(r, of_pair(z_i), of_pair(z_j)) + switch


def screened_repulsion(
    distances: Float[Array, "*batch"],
    z_i: Float[Array, "*#batch"],
    z_j: Float[Array, "*#batch"],
) -> Float[Array, "*batch"]:
    """The Ziegler-Biersack-Littmark repulsion of two nuclei, eV.

    E(r) = k Z_i Z_j φ(ρ)/r, ρ = (Z_i^0.23 + Z_j^0.23) r / 0.46850 Å, φ a sum of four exponentials
    (J. F. Ziegler, J. P. Biersack and U. Littmark, The Stopping and Range of Ions in Matter, 1985).
    """
    rho = (z_i**0.23 + z_j**0.23) * distances / _ZBL_LENGTH
    screening = sum(c * jnp.exp(-d * rho) for c, d in _ZBL_TERMS)
    return COULOMB * z_i * z_j / distances * screening


def pair_table(value: Any, count: int, name: str) -> Float[Array, "T T"]:
    """A symmetric table [T, T] from one number for all pairs, or from a table.

    Raises:
        ValueError: if the table has another shape or is not symmetric.
    """
    table = jnp.asarray(value, float)
    if table.ndim == 0:
        table = jnp.full((count, count), table)
    if table.shape != (count, count) or not jnp.array_equal(table, table.T, equal_nan=True):
        raise ValueError(
            f"{name} must be one number or a symmetric table of {count} × {count} species"
        )
    return table
