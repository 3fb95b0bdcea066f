"""The seam between an interatomic potential and everything that drives one."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int


@runtime_checkable
class LocalPotential(Protocol):
    """An energy that is a sum of site energies, each a function of one atom's neighbours alone.

    A local potential is a frozen pytree: ``params`` are its leaves, all else is static (hashable).

    Attributes:
        params: weights, handed to :meth:`site_energies` explicitly so that they can be traced,
            differentiated, or given a leading axis (a committee).
        species: chemical symbols; species indices refer to this order.
        cutoff: Å; atoms farther apart do not interact.
        pair_cutoffs: optional directed table ``[centre][neighbour]`` in Å that prunes neighbour
            lists.
        reference_energies: eV per species. They are *not* part of the site energies: added on the
            host in float64, they would swallow the digits of a float32 sum.

    It may also have ``bytes_per_slot``, the memory that the value and gradient of one neighbour
    take, from which the size of blocks is chosen.
    """

    params: Any

    @property
    def species(self) -> tuple[str, ...]: ...

    @property
    def cutoff(self) -> float: ...

    @property
    def pair_cutoffs(self) -> tuple[tuple[float, ...], ...] | None: ...

    @property
    def reference_energies(self) -> tuple[float, ...]: ...

    def site_energies(
        self,
        params: Any,
        vectors: Float[Array, "n K 3"],
        mask: Bool[Array, "n K"],
        centre_species: Int[Array, " n"],
        neighbour_species: Int[Array, "n K"],
    ) -> Float[Array, " n"]:
        """Energies of ``n`` atoms, eV, from the dense neighbourhoods of a block of atoms.

        Args:
            params: the potential's weights.
            vectors: r_neighbour − r_centre, Å. Masked slots may hold anything finite, also zero.
            mask: which slots hold a neighbour. It may include atoms beyond the potential's cutoff
                (the skin of a neighbour list): they contribute exactly nothing.
            centre_species: species index of each row; −1 marks a padded row, whose energy is 0.
            neighbour_species: species index of each slot (any valid index where masked).

        Values and gradients are finite in padded rows and slots.
        """
        ...


@struct.dataclass
class LennardJones:
    """Lennard-Jones mixture, cut and shifted so that the energy is continuous at the cutoff.

    u(r) = 4ε[(σ/r)¹² − (σ/r)⁶] − u(r_c); each atom of a pair carries half of it.

    Attributes:
        params: ``{"epsilon": [T, T] eV, "sigma": [T, T] Å}``, symmetric tables.
        species, cutoff: as in :class:`LocalPotential`.
    """

    params: dict[str, Float[Array, "T T"]]
    species: tuple[str, ...] = struct.field(pytree_node=False)
    cutoff: float = struct.field(pytree_node=False)

    @classmethod
    def create(
        cls,
        species: tuple[str, ...] | list[str],
        epsilon: Any,
        sigma: Any,
        cutoff: float,
    ) -> LennardJones:
        """A mixture from per-species ε (eV) and σ (Å), by the Lorentz-Berthelot rules."""
        eps = jnp.broadcast_to(jnp.asarray(epsilon, float), (len(species),))
        sig = jnp.broadcast_to(jnp.asarray(sigma, float), (len(species),))
        params = {
            "epsilon": jnp.sqrt(eps[:, None] * eps[None, :]),
            "sigma": (sig[:, None] + sig[None, :]) / 2,
        }
        return cls(params, tuple(species), float(cutoff))

    @property
    def pair_cutoffs(self) -> None:
        return None

    @property
    def bytes_per_slot(self) -> int:
        return 128

    @property
    def reference_energies(self) -> tuple[float, ...]:
        return (0.0,) * len(self.species)

    def site_energies(
        self,
        params: dict[str, Float[Array, "T T"]],
        vectors: Float[Array, "n K 3"],
        mask: Bool[Array, "n K"],
        centre_species: Int[Array, " n"],
        neighbour_species: Int[Array, "n K"],
    ) -> Float[Array, " n"]:
        squared = jnp.sum(vectors**2, axis=-1)
        inside = mask & (squared < self.cutoff**2) & (centre_species >= 0)[:, None]
        # the inner where keeps 1/0 out of the gradient of masked slots
        squared = jnp.where(inside, squared, self.cutoff**2)
        epsilon = params["epsilon"][centre_species[:, None], neighbour_species]
        sigma = params["sigma"][centre_species[:, None], neighbour_species]
        at_cutoff = (sigma / self.cutoff) ** 6
        sixth = (sigma**2 / squared) ** 3
        pair = 4 * epsilon * (sixth**2 - sixth - at_cutoff**2 + at_cutoff)
        return jnp.sum(jnp.where(inside, pair, 0), axis=-1) / 2
