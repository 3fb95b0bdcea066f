"""What is added to a run on domains, and looked at along it: as on one device."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import bulk
from ase.io import read

from md import (
    AngularDistribution,
    Group,
    LennardJones,
    MeanSquaredDisplacement,
    RadialDistribution,
    Uncertainty,
    VelocityAutocorrelation,
    simulate,
)
from md.committee import Committee
from md.coordination import CoordinationNumbers
from md.observable import UserObservable

DEPTHS, SIZES = np.asarray([[0.0104, 0.0120], [0.0120, 0.0140]]), [[3.4, 3.5], [3.5, 3.65]]
POTENTIAL = LennardJones.create(["Ar", "Kr"], DEPTHS, SIZES, 6.0)
THRESHOLD = 0.004  # passed at some of the looks
COLUMNS = ("temperature_K", "potential_eV", "conserved_eV")


def cluster():
    """Two elements in a vacuum, none in order."""
    atoms = bulk("Ar", "fcc", 5.5, cubic=True) * (4, 3, 3)
    atoms.symbols[np.random.default_rng(3).permutation(len(atoms))[:40]] = "Kr"
    atoms.pbc = False
    atoms.cell = np.zeros((3, 3))
    atoms.rattle(0.05, seed=4)
    return atoms


def run(atoms, domains, potential=POTENTIAL, **settings):
    words = {
        "ensemble": "langevin",
        "temperature_K": 90,
        "timestep_fs": 4,
        "skin": 0.8,
        "dtype": "float64",
        "steps": 42,
        "log_every": 20,
        "trajectory_every": 0,
        "progress": False,
    }
    return simulate(potential, atoms, domains=domains, **words | settings)


def momenta(state, neighbours):
    own = jnp.where(state.species[:, None] >= 0, state.momenta, 0)
    return {"square": jnp.sum(own**2, axis=0), "sum": jnp.sum(own, axis=0)}


def assert_same(ours, theirs, columns=COLUMNS):
    for column in columns:
        np.testing.assert_allclose(ours.log[column], theirs.log[column], rtol=0, atol=1e-9)
    np.testing.assert_allclose(ours.atoms.positions, theirs.atoms.positions, atol=1e-9)
    np.testing.assert_allclose(ours.atoms.get_momenta(), theirs.atoms.get_momenta(), atol=1e-9)
    assert set(ours.tables) == set(theirs.tables)
    for name, table in theirs.tables.items():
        assert set(ours.tables[name]) == set(table)
        for column, values in table.items():
            found = ours.tables[name][column]
            np.testing.assert_allclose(found, values, rtol=1e-9, atol=1e-9, err_msg=column)


def test_a_cluster_pushed_and_observed():
    """Forces on groups, no rotation, and paths of atoms; without a periodic direction."""
    atoms = cluster()
    settings = {
        "groups": (
            Group("Kr", name="krypton", force_eV_per_A=(0.02, 0, -0.01)),
            Group(np.flatnonzero(atoms.symbols == "Ar")[:9], force_eV_per_A=(0, 0.03, 0)),
        ),
        "remove_rotation_every": 7,
        "remove_drift_every": 5,
        "observables": (
            CoordinationNumbers({"Ar-Kr": 4.9, "Kr-Kr": 4.7}, 6, every=3),
            MeanSquaredDisplacement(5, every=3),
            VelocityAutocorrelation(5, every=3, atoms=(17, 3, 90, 5, 41)),
        ),
    }
    one, eight = run(atoms, None, **settings), run(atoms, (2, 2, 2), **settings)
    assert_same(eight, one, (*COLUMNS, "bias_eV", "temperature_krypton_K"))
    assert np.ptp(one.log["bias_eV"]) > 0.02
    assert np.max(one.tables["msd"]["msd_Kr_A2"]) > 0.004
    np.testing.assert_allclose(eight.atoms.get_angular_momentum(), 0, atol=1e-8)


def test_what_is_observed_survives_other_domains(tmp_path):
    """Counts, paths and the spread of a committee: from four devices to three.

    In a cell that changes, with atoms that migrate.
    """
    atoms = bulk("Ar", "fcc", 5.4, cubic=True) * (4, 4, 4)
    atoms.symbols[::3] = "Kr"
    atoms.rattle(0.01, seed=1)
    members = (LennardJones.create(["Ar", "Kr"], DEPTHS * f, SIZES, 6.0) for f in (0.99, 1.01))
    settings = {
        "potential": Committee.create(*members),
        "ensemble": "npt",
        "pressure_GPa": 0.5,
        "temperature_K": 600,
        "observables": (
            RadialDistribution(6.0, 40, every=2, total=True),
            AngularDistribution({"Ar-Kr": 5.0, "Ar-Ar": 4.8}, 20, every=2),
            MeanSquaredDisplacement(5, every=2),
            UserObservable(momenta, every=2, additive=True),
        ),
        "uncertainty": Uncertainty(every=5, threshold=THRESHOLD, spacing=1),
        "skin": 0.3,
        "log_every": 5,
    }
    with pytest.warns(UserWarning, match="above .* such frames are kept"):
        one = run(atoms, None, steps=20, **settings)
        run(atoms, (2, 2, 1), steps=12, output=tmp_path, **settings)
        last = run(atoms, (3, 1, 1), steps=20, output=tmp_path, restart=True, **settings)
    assert_same(last, one, (*COLUMNS, "energy_std_meV_per_atom", "max_forces_std_eV_per_A"))
    assert np.ptp(one.log["volume_A3"]) > 10
    found = read(tmp_path / "uncertain.extxyz", ":")
    assert last.flagged == one.flagged == len(found) == len(one.uncertain)
    assert 2 <= len(found) < 5
    for ours, theirs in zip(found, one.uncertain, strict=True):
        for key in ("step", "max_forces_std_atom"):
            assert ours.info[key] == theirs.info[key]
        np.testing.assert_allclose(ours.positions, theirs.positions, atol=1e-7)
        np.testing.assert_allclose(ours.get_forces(), theirs.get_forces(), atol=1e-7)
        spreads = ours.arrays["forces_std"], theirs.arrays["forces_std"]
        np.testing.assert_allclose(*spreads, atol=1e-7)
        np.testing.assert_allclose(ours.info["energy_std"], theirs.info["energy_std"], rtol=1e-6)


class Mine:
    """An observable that says nothing of domains."""

    name, every = "mine", 1

    def init(self, state, neighbours, species): ...
    def update(self, accumulators, state, neighbours): ...
    def result(self, accumulators, timestep_fs): ...


@pytest.mark.parametrize(
    ("observable", "message"),
    [
        (RadialDistribution(7.0), r"rdf: on domains no pair is known beyond .* \(6 Å\), and 7 Å"),
        (UserObservable(momenta), "say additive=True"),
        (Mine(), "the observable mine"),
    ],
)
def test_what_cannot_be_observed_is_refused(observable, message):
    with pytest.raises(ValueError, match=message):
        run(cluster(), (2, 1, 1), observables=(observable,))
