"""A potential in the form that jax-md's simulators take: ``(neighbor_fn, energy_fn)``.

::

    displacement, shift = jax_md.space.periodic(box)
    neighbor_fn, energy_fn = neighbor_list_potential(displacement, box, model.potential, symbols)
    neighbors = neighbor_fn.allocate(positions)
    init, apply = jax_md.simulate.nve(energy_fn, shift, timestep)
    state = init(key, positions, kT, mass=masses, neighbor=neighbors)
    ...
    neighbors = neighbors.update(state.position)
    state = apply(state, neighbor=neighbors)

Units are eV, Å and amu, hence times in Å·√(amu/eV) ≈ 10.18 fs and temperatures as kT in eV.
:mod:`md` runs the same dynamics with less memory and without the limits below.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax_md import partition, space
from jaxtyping import Array, Float

from md.local_potential import LocalPotential
from md.species import species_indices


def neighbor_list_potential(
    displacement: Callable[..., Array],
    box: float | np.ndarray | Array | None,
    potential: LocalPotential,
    symbols: Sequence[str],
    *,
    dr_threshold: float = 0.5,
    capacity_multiplier: float = 1.25,
    fractional_coordinates: bool = False,
    disable_cell_list: bool = False,
) -> tuple[partition.NeighborListFns, Callable[..., Float[Array, ""]]]:
    """Neighbour-list and energy functions for jax-md.

    jax-md keeps one image of each neighbour (the nearest), so a periodic box has to be at least
    twice as wide as the potential's cutoff, and stay so when it changes during a run. Its lattice
    vectors are the *columns* of an upper triangular matrix, the transpose of ASE's rows. Its cell
    lists expect positions inside the box: use a ``shift`` that wraps.

    Args:
        displacement: jax-md's displacement function of the space.
        box: as jax-md takes it: a side, three sides, or an upper triangular matrix [3, 3] whose
            columns are the lattice vectors, Å; None for free space.
        potential: any :class:`md.local_potential.LocalPotential`.
        symbols: chemical symbol of each atom.
        dr_threshold: Å; lists hold neighbours up to the cutoff plus this, and are rebuilt when an
            atom has moved half of it.
        capacity_multiplier: room in the lists beyond the neighbours of the first structure.
        fractional_coordinates: positions are fractions of the box.
        disable_cell_list: search neighbours among all pairs.

    Returns:
        ``neighbor_fn`` with ``allocate(positions)`` and ``update(positions, neighbors)``, and
        ``energy_fn(positions, neighbor, **kwargs)`` → eV, without the reference energies; kwargs
        (``box``, ``perturbation``, …) are handed to the displacement function.

    Raises:
        ValueError: a species that the potential does not know, or a box too small for its cutoff.
    """
    species = species_indices(symbols, potential.species, "symbols")
    if box is not None:
        _check_width(box, potential.cutoff)
    neighbor_fn = partition.neighbor_list(
        displacement,
        0.0 if box is None else box,  # free space: not read, as no cells are made
        potential.cutoff,
        dr_threshold,
        capacity_multiplier,
        disable_cell_list=disable_cell_list or box is None,
        fractional_coordinates=fractional_coordinates,
        format=partition.NeighborListFormat.Dense,
    )

    def energy_fn(
        positions: Float[Array, "atoms 3"], neighbor: partition.NeighborList, **kwargs: Any
    ) -> Float[Array, ""]:
        count = len(positions)
        mask = neighbor.idx < count
        indices = jnp.where(mask, neighbor.idx, 0)
        # displacement(a, b) is a − b, and map_neighbor gives it the neighbour first
        vectors = space.map_neighbor(partial(displacement, **kwargs))(positions, positions[indices])
        of_atom = jnp.asarray(species)
        energies = potential.site_energies(
            potential.params, vectors, mask, of_atom, of_atom[indices]
        )
        return jnp.sum(energies)

    return neighbor_fn, energy_fn


def _check_width(box: Any, cutoff: float) -> None:
    matrix = np.asarray(box, float)
    if matrix.ndim < 2:
        matrix = np.diag(np.broadcast_to(matrix, (3,)))
    heights = 1 / np.linalg.norm(np.linalg.inv(matrix), axis=1)
    if heights.min() < 2 * cutoff:
        raise ValueError(
            f"the box is {heights.min():.2f} Å wide, less than twice the cutoff ({cutoff} Å), and "
            "jax-md's lists keep one image of each neighbour only: repeat the structure, or run it "
            "with `allegro-jax md`, which has no such limit"
        )
