"""Reading frames, and the message for everything that can be wrong with one."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from allegro_jax.data.conventions import Conventions
from allegro_jax.data.dataset import build_dataset
from allegro_jax.data.frames import DataError, isolated_atom_energies
from allegro_jax.data.sources import frame_from_atoms, read_frames


def labelled(**changes) -> Atoms:
    atoms = Atoms("CO", [[0, 0, 0], [0, 0, 1.2]], cell=[6, 6, 6], pbc=True)
    results = {"energy": -3.5, "forces": np.full((2, 3), 0.25), "stress": np.arange(6) / 100.0}
    atoms.calc = SinglePointCalculator(atoms, **(results | changes))
    return atoms


def test_labels_come_back(tmp_path):
    write(tmp_path / "a.xyz", [labelled(), labelled(energy=-4.0)], format="extxyz")
    first, second = read_frames(tmp_path / "a.xyz")
    assert (first.energy, second.energy) == (-3.5, -4.0)
    np.testing.assert_array_equal(first.forces, np.full((2, 3), 0.25))
    # Voigt order is xx, yy, zz, yz, xz, xy
    np.testing.assert_allclose(
        first.stress, [[0.00, 0.05, 0.04], [0.05, 0.01, 0.03], [0.04, 0.03, 0.02]]
    )
    assert first.symbols == ("C", "O") and second.index == 1 and first.volume == pytest.approx(216)


def test_compressed_and_several_files(tmp_path):
    write(tmp_path / "a.xyz", labelled(), format="extxyz")
    with gzip.open(tmp_path / "b.xyz.gz", "wt") as file:
        file.write((tmp_path / "a.xyz").read_text())
    frames = read_frames([tmp_path / "a.xyz", tmp_path / "b.xyz.gz"])
    assert [frame.energy for frame in frames] == [-3.5, -3.5]
    assert frames[1].source.endswith("b.xyz.gz")


def test_other_names_of_labels(tmp_path):
    atoms = Atoms("CO", [[0, 0, 0], [0, 0, 1.2]], cell=[6, 6, 6], pbc=True)
    atoms.info |= {"dft_energy": -1.0, "dft_stress": np.eye(3)}
    atoms.arrays["dft_forces"] = np.ones((2, 3))
    write(tmp_path / "a.xyz", atoms, format="extxyz")
    (frame,) = read_frames(
        tmp_path / "a.xyz", Conventions("dft_energy", "dft_forces", "dft_stress")
    )
    assert frame.energy == -1.0 and frame.forces.sum() == 6
    np.testing.assert_array_equal(frame.stress, np.eye(3))
    # with the usual names nothing is found, and the message tells what there is
    with pytest.raises(DataError, match=r"a\.xyz, frame 0: labels.*'dft_energy'.*data\.energy_key"):
        read_frames(tmp_path / "a.xyz")


def test_missing_forces_and_stress_are_fine(tmp_path):
    write(tmp_path / "a.xyz", labelled(forces=None, stress=None), format="extxyz")
    (frame,) = read_frames(tmp_path / "a.xyz")
    assert frame.forces is None and frame.stress is None


def spoiled(kind: str) -> Atoms:
    atoms = labelled()
    match kind:
        case "NaN position":
            atoms.positions[1, 2] = np.nan
        case "infinite energy":
            return labelled(energy=np.inf)
        case "NaN force":
            return labelled(forces=np.full((2, 3), np.nan))
        case "absurd force":
            return labelled(forces=np.full((2, 3), 1e4))
        case "no volume":
            atoms = labelled(stress=None)
            atoms.set_cell(np.zeros((3, 3)))
            # ASE would find that the results belong to another cell
            atoms.calc = SinglePointCalculator(atoms, energy=-1.0)
        case "stress without volume":
            atoms.set_cell(np.zeros((3, 3)))
            atoms.pbc = False
            atoms.calc = SinglePointCalculator(atoms, energy=-1.0, stress=np.ones(6))
        case "unknown species":
            atoms.numbers[0] = 92
    return atoms


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("NaN position", "positions: NaN"),
        ("infinite energy", "energy: NaN or infinite"),
        ("NaN force", "forces: NaN"),
        ("absurd force", r"forces: 1.732e\+04 eV/Å on atom 0.*units"),
        ("no volume", "cell: periodic along a, b, c.*Lattice"),
        ("stress without volume", "stress: given for a frame without volume"),
        ("unknown species", "species: the potential knows C, O, not U"),
    ],
)
def test_bad_frames_are_named(tmp_path, kind, message):
    write(tmp_path / "bad.xyz", [labelled(), spoiled(kind)], format="extxyz")
    with pytest.raises(DataError, match=rf"bad\.xyz, frame 1: {message}"):
        read_frames(tmp_path / "bad.xyz", species=("C", "O"))


def test_wrong_shape_is_named(tmp_path):
    atoms = Atoms("CO", [[0, 0, 0], [0, 0, 1.2]])
    atoms.arrays["f"] = np.ones((2, 2))
    write(tmp_path / "bad.xyz", atoms, format="extxyz")
    with pytest.raises(
        DataError, match=r"forces \(key 'f'\) has the shape \(2, 2\), expected \(2, 3\)"
    ):
        read_frames(tmp_path / "bad.xyz", Conventions(forces_key="f"))


def test_overlapping_atoms_are_named():
    atoms = Atoms("CO", [[0, 0, 0], [0, 0, 5.9]], cell=[6, 6, 6], pbc=True)
    frame = frame_from_atoms(atoms, source="bad.xyz", index=3)
    message = "bad.xyz, frame 3: positions: atoms 0 and 1 are only 0.1 Å apart"
    with pytest.raises(DataError, match=message):
        build_dataset([frame], ("C", "O"), 3.0)


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"absent\.xyz: no such file"):
        read_frames(tmp_path / "absent.xyz")
    (tmp_path / "broken.xyz").write_text("3\nProperties=species:S:1:pos:R:3\nH 0 0 0\n")
    with pytest.raises(DataError, match=r"broken\.xyz: file: ends after 1 of 3 atoms"):
        read_frames(tmp_path / "broken.xyz")


def test_isolated_atoms():
    atoms = [Atoms("H"), Atoms("O"), Atoms("H2", [[0, 0, 0], [0, 0, 0.7]])]
    for number, structure in enumerate(atoms):
        structure.info["energy"] = -float(number)
    assert isolated_atom_energies(map(frame_from_atoms, atoms)) == {"H": 0.0, "O": -1.0}
