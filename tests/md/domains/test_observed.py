"""What is added to a run on domains, and looked at along it: as on one device."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk

from md import Group, LennardJones, simulate

POTENTIAL = LennardJones.create(
    ["Ar", "Kr"], [[0.0104, 0.0120], [0.0120, 0.0140]], [[3.4, 3.5], [3.5, 3.65]], 6.0
)
COLUMNS = ("temperature_K", "potential_eV", "conserved_eV")


def cluster():
    """Two elements in a vacuum, none in order."""
    atoms = bulk("Ar", "fcc", 5.5, cubic=True) * (4, 3, 3)
    atoms.symbols[np.random.default_rng(3).permutation(len(atoms))[:40]] = "Kr"
    atoms.pbc = False
    atoms.cell = np.zeros((3, 3))
    atoms.rattle(0.05, seed=4)
    return atoms


def run(atoms, domains, **settings):
    words = {
        "ensemble": "langevin",
        "temperature_K": 90,
        "timestep_fs": 4,
        "skin": 0.8,
        "dtype": "float64",
        "steps": 60,
        "log_every": 20,
        "trajectory_every": 0,
        "progress": False,
    }
    return simulate(POTENTIAL, atoms, domains=domains, **words | settings)


def assert_same(ours, theirs, columns=COLUMNS):
    for column in columns:
        np.testing.assert_allclose(ours.log[column], theirs.log[column], rtol=0, atol=1e-9)
    np.testing.assert_allclose(ours.atoms.positions, theirs.atoms.positions, atol=1e-9)
    np.testing.assert_allclose(ours.atoms.get_momenta(), theirs.atoms.get_momenta(), atol=1e-9)


def test_forces_are_added_and_rotation_is_removed():
    atoms = cluster()
    settings = {
        "groups": (
            Group("Kr", name="krypton", force_eV_per_A=(0.02, 0, -0.01)),
            Group(np.flatnonzero(atoms.symbols == "Ar")[:9], force_eV_per_A=(0, 0.03, 0)),
        ),
        "remove_rotation_every": 7,
        "remove_drift_every": 5,
    }
    one, eight = run(atoms, None, **settings), run(atoms, (2, 2, 2), **settings)
    assert_same(eight, one, (*COLUMNS, "bias_eV", "temperature_krypton_K"))
    assert np.ptp(one.log["bias_eV"]) > 0.1
    settings["steps"] = 56
    still = run(atoms, (2, 2, 2), **settings).atoms
    np.testing.assert_allclose(still.get_angular_momentum(), 0, atol=1e-8)
