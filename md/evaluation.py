"""Energies, forces and virials of any local potential, evaluated in blocks of atoms.

A site energy depends on one atom's neighbours alone, so the value and gradient of a block of atoms
need no other block: memory is that of one block, whatever the size of the system. The gradient with
respect to the vectors, g_ik = ∂E_i/∂r_ik, then gives everything else by linear sums:

    F_i = Σ_k g_ik − Σ_(j,k): neighbour(j,k)=i  g_jk        virial = Σ_ik r_ik ⊗ g_ik = dE/dε = V·σ
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from md import cells, fixed_point
from md.local_potential import LocalPotential, prepared

# Memory of a block, as potentials state it. On a CPU a block should stay near the cache (twice and
# half of this are a quarter slower with Allegro of 64 features); on an accelerator it should fill
# the device, within the memory that it may take.
CPU_BYTES = 96 * 2**20
ACCELERATOR_BYTES = 4 * 2**30
DEFAULT_BYTES_PER_SLOT = 16 * 2**10


class Evaluation(NamedTuple):
    """What one evaluation yields.

    Attributes:
        site_energies: eV, without the reference energies; 0 for padded atoms. Of the atoms that
            have neighbours listed.
        forces: −dE/dr, eV/Å.
        virial: dE/dε = Σ r ⊗ g, eV; divided by the volume it is the stress (ASE's sign).
    """

    site_energies: Float[Array, " n"]
    forces: Float[Array, "N 3"]
    virial: Float[Array, "3 3"]


def evaluate(
    potential: LocalPotential,
    positions: Float[Array, "N 3"],
    cell: Float[Array, "3 3"],
    species: Int[Array, " N"],
    neighbours: Any,
    *,
    block_size: int | None = None,
    deterministic: bool = False,
    with_virial: bool | Bool[Array, ""] = True,
) -> Evaluation:
    """Site energies, forces and virial from positions and a neighbour list.

    Args:
        potential: any local potential.
        positions: Å.
        cell: Å, rows are the lattice vectors.
        species: index per atom, −1 for padding.
        neighbours: ``.indices`` [n, K] (N in an empty slot) and ``.shifts`` [n, K, 3] (the
            neighbour is at r_j + shift·cell), as :class:`md.neighbours.NeighbourList` has them;
            ``shifts`` may be None, where copies of atoms are among the N. The first n ≤ N atoms
            have site energies.
        block_size: atoms evaluated at once; by default :func:`default_block_size`.
        deterministic: sum forces in fixed point, for accelerators, whose floating-point sums come
            in any order; the resolution is 1e-9 eV/Å.
        with_virial: whether the virial is wanted, else it may be NaN. Compiled code may decide at
            run time; that saves time with pair potentials, where a virial costs as much as all
            the rest, and is not worth compiling two evaluations with others.
    """
    n = positions.shape[0]

    def vectors_of(
        rows: Array, indices: Array, *shifts: Array
    ) -> tuple[Array, Array]:  # of one block
        mask = indices < n
        ends = positions[jnp.where(mask, indices, 0)], positions[rows][:, None]
        vectors = cells.displacement(*ends, *shifts, cell) if shifts else cells.difference(*ends)
        return jnp.where(mask[..., None], vectors, 0), mask

    return _in_blocks(
        potential,
        vectors_of,
        neighbours.indices,
        () if neighbours.shifts is None else (neighbours.shifts,),
        species,
        block_size,
        positions.dtype,
        deterministic,
        with_virial,
    )


def evaluate_vectors(
    potential: LocalPotential,
    vectors: Float[Array, "N K 3"],
    neighbours: Int[Array, "N K"],
    mask: Bool[Array, "N K"],
    species: Int[Array, " N"],
    *,
    block_size: int | None = None,
) -> Evaluation:
    """The same from vectors that were formed elsewhere (on the host in float64, for instance)."""
    indices = jnp.where(mask, neighbours, vectors.shape[0])

    def vectors_of(rows: Array, indices: Array, block: Array) -> tuple[Array, Array]:
        return block, indices < vectors.shape[0]

    return _in_blocks(
        potential, vectors_of, indices, (vectors,), species, block_size, vectors.dtype
    )


def pair_gradients(
    potential: LocalPotential,
    vectors: Float[Array, "n K 3"],
    mask: Bool[Array, "n K"],
    centre_species: Int[Array, " n"],
    neighbour_species: Int[Array, "n K"],
    params: Any = None,
) -> tuple[Float[Array, " n"], Float[Array, "n K 3"]]:
    """Site energies of one block and their gradients ∂E_i/∂r_ik.

    ``params`` are the weights where they have been prepared for several blocks.
    """
    if params is None:
        params = potential.params

    def total(vectors: Array) -> tuple[Array, Array]:
        energies = potential.site_energies(params, vectors, mask, centre_species, neighbour_species)
        return jnp.sum(energies), energies

    (_, energies), gradients = jax.value_and_grad(total, has_aux=True)(vectors)
    return energies, gradients


def _in_blocks(
    potential: LocalPotential,
    vectors_of: Callable[..., tuple[Array, Array]],
    indices: Int[Array, "rows K"],
    extras: tuple[Array, ...],
    species: Int[Array, " N"],
    block_size: int | None,
    dtype: Any,
    deterministic: bool = False,
    with_virial: bool | Bool[Array, ""] = True,
) -> Evaluation:
    (n, k), atoms = indices.shape, species.shape[0]
    if n == 0:
        zero = jnp.zeros((0,), dtype)
        return Evaluation(zero, jnp.zeros((atoms, 3), dtype), jnp.zeros((3, 3), dtype))
    if k == 0:  # XLA has no use for empty rows; one empty slot changes nothing
        indices = jnp.full((n, 1), atoms, indices.dtype)
        extras = tuple(jnp.zeros((n, 1, *x.shape[2:]), x.dtype) for x in extras)
    if block_size is None:
        block_size = default_block_size(n, indices.shape[1], potential)
    # Where every pair pulls equally at both its atoms, the slots of an atom hold all its forces.
    pairwise = getattr(potential, "pairwise", False)
    if not isinstance(with_virial, bool):
        if pairwise:
            arguments = potential, vectors_of, indices, extras, species
            arguments += block_size, dtype, deterministic
            return lax.cond(
                with_virial,
                lambda: _in_blocks(*arguments, with_virial=True),
                lambda: _in_blocks(*arguments, with_virial=False),
            )
        with_virial = True
    params = prepared(potential, potential.params)
    blocks = math.ceil(n / block_size)
    size = math.ceil(n / blocks)  # even blocks

    def block(number: Array | int, carry: tuple[Any, Array, Array]) -> tuple[Any, Array, Array]:
        forces, virial, site_energies = carry
        # The last block begins early enough to be full. Rows that it repeats count as padding.
        start = jnp.minimum(number * size, n - size)
        rows = start + jnp.arange(size)
        repeated = rows < number * size
        # potentials compute with species, which long arrays may hold in a byte
        block_species = lax.dynamic_slice_in_dim(species, start, size).astype(jnp.int32)
        block_species = jnp.where(repeated, -1, block_species)
        block_indices, *block_extras = (
            lax.dynamic_slice_in_dim(x, start, size) for x in (indices, *extras)
        )
        block_indices = jnp.where(repeated[:, None], atoms, block_indices)
        vectors, mask = vectors_of(rows, block_indices, *block_extras)
        neighbour_species = species[jnp.minimum(block_indices, atoms - 1)].astype(jnp.int32)
        neighbour_species = jnp.maximum(neighbour_species, 0)
        energies, gradients = pair_gradients(
            potential, vectors, mask, block_species, neighbour_species, params
        )
        forces = add_forces(forces, rows, block_indices, gradients)
        virial = add_virial(virial, vectors, gradients)
        return forces, virial, site_energies.at[rows].add(energies)

    if pairwise:

        def add_forces(forces: Any, rows: Array, _: Array, gradients: Array) -> Any:
            return forces.at[rows].add(2 * jnp.sum(gradients, axis=1))

    elif deterministic:

        def add_forces(forces: Any, rows: Array, indices: Array, gradients: Array) -> Any:
            forces = fixed_point.add_at(forces, indices, -gradients)
            return fixed_point.add_at(forces, rows, jnp.sum(gradients, axis=1))

    else:

        def add_forces(forces: Any, rows: Array, indices: Array, gradients: Array) -> Any:
            # An empty slot's index is past the end: it is dropped. Padded rows have no gradient.
            forces = forces.at[indices].add(-gradients, mode="drop")
            return forces.at[rows].add(jnp.sum(gradients, axis=1))

    def add_virial(virial: Array, vectors: Array, gradients: Array) -> Array:
        if not with_virial:
            return jnp.full_like(virial, jnp.nan)
        return virial + jnp.einsum(
            "nki,nkj->ij", vectors, gradients, precision=lax.Precision.HIGHEST
        )

    in_fixed_point = deterministic and not pairwise
    shape = (atoms, 3)
    nothing = fixed_point.zeros(shape) if in_fixed_point else jnp.zeros(shape, dtype)
    carry = nothing, jnp.zeros((3, 3), dtype), jnp.zeros(n, dtype)
    carry = block(0, carry) if blocks == 1 else lax.fori_loop(0, blocks, block, carry)
    forces, virial, site_energies = carry
    if in_fixed_point:
        forces = fixed_point.to_float(forces, dtype)
    return Evaluation(site_energies, forces, virial)


def default_block_size(num_atoms: int, num_slots: int, potential: Any = None) -> int:
    """Atoms per block, from the system, the device and its memory.

    Args:
        num_atoms: atoms in all.
        num_slots: slots per atom.
        potential: may state ``bytes_per_slot``, the memory that one slot's value and gradient take.
    """
    per_slot = getattr(potential, "bytes_per_slot", DEFAULT_BYTES_PER_SLOT)
    memory = CPU_BYTES if jax.default_backend() == "cpu" else _accelerator_bytes()
    slots = memory // per_slot
    return int(min(max(slots // max(num_slots, 1), 1), max(num_atoms, 1)))


def _accelerator_bytes() -> int:
    """A quarter of the device's memory, where it tells, so that the rest of a program has room."""
    stats = jax.local_devices()[0].memory_stats() or {}
    limit = stats.get("bytes_limit")
    return int(limit) // 4 if limit else ACCELERATOR_BYTES


def total_energy(site_energies: Any, species: Any, reference_energies: Sequence[float]) -> float:
    """The energy of all atoms, eV: summed on the host in float64, reference energies included."""
    species = np.asarray(species)
    sites = np.asarray(site_energies, np.float64)
    references = np.asarray(reference_energies, np.float64)
    return float(sites[species >= 0].sum() + references[species[species >= 0]].sum())


def neighbour_virials(
    vectors: Float[Array, "N K 3"],
    gradients: Float[Array, "N K 3"],
    neighbours: Int[Array, "N K"],
    mask: Bool[Array, "N K"],
) -> Float[Array, "N 3 3"]:
    """Per-atom virials on the neighbours, W_j = −Σ_i r_ij ⊗ g_ij, eV: the form of the heat flux.

    The sum over all atoms is −V·σ. (Fan et al., Phys. Rev. B 92, 094301 (2015), eq. 22.)
    """
    products = jnp.where(mask[..., None, None], vectors[..., :, None] * gradients[..., None, :], 0)
    indices = jnp.where(mask, neighbours, vectors.shape[0])
    zeros = jnp.zeros((vectors.shape[0], 3, 3), vectors.dtype)
    return zeros.at[indices].add(-products, mode="drop")


def centre_virials(
    vectors: Float[Array, "N K 3"], gradients: Float[Array, "N K 3"]
) -> Float[Array, "N 3 3"]:
    """Per-atom virials on the centres, −Σ_j r_ij ⊗ g_ij: minus the site's strain derivative."""
    return -jnp.einsum("nki,nkj->nij", vectors, gradients, precision=lax.Precision.HIGHEST)
