"""An Allegro potential as the engine sees it, and its evaluation for one structure at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress
from flax import struct
from jax import Array
from jaxtyping import Bool, Float, Int

from allegro_jax import model
from allegro_jax.config import AllegroConfig
from allegro_jax.neighbour_search import dense, neighbour_pairs
from allegro_jax.neighbourhoods import Rows
from md.committee import Committee, Spread, members_of, spread
from md.evaluation import (
    Evaluation,
    evaluate_vectors,
    neighbour_virials,
    pair_gradients,
    total_energy,
)
from md.species import species_indices


@struct.dataclass
class AllegroPotential:
    """Weights and hyperparameters: a :class:`md.local_potential.LocalPotential`.

    Attributes:
        params: weights, the pytree's leaves.
        config: hyperparameters, static.
    """

    params: Any  # model.Params; but JAX builds pytrees of anything while it transforms them
    config: AllegroConfig = struct.field(pytree_node=False)

    @property
    def species(self) -> tuple[str, ...]:
        return self.config.species

    @property
    def cutoff(self) -> float:
        return self.config.cutoff

    @property
    def pair_cutoffs(self) -> tuple[tuple[float, ...], ...] | None:
        return self.config.pair_cutoffs

    @property
    def reference_energies(self) -> tuple[float, ...]:
        return self.config.per_species("species_shifts")

    @property
    def bytes_per_slot(self) -> int:
        """Memory that the value and gradient of one slot take, estimated from the widths."""
        config = self.config
        tensor = config.num_tensor_features * (config.l_max + 1)
        if config.architecture == "original":  # which has tensor features of edges
            tensor *= (config.l_max + 1) * (2 if config.parity else 1)
        hidden = sum(config.latent_hidden) + 2 * config.num_scalar_features
        per_layer = 3 * tensor + 4 * hidden
        memory = 4 * (per_layer * (config.num_layers + 1) + 4 * sum(config.two_body_hidden))
        # on a CPU blocks of a quarter of what the engine takes for its cache are the quickest
        cache = config.architecture == "modern" and jax.default_backend() == "cpu"
        return 4 * memory if cache else memory

    def prepare(self, params: Any) -> model.Prepared:
        return model.prepare(params, self.config)

    def site_energies(
        self,
        params: Any,
        vectors: Float[Array, "n K 3"],
        mask: Bool[Array, "n K"],
        centre_species: Int[Array, " n"],
        neighbour_species: Int[Array, "n K"],
    ) -> Float[Array, " n"]:
        return model.site_energies(
            params, self.config, vectors, mask, centre_species, neighbour_species
        )

    def site_energies_of_groups(self, params: Any, groups: Sequence[Any]) -> list[Array]:
        return model.site_energies_of_groups(params, self.config, [Rows(*each) for each in groups])

    def astype(self, dtype: Any) -> AllegroPotential:
        """The same potential with weights of another floating type."""
        return self.replace(params=jax.tree.map(lambda x: jnp.asarray(x, dtype), self.params))


Potential = AllegroPotential | Committee
"""One model, or a committee of models of one configuration."""


def potential_of(params: Any, config: AllegroConfig, members: int = 1) -> Potential:
    """A potential of these weights; with several members they have a leading axis."""
    if members > 1:
        return Committee(params, AllegroPotential(None, config), members)
    return AllegroPotential(params, config)


class SinglePoint:
    """Energy, forces, stress and per-atom energies of one structure after another.

    Neighbourhoods are built on the host in float64; arrays are padded to capacities that only grow,
    so that a sequence of similar structures compiles once.

    Args:
        potential: an Allegro potential (or any local potential).
        dtype: of the evaluation; by default that of the weights. 64-bit types are switched on
            for the evaluation where float64 needs them.
        block_size: atoms evaluated at once; chosen by :mod:`md.evaluation` if not given.
    """

    def __init__(self, potential: Any, dtype: Any = None, block_size: int | None = None) -> None:
        leaves = jax.tree.leaves(potential.params)
        if dtype is None:
            dtype = leaves[0].dtype if leaves else jnp.float32
        self.dtype = np.dtype(dtype)
        self.potential = potential.replace(
            params=jax.tree.map(lambda leaf: np.asarray(leaf, self.dtype), potential.params)
        )
        self.block_size = block_size
        self.atoms_capacity = 0
        self.slots_capacity = 0
        self.compilations = 0
        self._evaluate = jax.jit(self._traced, static_argnames="virials")

    def __call__(self, atoms: Atoms, *, virials: bool = False) -> dict[str, Any]:
        """Evaluate one structure.

        Args:
            atoms: any cell and periodicity.
            virials: also the per-atom virials (on the neighbours; see
                :func:`md.evaluation.neighbour_virials`).

        Returns:
            ``energy`` (eV), ``forces`` [N, 3] (eV/Å), ``energies`` [N] (eV, reference energies
            included); ``stress`` [6] (eV/Å³, ASE's sign and Voigt order) where the cell has a
            volume and all directions are periodic; ``virials`` [N, 3, 3] (eV) if asked for;
            of a committee ``energy_std`` (eV) and ``forces_std`` [N] (eV/Å), see
            :mod:`md.committee`; and ``shortest_distances`` [T, T] (Å, by species pair; infinite
            where there is none).

        Raises:
            ValueError: unknown species, positions or cell that make no sense, or a result that is
                not finite.
        """
        potential, n = self.potential, len(atoms)
        species = species_indices(atoms.get_chemical_symbols(), potential.species)
        pairs = neighbour_pairs(
            atoms.positions, atoms.cell.array, atoms.pbc, potential.cutoff, species,
            potential.pair_cutoffs,
        )  # fmt: skip
        coincident = np.flatnonzero(~pairs.vectors.any(axis=1))
        if len(coincident):
            i, j = pairs.centre[coincident[0]], pairs.neighbour[coincident[0]]
            raise ValueError(f"positions: atoms {i} and {j} are in one place")
        counts = np.bincount(pairs.centre, minlength=n)
        self._grow(n, int(counts.max(initial=0)))
        rows, slots = self.atoms_capacity, self.slots_capacity
        neighbours, vectors, mask = dense(pairs, rows, slots)
        padded_species = np.full(rows, -1, np.int32)
        padded_species[:n] = species
        with jax.enable_x64(True) if self.dtype == np.float64 else contextlib.nullcontext():
            result, per_atom, apart = self._evaluate(
                potential,
                vectors.astype(self.dtype),
                neighbours,
                mask,
                padded_species,
                virials=virials,
            )

        references = np.asarray(potential.reference_energies)[species]
        out = {
            "energy": total_energy(
                result.site_energies, padded_species, potential.reference_energies
            ),
            "forces": np.asarray(result.forces, np.float64)[:n],
            "energies": np.asarray(result.site_energies, np.float64)[:n] + references,
        }
        if not (np.isfinite(out["energy"]) and np.isfinite(out["forces"]).all()):
            broken = ~np.isfinite(out["forces"]).all(axis=1) | ~np.isfinite(out["energies"])
            atom = int(np.argmax(broken)) if broken.any() else 0
            raise ValueError(
                f"the energy or forces are not finite, first at atom {atom} "
                f"({atoms.symbols[atom]}): atoms may be too close"
            )
        if atoms.pbc.all() and atoms.cell.volume > 0:
            virial = np.asarray(result.virial, np.float64)
            out["stress"] = full_3x3_to_voigt_6_stress(virial) / atoms.cell.volume
        if apart is not None:
            out["energy_std"] = float(apart.energy)
            out["forces_std"] = np.asarray(apart.forces, np.float64)[:n]
        if virials:
            out["virials"] = np.asarray(per_atom, np.float64)[:n]
        out["shortest_distances"] = shortest_distances(pairs, species, len(potential.species))
        return out

    def _traced(
        self,
        potential: Any,
        vectors: Array,
        neighbours: Array,
        mask: Array,
        species: Array,
        virials: bool,
    ) -> tuple[Evaluation, Array | None, Spread | None]:
        self.compilations += 1  # runs at trace time only

        def evaluated(member: Any) -> Evaluation:
            return evaluate_vectors(
                member, vectors, neighbours, mask, species, block_size=self.block_size
            )

        per_atom = apart = None
        if members_of(potential) > 1:
            each = jax.lax.map(evaluated, potential.each)
            result = jax.tree.map(lambda values: values.mean(axis=0), each)
            apart = spread(each.site_energies, each.forces)
        else:
            result = evaluated(potential)
        if virials:
            neighbour_species = jnp.maximum(species[neighbours], 0)
            _, gradients = pair_gradients(potential, vectors, mask, species, neighbour_species)
            per_atom = neighbour_virials(vectors, gradients, neighbours, mask)
        return result, per_atom, apart

    def _grow(self, num_atoms: int, num_slots: int) -> None:
        """Raise the capacities where needed, with some room, in steps that keep shapes few."""
        if num_atoms > self.atoms_capacity:
            grown = int(num_atoms * 1.1) if self.atoms_capacity else num_atoms
            self.atoms_capacity = max(grown, 1)
        if num_slots > self.slots_capacity or not self.slots_capacity:
            self.slots_capacity = max(-(-int(num_slots * 1.15 + 1) // 4) * 4, 4)


def shortest_distances(pairs: Any, species: np.ndarray, num_species: int) -> np.ndarray:
    """The shortest distance of every species pair, Å, symmetric; infinite where there is none."""
    table = np.full((num_species, num_species), np.inf)
    if len(pairs.centre):
        distances = np.linalg.norm(pairs.vectors, axis=1)
        np.minimum.at(table, (species[pairs.centre], species[pairs.neighbour]), distances)
    return np.minimum(table, table.T)
