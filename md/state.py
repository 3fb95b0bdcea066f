"""The state of a simulation: a frozen pytree that integrators turn into the next one."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key

from md import cells, summation, totals, units
from md.cells import Periodicity
from md.summation import TwoFloat
from md.totals import Axes


@struct.dataclass
class State:
    """Everything that evolves. Units: eV, Å, amu, and time in Å·√(amu/eV) (:mod:`md.units`).

    Attributes:
        positions: [N, 3] Å. Integrators add to them but never subtract two of them: that is for
            :mod:`md.cells`. They are moved back into the cell whenever the neighbour list is
            rebuilt.
        images: [N, 3] the periodic copy of the cell that each atom is in: its continuous path is
            positions + images · cell.
        momenta: [N, 3] √(amu·eV).
        forces: [N, 3] eV/Å, at these positions.
        site_energies: [N] eV, without the species' reference energies.
        virial: [3, 3] eV, dE/dε.
        species: [N] indices; −1 marks a padded atom.
        ids: [N] the number that each atom keeps wherever its row goes; −1 for padding. Noise
            depends on it, not on the row.
        group: [N] the thermostat group of each atom, from 0; −1 for atoms whose momenta never
            change: padding, and atoms that are fixed or driven (:mod:`md.groups`).
        masses: [N] amu; positive, also of padded atoms.
        cell: [3, 3] Å, rows are the lattice vectors.
        thermostat, barostat: their variables, pytrees of their own kinds; None without one.
        bias: variables of the bias potential (:mod:`md.bias`); None without.
        bias_energy: eV, of the bias and of added forces, at these positions.
        work: eV, done on the system so far by driven atoms and by deforming the cell.
        key: random key of the run; step numbers are folded into it.
        step: number of steps done.
        rung: in replica exchange, which temperature of the ladder this replica has; else 0.
        pbc: static; directions that repeat.
        axes: static; the axes of the mesh of devices that atoms are spread over, none on a single
            device. Positions are then relative to the corner of each device's domain
            (:mod:`md.domains`).
    """

    positions: Float[Array, "atoms 3"]
    images: Int[Array, "atoms 3"]
    momenta: Float[Array, "atoms 3"]
    forces: Float[Array, "atoms 3"]
    site_energies: Float[Array, " atoms"]
    virial: Float[Array, "3 3"]
    species: Int[Array, " atoms"]
    ids: Int[Array, " atoms"]
    group: Int[Array, " atoms"]
    masses: Float[Array, " atoms"]
    cell: Float[Array, "3 3"]
    thermostat: Any
    barostat: Any
    bias: Any
    bias_energy: Float[Array, ""]
    work: TwoFloat
    key: Key[Array, ""]
    step: Int[Array, ""]
    rung: Int[Array, ""]
    pbc: Periodicity = struct.field(pytree_node=False)
    axes: Axes = struct.field(pytree_node=False, default=())


def initial_state(
    positions: Float[Array, "atoms 3"],
    momenta: Float[Array, "atoms 3"],
    species: Int[Array, " atoms"],
    masses: Float[Array, " atoms"],
    cell: Float[Array, "3 3"],
    pbc: Periodicity,
    key: Key[Array, ""],
) -> State:
    """A state whose forces are still unknown (zero), one step before step 0.

    The run loop brings it to step 0, with forces, by a step of zero length.
    """
    images = cells.images(positions, cell, pbc)
    return State(
        positions=cells.translate(positions, -images, cell),
        images=images,
        momenta=momenta,
        forces=jnp.zeros_like(positions),
        site_energies=jnp.zeros_like(masses),
        virial=jnp.zeros_like(cell),
        species=species,
        ids=jnp.where(real_atoms(species), jnp.arange(species.shape[0], dtype=jnp.int32), -1),
        group=jnp.where(real_atoms(species), 0, -1),
        masses=masses,
        cell=cell,
        thermostat=None,
        barostat=None,
        bias=None,
        bias_energy=jnp.zeros_like(masses, shape=()),
        work=summation.zero(masses.dtype),
        key=key,
        step=jnp.asarray(-1, jnp.int32),
        rung=jnp.asarray(0, jnp.int32),
        pbc=pbc,
    )


def wrapped(state: State) -> State:
    """The same state with every atom inside the cell, along the directions that repeat."""
    moved = cells.images(state.positions, state.cell, state.pbc)
    return state.replace(
        positions=cells.translate(state.positions, -moved, state.cell), images=state.images + moved
    )


def hashable_indices(atoms: Any) -> tuple[int, ...] | None:
    """Indices of atoms as a setting that compiled programs can depend on; None stays None."""
    return None if atoms is None else tuple(int(index) for index in atoms)


def real_atoms(species: Int[Array, " atoms"]) -> Bool[Array, " atoms"]:
    """Which rows are atoms, not padding."""
    return species >= 0


def mobile(state: State) -> Bool[Array, " atoms"]:
    """Which atoms move by the forces on them: not padding, not fixed, not driven."""
    return state.group >= 0


def kinetic_energy(state: State) -> TwoFloat:
    """Σ p²/2m over the mobile atoms, eV."""
    per_atom = jnp.sum(state.momenta**2, axis=1) / (2 * state.masses)
    return totals.compensated(jnp.where(mobile(state), per_atom, 0), state.axes)


def kinetic_energies(state: State, groups: int) -> Float[Array, " groups"]:
    """Σ p²/2m of each thermostat group, eV."""
    per_atom = jnp.sum(state.momenta**2, axis=1) / (2 * state.masses)

    def total(group: Int[Array, ""]) -> Float[Array, ""]:
        members = jnp.where(state.group == group, per_atom, 0)
        return summation.rounded(totals.compensated(members, state.axes))

    return jax.vmap(total)(jnp.arange(groups))


def normal_noise(
    key: Key[Array, ""], ids: Int[Array, " atoms"], dtype: Any
) -> Float[Array, "atoms 3"]:
    """Independent standard normal numbers that depend on nothing but the key and an atom's id."""

    def of_atom(number: Int[Array, ""]) -> Float[Array, " 3"]:
        return jax.random.normal(jax.random.fold_in(key, number), (3,), dtype)

    return jax.vmap(of_atom)(ids)


def maxwell_boltzmann_momenta(
    key: Key[Array, ""],
    masses: Float[Array, " atoms"],
    species: Int[Array, " atoms"],
    temperature: Float[Array, ""] | float | int,
    *,
    remove_drift: bool = True,
    ids: Int[Array, " atoms"] | None = None,
    axes: Axes = (),
) -> Float[Array, "atoms 3"]:
    """Momenta drawn at a temperature (K): each component normal with variance m k_B T.

    With ``remove_drift`` the total momentum is zero, and the mean kinetic energy that of the
    remaining degrees of freedom, (3N − 3) k_B T / 2.

    Args:
        ids, axes: as in :class:`State`; the rows' numbers unless given.
    """
    if ids is None:
        ids = jnp.arange(masses.shape[0], dtype=jnp.int32)
    real = real_atoms(species)[:, None]
    thermal = jnp.sqrt(masses * units.BOLTZMANN * temperature)[:, None]
    momenta = jnp.where(real, thermal * normal_noise(key, ids, masses.dtype), 0)
    return without_drift(momenta, masses, species, axes) if remove_drift else momenta


def without_rotation(state: State, origin: Float[Array, " 3"] | float = 0.0) -> State:
    """A state whose angular momentum about the centre of mass is zero. For isolated atoms.

    p_i ← p_i − m_i ω × (r_i − R), with ω from I ω = L.

    Args:
        origin: Å, what positions are relative to on this device.
    """
    total = partial(totals.total, axes=state.axes)
    mass = jnp.where(mobile(state), state.masses, 0)[:, None]
    positions = state.positions + origin
    arm = cells.difference(positions, total(mass * positions) / total(mass))
    momenta = jnp.where(mass > 0, state.momenta, 0)
    angular = total(jnp.cross(arm, momenta))
    products = total(mass[..., None] * arm[:, :, None] * arm[:, None, :])
    inertia = jnp.trace(products) * jnp.eye(3, dtype=arm.dtype) - products
    # a line of atoms has no inertia about itself, nor angular momentum
    omega = jnp.linalg.pinv(inertia, rtol=1e-5, hermitian=True) @ angular
    return state.replace(momenta=state.momenta - mass * jnp.cross(omega, arm))


def without_drift(
    momenta: Float[Array, "atoms 3"],
    masses: Float[Array, " atoms"],
    species: Int[Array, " atoms"],
    axes: Axes = (),
) -> Float[Array, "atoms 3"]:
    """Momenta seen from the centre of mass."""
    mass = jnp.where(real_atoms(species), masses, 0)[:, None]
    whole = jnp.maximum(totals.total(mass, axes), jnp.finfo(mass.dtype).tiny)
    return momenta - mass * (totals.total(momenta, axes) / whole)
