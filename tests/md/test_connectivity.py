"""Bonds along a trajectory: their lengths against ASE, those that break, those that are new."""

from __future__ import annotations

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from allegro_jax.cli import main
from md.analysis import analyse
from md.analysis.connectivity import BROKEN, covalent


@pytest.fixture(scope="module")
def frames():
    """Two water molecules and one of ethanol, vibrating, across the faces of a skewed cell."""
    rng = np.random.default_rng(0)
    start = molecule("H2O")
    for number, name in enumerate(("H2O", "CH3CH2OH"), 1):
        other = molecule(name)
        other.rotate(40 * number, (1, 2, number))
        other.translate((3.5 * number, 1.0, 2.0 * number))
        start += other
    start.set_cell([[9, 0, 0], [1.5, 9, 0], [0, 1, 9]])
    start.pbc = True
    frames = []
    for number in range(12):
        atoms = start.copy()
        atoms.positions += rng.normal(scale=0.03, size=(len(atoms), 3)) + 0.9 * number
        atoms.wrap()
        atoms.info["time_fs"] = 10.0 * number
        frames.append(atoms)
    return frames


def row_of(found, first, second):
    (row,) = [
        row for row in found.summary["bonds"] if {row["first"], row["second"]} == {first, second}
    ]
    return row


def test_lengths_are_those_of_ase(frames, tmp_path):
    ase.io.write(tmp_path / "frames.extxyz", frames)
    found = analyse(tmp_path / "frames.extxyz", bonds=True, blocks=3)
    assert set(found.tables) == {"bonds"}
    pairs = {  # ethanol is C6 C7 O8 and its H, that of O first
        ("O", "H"): [(0, 1), (0, 2), (3, 4), (3, 5), (8, 9)],
        ("C", "C"): [(6, 7)],
        ("C", "O"): [(7, 8)],
        ("C", "H"): [(6, 12), (6, 13), (6, 14), (7, 10), (7, 11)],
    }
    assert len(found.summary["bonds"]) == len(pairs)
    for (first, second), atoms in pairs.items():
        lengths = np.array(
            [[frame.get_distance(i, j, mic=True) for i, j in atoms] for frame in frames]
        )
        row = row_of(found, first, second)
        means = lengths.reshape(3, 4, -1).mean(axis=(1, 2))
        assert row["bonds"] == len(atoms)
        assert row["mean_A"] == pytest.approx(lengths.mean(), rel=1e-6)
        assert row["mean_A_error"] == pytest.approx(means.std(ddof=1) / np.sqrt(3), rel=1e-5)
        assert row["deviation_A"] == pytest.approx(lengths.std(), rel=1e-5)
        assert row["shortest_A"] == pytest.approx(lengths.min(), rel=1e-6)
        assert row["longest_A"] == pytest.approx(lengths.max(), rel=1e-6)
        assert row["broken"] == row["new"] == 0
    assert found.summary["settings"]["bonds"]["first_change"] is None


def test_a_proton_that_hops_breaks_one_bond_and_makes_another(frames, tmp_path):
    moved = [atoms.copy() for atoms in frames]
    for atoms in moved[7:]:
        away = atoms.get_distance(3, 0, mic=True, vector=True)
        atoms.positions[1] = atoms.positions[3] + 0.97 * away / np.linalg.norm(away)
    ase.io.write(tmp_path / "hop.extxyz", moved)
    found = analyse(tmp_path / "hop.extxyz", bonds=["H-O"])
    row = row_of(found, "O", "H")
    assert (row["bonds"], row["broken"], row["new"]) == (5, 1, 1)
    change = found.summary["settings"]["bonds"]["first_change"]
    assert change == {
        "frame": 7,
        "time_fs": 70.0,
        "atoms": [0, 1],
        "symbols": ["O", "H"],
        "change": "broken",
    }
    assert "first in frame 7: O0-H1 broken" in str(found)


def test_a_bond_is_broken_only_well_beyond_the_length(tmp_path):
    limit = covalent(("O", "H"))
    frames = []
    for stretch in (0.9, 1.1, 0.99 * BROKEN, 0.9):
        frames.append(Atoms("OH", [[0, 0, 0], [0, 0, stretch * limit]]))
    ase.io.write(tmp_path / "open.extxyz", frames)
    (row,) = analyse(tmp_path / "open.extxyz", bonds=True).summary["bonds"]
    assert row["broken"] == 0 and row["longest_A"] == pytest.approx(0.99 * BROKEN * limit)
    (row,) = analyse(
        tmp_path / "open.extxyz", bonds=True, bond_lengths={"H-O": 0.92 * limit}
    ).summary["bonds"]
    assert row["broken"] == 1


def test_what_has_no_bonds_is_refused(tmp_path):
    ase.io.write(tmp_path / "apart.extxyz", Atoms("Ar2", [[0, 0, 0], [0, 0, 9]]))
    with pytest.raises(ValueError, match=r"apart.extxyz: frame 0: bonds: no two atoms are closer"):
        analyse(tmp_path / "apart.extxyz", bonds=True)
    ase.io.write(tmp_path / "small.extxyz", bulk("Si"))
    with pytest.raises(ValueError, match=r"small.extxyz: bonds: in so small a cell .* repeat it"):
        analyse(tmp_path / "small.extxyz", bonds=True)


def test_the_command(frames, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ase.io.write("frames.extxyz", frames)
    assert main(["analyse", "frames.extxyz", "--bonds", "O-H", "--output", "bonds"]) == 0
    assert {file.name for file in (tmp_path / "bonds").iterdir()} == {"bonds.csv", "summary.json"}
    assert "O-H        5   0.9" in capsys.readouterr().out
    assert main(["analyse", "frames.extxyz", "--rdf", "--output", "bonds"]) == 0
    assert not (tmp_path / "bonds" / "bonds.csv").exists()
