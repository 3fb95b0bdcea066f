"""Statistics of data sets."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from allegro_jax.data.dataset import build_dataset
from allegro_jax.data.frames import DataError
from allegro_jax.data.sources import frame_from_atoms
from allegro_jax.data.statistics import (
    find_species,
    fit_reference_energies,
    reference_energies_from,
    statistics,
)


def with_energy(atoms: Atoms, energy: float, forces=None):
    atoms.info["energy"] = energy
    if forces is not None:
        atoms.arrays["forces"] = np.asarray(forces, float)
    return frame_from_atoms(atoms)


def test_neighbours_forces_and_distances():
    copper = bulk("Cu", "fcc", a=3.6)
    dimer = Atoms("CuO", [[0, 0, 0], [0, 0, 1.8]])
    frames = [with_energy(copper, -1.0), with_energy(dimer, -2.0, [[3, 0, 0], [-3, 0, 0]])]
    data = build_dataset(frames, ("O", "Cu"), 3.0)
    found = statistics(data)
    assert found.average_neighbours == pytest.approx((12 + 1 + 1) / 3)
    assert found.average_neighbours_by_species == {"O": 1.0, "Cu": pytest.approx(6.5)}
    assert found.force_rms == pytest.approx(np.sqrt(3))  # of the labelled frame alone
    assert found.shortest_distances == {
        "Cu-O": pytest.approx(1.8),
        "Cu-Cu": pytest.approx(3.6 / np.sqrt(2)),
    }
    assert found.ranges["energy_per_atom_eV"] == (-1.0, -1.0)
    assert found.atoms_by_species == {"O": 1, "Cu": 2}
    assert find_species(frames) == ("O", "Cu")


def test_reference_energies_are_recovered_where_determined():
    energies = {"H": -13.6, "C": -1030.0, "O": -2042.0}
    frames = []
    for name in ("CH4", "CO", "H2O", "CH3OH", "CO2"):
        atoms = molecule(name)
        frames.append(with_energy(atoms, sum(energies[s] for s in atoms.get_chemical_symbols())))
    data = build_dataset(frames, tuple(energies), 3.0)
    np.testing.assert_allclose(fit_reference_energies(data), list(energies.values()), rtol=1e-9)


def test_one_composition_leaves_no_residual():
    frames = [with_energy(molecule("CH3OH"), -100.0 + shift) for shift in (-0.1, 0.0, 0.1)]
    data = build_dataset(frames, ("H", "C", "O"), 3.0)
    fitted = fit_reference_energies(data)
    np.testing.assert_allclose(data.reference(fitted), -100.0, rtol=1e-12)
    # of all solutions the smallest: in proportion to the numbers of atoms, 4 : 1 : 1
    np.testing.assert_allclose(fitted / fitted[1], [4, 1, 1])


def test_missing_isolated_atom_is_named():
    assert reference_energies_from({"H": -1.0, "O": -2.0}, ("O", "H"), "x").tolist() == [-2, -1]
    with pytest.raises(DataError, match=r"data\.isolated_atoms: no energy of an isolated C atom"):
        reference_energies_from({"H": -1.0}, ("H", "C"), "data.isolated_atoms")
