"""Start structures: the last frame of anything ASE reads, LAMMPS data files with elements."""

from __future__ import annotations

import ase.io
import numpy as np
import pytest
from ase.build import bulk

from md import structure_file


@pytest.fixture
def salt():
    atoms = bulk("LiF", "rocksalt", a=4.0) * (2, 1, 1)
    atoms.rattle(0.1, seed=1)
    return atoms


@pytest.mark.parametrize("name", ["many.extxyz", "many.traj", "POSCAR", "one.cif"])
def test_the_last_structure_is_read(salt, tmp_path, name):
    frames = [bulk("Cu"), salt] if name.startswith("many") else [salt]
    ase.io.write(tmp_path / name, frames)
    atoms = structure_file.read(tmp_path / name)
    assert sorted(atoms.numbers) == sorted(salt.numbers)
    assert atoms.get_volume() == pytest.approx(salt.get_volume(), rel=1e-5)


def test_one_of_several_structures_is_read(salt, tmp_path):
    path = tmp_path / "many.extxyz"
    ase.io.write(path, [bulk("Cu"), salt, bulk("Ag")])
    assert structure_file.read(path, frame=0).symbols[0] == "Cu"
    assert len(structure_file.read(path, frame=1)) == len(salt)
    with pytest.raises(ValueError, match=r"many.extxyz has no frame 3"):
        structure_file.read(path, frame=3)
    with pytest.raises(ValueError, match="counted from 0"):
        structure_file.read(path, frame=-1)


DATA = """LAMMPS data file

4 atoms
2 atom types

0 4.0 xlo xhi
0 5.0 ylo yhi
0 6.0 zlo zhi
1.0 0.5 0.25 xy xz yz
{masses}
Atoms # atomic

2 2 1.0 1.0 1.0
1 1 0.0 0.0 0.0
3 1 2.0 0.0 0.0 1 0 0
4 2 3.0 1.0 1.0

Velocities

1 1.0 0.0 0.0
2 0.0 0.0 0.0
3 0.0 0.0 2.0
4 0.0 0.0 0.0
"""
MASSES = "\nMasses\n\n1 6.94 # a\n2 18.998\n"


def test_lammps_data(tmp_path):
    path = tmp_path / "system.dat"
    path.write_text(DATA.format(masses=MASSES))
    atoms = structure_file.read(path)
    assert atoms.get_chemical_symbols() == ["Li", "F", "Li", "F"]  # in the order of the ids
    np.testing.assert_allclose(atoms.cell.array, [[4, 0, 0], [1, 5, 0], [0.5, 0.25, 6]])
    np.testing.assert_allclose(atoms.positions[2], [6, 0, 0])  # the image flag counts
    speed = atoms.get_velocities()[2, 2] * ase.units.fs  # 2 Å/ps
    assert speed == pytest.approx(0.002)
    assert atoms.pbc.all()


def test_lammps_data_as_ase_writes_it(salt, tmp_path):
    path = tmp_path / "data.salt"
    salt.set_cell(salt.cell.standard_form()[0], scale_atoms=True)  # as LAMMPS wants its cells
    salt.set_momenta(np.random.default_rng(0).normal(size=(4, 3)))
    ase.io.write(path, salt, format="lammps-data", masses=True, velocities=True)
    atoms = structure_file.read(path)
    assert atoms.get_chemical_symbols() == salt.get_chemical_symbols()
    np.testing.assert_allclose(atoms.cell.array, salt.cell.array, atol=1e-9)
    moved = (atoms.positions - salt.positions) @ np.linalg.inv(salt.cell.array)
    np.testing.assert_allclose(moved, np.round(moved), atol=1e-9)
    np.testing.assert_allclose(atoms.get_velocities(), salt.get_velocities(), rtol=1e-6)


def test_lammps_types_get_the_elements_that_are_given(tmp_path):
    path = tmp_path / "data.lj"
    path.write_text(DATA.format(masses="\nMasses\n\n1 1.5\n2 1.5\n"))
    atoms = structure_file.read(path, species={1: "Ne", 2: "Ar"})
    assert atoms.get_chemical_symbols() == ["Ne", "Ar", "Ne", "Ar"]
    np.testing.assert_allclose(atoms.get_masses(), 1.5, rtol=1e-8)  # but the masses are the file's
    path.write_text(DATA.format(masses=""))
    atoms = structure_file.read(path, species={1: "Ne", 2: "Ar"})
    assert atoms.get_masses()[0] == pytest.approx(20.18, abs=0.01)


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        (DATA.format(masses=""), {}, "does not say which elements its types 1, 2 are"),
        (DATA.format(masses="\nMasses\n\n1 1.5\n2 1.5\n"), {}, "mass 1.5 of type 1 .* no element"),
        (DATA.format(masses=MASSES), {"species": {1: "Li"}}, "elements its types 2 are"),
        (DATA.format(masses=MASSES), {"species": {1: "Li", 2: "Foo"}}, "Foo, which is no element"),
        ("2\n\nH 0 0 0\nH 0 0\n", {"format": "xyz"}, "cannot be read by ASE"),
        ("nonsense", {}, "holds no atoms; .*format="),
        ("", {}, "cannot be read by ASE .*format="),
        ("1\n\nH 0 0 0\n", {"format": "xyz", "species": {1: "H"}}, "not a LAMMPS data file"),
    ],
)
def test_files_that_say_too_little_are_refused_in_words(tmp_path, text, options, words):
    path = tmp_path / "thing.in"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"thing.in.*{words}"):
        structure_file.read(path, **options)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.xyz: no such file"):
        structure_file.read(tmp_path / "absent.xyz")
