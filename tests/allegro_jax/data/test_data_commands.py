"""allegro-jax data check and stats."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase import Atoms
from ase.io import write

from allegro_jax import cli


@pytest.fixture
def folder(tmp_path):
    """Two files: one in order, one with two unusable frames and a copy."""
    forces = np.asarray([[0, 0, 0.5], [0, 0, -0.5]])

    def molecule(distance, **info):
        atoms = Atoms("CO", [[0, 0, 0], [0, 0, distance]], info={"energy": -1.0, **info})
        atoms.arrays["forces"] = (2 - distance) * forces
        return atoms

    write(tmp_path / "good.xyz", [molecule(1.1), molecule(1.2)], format="extxyz")
    bad = [molecule(0.1), molecule(1.3), molecule(1.1), molecule(1.4, energy=np.nan)]
    write(tmp_path / "wrong.xyz", bad, format="extxyz")
    return tmp_path


def test_check(folder, capsys):
    assert cli.main(["data", "check", str(folder / "good.xyz")]) == 0
    assert capsys.readouterr().out == "2 frames can be used; 0 errors, 0 warnings.\n"
    report = folder / "report.json"
    assert cli.main(["data", "check", str(folder), "--json", str(report)]) == 2
    out, err = capsys.readouterr()
    assert f"error: {folder / 'wrong.xyz'}, frame 0: positions: atoms 0 and 1 are only" in out
    assert f"error: {folder / 'wrong.xyz'}, frame 3: energy: NaN" in out
    assert f"warning: {folder / 'wrong.xyz'}, frame 2: positions: the same structure as" in out
    assert "4 frames can be used; 2 errors, 1 warnings." in out
    assert err.startswith("allegro-jax: 2 errors") and len(err.splitlines()) == 1
    problems = json.loads(report.read_text())
    assert [(one["frame"], one["fatal"]) for one in problems] == [(0, True), (2, False), (3, True)]


def test_check_of_species_and_units(folder, capsys):
    assert cli.main(["data", "check", str(folder / "good.xyz"), "--species", "C", "H"]) == 2
    assert "frame 0: species: the potential knows C, H, not O" in capsys.readouterr().out
    assert cli.main(["data", "check", str(folder / "good.xyz"), "--energy-unit", "Bohr"]) == 2
    assert "'Bohr' is no unit of energy" in capsys.readouterr().err


def test_stats(folder, capsys):
    path = folder / "stats.json"
    arguments = ["data", "stats", str(folder / "good.xyz"), "--cutoff", "3", "--json", str(path)]
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    assert "2 frames, 4 atoms; 2 with energy, 2 with forces, 0 with stress" in out
    assert "C-O" in out and "1.100" in out and "neighbours in 3 Å" in out
    summary = json.loads(path.read_text())
    assert summary["compositions"] == {"CO": 2} and summary["average_neighbours"] == 1
    assert summary["shortest_distances_A"]["C-O"] == pytest.approx(1.1)
    assert summary["ranges"]["energy_per_atom_eV"] == [-0.5, -0.5]
    assert cli.main(["data", "stats", str(folder / "good.xyz"), "--cutoff", "-1"]) == 2
    assert "--cutoff: a distance above 0" in capsys.readouterr().err
