"""Committees: several potentials of one kind; their mean is used, their spread an uncertainty.

Members that were fitted to the same data agree where data were, and part elsewhere. With M
members, energies E_m and forces F_mi of atom i:

    E = Σ_m E_m / M        F_i = Σ_m F_mi / M = −∂E/∂r_i
    σ_E² = Σ_m (E_m − E)² / (M − 1)        σ_i² = Σ_m |F_mi − F_i|² / (M − 1)

(Query by committee: Seung, Opper, Sompolinsky, COLT 1992, 287; for interatomic potentials: Schran,
Brezina, Marsalek, J. Chem. Phys. 153, 104105 (2020).)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from md import totals
from md.evaluation import DEFAULT_BYTES_PER_SLOT, Evaluation, evaluate
from md.local_potential import LocalPotential, prepared, site_energies_of_groups
from md.totals import Axes


class Spread(NamedTuple):
    """How far the members of a committee are apart.

    Attributes:
        energy: σ_E of all atoms together, eV.
        forces: σ_i of every atom, eV/Å.
    """

    energy: Any
    forces: Any


@struct.dataclass
class Committee:
    """Local potentials that differ in their weights alone; as one, their mean.

    Attributes:
        params: weights of the members, every array with a leading axis of members.
        member: one of the potentials, without its weights.
        members: how many there are.
    """

    params: Any
    member: Any = struct.field(pytree_node=False)
    members: int = struct.field(pytree_node=False)

    @classmethod
    def create(cls, *potentials: LocalPotential) -> Committee:
        """A committee of potentials.

        Raises:
            ValueError: fewer than two, or potentials that differ in more than their weights.
        """
        if len(potentials) < 2:
            raise ValueError("a committee needs at least two members")
        first, *others = (dataclasses.replace(one, params=None) for one in potentials)  # type: ignore
        shapes = [
            jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.result_type(leaf)), one.params)
            for one in potentials
        ]
        if any(other != first for other in others) or any(one != shapes[0] for one in shapes):
            raise ValueError("the members of a committee may differ in their weights alone")
        params = jax.tree.map(
            lambda *leaves: jnp.stack(leaves), *(one.params for one in potentials)
        )
        return cls(params, first, len(potentials))

    @property
    def each(self) -> LocalPotential:
        """The members as one pytree with a leading axis, for ``jax.vmap`` and ``jax.lax.map``."""
        return self.member.replace(params=self.params)

    def __getitem__(self, number: int) -> LocalPotential:
        """One member."""
        return self.member.replace(params=jax.tree.map(lambda leaf: leaf[number], self.params))

    @property
    def species(self) -> tuple[str, ...]:
        return self.member.species

    @property
    def cutoff(self) -> float:
        return self.member.cutoff

    @property
    def pair_cutoffs(self) -> tuple[tuple[float, ...], ...] | None:
        return self.member.pair_cutoffs

    @property
    def reference_energies(self) -> tuple[float, ...]:
        return self.member.reference_energies

    @property
    def bytes_per_slot(self) -> int:
        return self.members * getattr(self.member, "bytes_per_slot", DEFAULT_BYTES_PER_SLOT)

    @property
    def pairwise(self) -> bool:
        return getattr(self.member, "pairwise", False)

    def prepare(self, params: Any) -> Any:
        return jax.vmap(lambda own: prepared(self.member, own))(params)

    def site_energies(
        self,
        params: Any,
        vectors: Float[Array, "n K 3"],
        mask: Bool[Array, "n K"],
        centre_species: Int[Array, " n"],
        neighbour_species: Int[Array, "n K"],
    ) -> Float[Array, " n"]:
        def of_member(own: Any) -> Array:
            return self.member.site_energies(own, vectors, mask, centre_species, neighbour_species)

        return jnp.mean(jax.vmap(of_member)(params), axis=0)

    def site_energies_of_groups(self, params: Any, groups: Sequence[Any]) -> list[Array]:
        def of_member(own: Any) -> list[Array]:
            return site_energies_of_groups(self.member, own, groups)

        return [jnp.mean(energies, axis=0) for energies in jax.vmap(of_member)(params)]


def members_of(potential: Any) -> int:
    """How many members a potential has; 1 unless it is a committee."""
    return getattr(potential, "members", 1)


def spread(
    site_energies: Float[Any, "members N"], forces: Float[Any, "members N 3"], axes: Axes = ()
) -> Spread:
    """How far members are apart, from the energies and forces that each gives; JAX or NumPy.

    Energies are compared site by site before they are summed: a difference of sums has no digits
    left where there are many atoms.

    Args:
        site_energies, forces: of all atoms, or of those of one device.
        axes: as of :class:`md.state.State`.
    """
    freedom = len(forces) - 1
    energies = (site_energies - site_energies.mean(axis=0)).sum(axis=1)
    energies = totals.over_devices(energies, axes)
    squares = ((forces - forces.mean(axis=0)) ** 2).sum(axis=2)
    return Spread(
        ((energies**2).sum(axis=0) / freedom) ** 0.5, (squares.sum(axis=0) / freedom) ** 0.5
    )


def evaluate_spread(
    committee: Committee,
    positions: Float[Array, "N 3"],
    cell: Float[Array, "3 3"],
    species: Int[Array, " N"],
    neighbours: Any,
    *,
    block_size: int | None = None,
) -> Spread:
    """How far members are apart at given positions; padded atoms have none.

    Args:
        committee, positions, cell, species, neighbours, block_size: as of :func:`evaluate_members`.
    """
    found = evaluate_members(
        committee,
        positions,
        cell,
        species,
        neighbours,
        block_size=block_size,
        with_virial=False,
    )
    return spread(found.site_energies, found.forces)


def evaluate_members(
    committee: Committee,
    positions: Float[Array, "N 3"],
    cell: Float[Array, "3 3"],
    species: Int[Array, " N"],
    neighbours: Any,
    *,
    block_size: int | None = None,
    deterministic: bool = False,
    with_virial: bool = True,
) -> Evaluation:
    """What each member gives at given positions, with a leading axis of members.

    The members are evaluated one after another: memory is that of one, and M copies of the forces.

    Args:
        committee: see :class:`Committee`.
        positions, cell, species, neighbours, block_size, deterministic, with_virial: as of
            :func:`md.evaluation.evaluate`.
    """

    def of_member(member: Any) -> Evaluation:
        return evaluate(
            member,
            positions,
            cell,
            species,
            neighbours,
            block_size=block_size,
            deterministic=deterministic,
            with_virial=with_virial,
        )

    return jax.lax.map(of_member, committee.each)
