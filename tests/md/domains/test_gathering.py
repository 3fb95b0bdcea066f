"""Atoms of all domains come in the order of their numbers, whatever the size of the parts."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read

from md import LennardJones, TrajectorySettings, simulate
from md.domains import gathering
from md.domains.grid import make_grid

ATOMS, ROWS = 50, 9  # atoms in all, rows of each of eight domains


@pytest.mark.parametrize("chosen", [None, (17, 3, 44, 0, 49)])
@pytest.mark.parametrize("size", [1, 7, 100])
def test_all_that_belongs_to_atoms(monkeypatch, size, chosen):
    monkeypatch.setattr(gathering, "_LEAST", size)
    monkeypatch.setattr(gathering, "_PARTS", 1000)
    rng = np.random.default_rng(0)
    ids = np.full(8 * ROWS, -1, np.int32)
    ids[rng.choice(8 * ROWS, ATOMS, replace=False)] = rng.permutation(ATOMS)
    fields = {"positions": rng.normal(size=(8 * ROWS, 3)), "images": np.arange(8 * ROWS)}
    grid = make_grid((2, 2, 2), np.full(3, 20.0), (True, True, True), 5.0)
    placed = {name: grid.spread(values.astype("f4")) for name, values in fields.items()}
    wanted = range(ATOMS) if chosen is None else chosen
    row = np.argsort(ids)[8 * ROWS - ATOMS :][list(wanted)]
    firsts, parts = zip(
        *gathering.parts(placed, grid.spread(ids), grid, len(wanted), chosen), strict=True
    )
    assert list(firsts) == list(range(0, len(wanted), min(size, len(wanted))))
    for name, values in fields.items():
        found = np.concatenate([part[name] for part in parts])
        np.testing.assert_array_equal(found, values[row].astype("f4"))
    domain = np.concatenate([part[gathering.DOMAIN] for part in parts])
    np.testing.assert_array_equal(domain, row // ROWS)


def test_files_of_a_run_in_parts(monkeypatch, tmp_path):
    """Those of all atoms and of some, against one device, where each frame is written at once."""
    monkeypatch.setattr(gathering, "_LEAST", 30)
    monkeypatch.setattr(gathering, "_PARTS", 4)
    potential = LennardJones.create(["Ar"], [[0.0104]], [[3.4]], 6.0)
    atoms = bulk("Ar", "fcc", 5.5, cubic=True) * (3, 3, 3)
    words = {"steps": 20, "timestep_fs": 4, "temperature_K": 100, "dtype": "float64", "skin": 0.8}
    words |= {"log_every": 20, "trajectory_every": 10, "progress": False}
    some = TrajectorySettings(atoms=(90, 2, 55), velocities=True, forces=True)
    alone = simulate(potential, atoms, output=tmp_path / "one", trajectory=some, **words)
    eight = simulate(
        potential, atoms, output=tmp_path / "8", trajectory=some, domains=(2, 2, 1), **words
    )
    assert (alone.step, alone.time_fs) == (eight.step, eight.time_fs) == (20, 80)
    for name in ("trajectory", "final"):
        frames = (read(tmp_path / folder / f"{name}.extxyz", ":") for folder in ("one", "8"))
        for ours, theirs in zip(*frames, strict=True):
            np.testing.assert_allclose(ours.positions, theirs.positions, atol=1.1e-8)
            np.testing.assert_allclose(ours.get_momenta(), theirs.get_momenta(), atol=1.1e-8)
            np.testing.assert_allclose(ours.get_forces(), theirs.get_forces(), atol=1.1e-8)
            assert ours.calc.results.keys() == theirs.calc.results.keys()
            assert ours.info == theirs.info
    np.testing.assert_allclose(alone.atoms.positions, eight.atoms.positions, atol=1e-9)
    kept = simulate(potential, atoms, trajectory=some, domains=(2, 2, 1), **words).frames
    np.testing.assert_allclose(kept[-1].positions, alone.atoms.positions[[90, 2, 55]], atol=1e-9)
