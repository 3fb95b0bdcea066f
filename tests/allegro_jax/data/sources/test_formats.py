"""Formats of arrays, databases and folders, each written by something else than what reads it."""

from __future__ import annotations

import io
import tarfile

import ase.db
import h5py
import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from allegro_jax.data.conventions import Conventions
from allegro_jax.data.frames import DataError
from allegro_jax.data.sources import expand, iter_frames, read_frames

KCAL = units.kcal / units.mol
NUMBERS = np.asarray([8, 1, 1])


@pytest.fixture
def water_frames():
    """Three frames of a molecule: positions (Å), energies (eV), forces (eV/Å)."""
    rng = np.random.default_rng(0)
    shape = np.asarray([[0, 0, 0.12], [0, 0.76, -0.48], [0, -0.76, -0.48]])
    positions = shape + 0.01 * rng.normal(size=(3, 3, 3))
    forces = rng.normal(size=(3, 3, 3))
    return positions, rng.normal(size=3) - 2000, forces - forces.mean(axis=1, keepdims=True)


def assert_same(frames, positions, energies, forces, stress=None):
    assert [frame.index for frame in frames] == list(range(len(energies)))
    for place, frame in enumerate(frames):
        assert frame.symbols == ("O", "H", "H")
        np.testing.assert_allclose(frame.positions, positions[place], rtol=0, atol=1e-9)
        assert frame.energy == pytest.approx(energies[place], abs=1e-8)
        np.testing.assert_allclose(frame.forces, forces[place], rtol=0, atol=1e-9)
        if stress is not None:
            np.testing.assert_allclose(frame.stress, stress[place], rtol=0, atol=1e-12)


# -- npz -------------------------------------------------------------------------------------------


def test_sgdml(tmp_path, water_frames):
    positions, energies, forces = water_frames
    arrays = {"R": positions, "E": energies[:, None] / KCAL, "F": forces / KCAL, "z": NUMBERS}
    np.savez(tmp_path / "a.npz", **arrays, name="water", type="d")
    assert_same(read_frames(tmp_path / "a.npz"), *water_frames)
    # its own units come first, then what the user says
    bohr = {"R": positions / units.Bohr, "E": energies, "F": forces * units.Bohr, "z": NUMBERS}
    np.savez(tmp_path / "b.npz", **bohr, e_unit="eV", r_unit="Bohr")
    assert_same(read_frames(tmp_path / "b.npz"), *water_frames)
    arrays = {"R": positions, "E": energies, "F": forces, "z": NUMBERS}
    np.savez(tmp_path / "c.npz", **arrays, e_unit=b"kcal/mol")
    assert_same(read_frames(tmp_path / "c.npz", Conventions(energy_unit="eV")), *water_frames)


def test_rmd17(tmp_path, water_frames):
    positions, energies, forces = water_frames
    np.savez(
        tmp_path / "rmd17.npz",
        nuclear_charges=NUMBERS.astype(np.uint8),
        coords=positions,
        energies=energies / KCAL,
        forces=forces / KCAL,
        old_energies=energies,
        old_indices=np.arange(3),
    )
    frames = read_frames(tmp_path / "rmd17.npz")
    assert_same(frames, *water_frames)
    assert not frames[0].pbc.any() and frames[0].volume == 0
    # any array over frames is a label
    other = read_frames(tmp_path / "rmd17.npz", Conventions(energy_key="old_energies"))
    assert other[1].energy == pytest.approx(energies[1] * KCAL)


def test_padded_molecules(tmp_path, water_frames):
    positions, energies, forces = water_frames
    numbers = np.asarray([[8, 1, 1], [8, 1, 0], [8, 1, 1]])
    np.savez(
        tmp_path / "a.npz", numbers=numbers, positions=positions, energy=energies, forces=forces
    )
    frames = read_frames(tmp_path / "a.npz")
    assert [len(frame) for frame in frames] == [3, 2, 3]
    np.testing.assert_array_equal(frames[1].forces, forces[1, :2])
    np.testing.assert_array_equal(frames[2].positions, positions[2])


def test_arrays_that_do_not_go_together(tmp_path, water_frames):
    positions, energies, _ = water_frames
    path = tmp_path / "a.npz"
    for arrays, message in (
        ({"positions": positions, "energy": energies}, "atomic numbers: none of the names numbers"),
        ({"numbers": NUMBERS, "energy": energies}, "positions: none of the names"),
        ({"numbers": NUMBERS[:2], "positions": positions}, r"positions: the shape \(3, 3\) for 2"),
        ({"numbers": NUMBERS, "positions": positions, "cell": np.eye(2)}, r"cell: the shape \(2,"),
    ):
        np.savez(path, **arrays)
        with pytest.raises(DataError, match=rf"a\.npz: {message}"):
            read_frames(path)
    np.savez(path, R=positions, E=energies, z=NUMBERS, e_unit="parsec")
    with pytest.raises(DataError, match=r"a\.npz: e_unit: 'parsec': no unit 'parsec'"):
        read_frames(path)


# -- HDF5 ------------------------------------------------------------------------------------------


def test_hdf5(tmp_path, water_frames):
    positions, energies, forces = water_frames
    stress = np.arange(27).reshape(3, 3, 3) * 1e-3
    with h5py.File(tmp_path / "a.h5", "w") as file:
        group = file.create_group("water/run 1")
        group["numbers"] = NUMBERS
        group["positions"] = positions
        group["cell"] = 8 * np.eye(3)
        group["energy"] = energies / KCAL
        group["energy"].attrs["units"] = "kcal/mol"
        group["forces"] = forces
        group["forces"].attrs["units"] = "eV/angstrom"
        group["stress"] = stress
        group["stress"].attrs["units"] = "eV/angstrom^3"
    frames = read_frames(tmp_path / "a.h5")
    assert_same(frames, *water_frames, stress)
    assert frames[0].pbc.all() and frames[0].volume == pytest.approx(512)


def test_spice(tmp_path, water_frames):
    positions, energies, forces = water_frames
    with h5py.File(tmp_path / "SPICE.hdf5", "w") as file:
        for name, members in (("b", slice(2, 3)), ("a", slice(0, 2))):
            group = file.create_group(name)
            group["subset"] = np.asarray([b"Water"])
            group["atomic_numbers"] = NUMBERS
            group["conformations"] = positions[members] / units.Bohr
            group["dft_total_energy"] = energies[members] / units.Hartree
            group["formation_energy"] = np.full(members.stop - members.start, -0.5)
            group["dft_total_gradient"] = -forces[members] * units.Bohr / units.Hartree
            group["conformations"].attrs["units"] = "bohr"
            group["dft_total_gradient"].attrs["units"] = "hartree/bohr"
    assert_same(read_frames(tmp_path / "SPICE.hdf5"), *water_frames)
    frames = read_frames(tmp_path / "SPICE.hdf5", Conventions(energy_key="formation_energy"))
    assert frames[2].energy == pytest.approx(-0.5 * units.Hartree)


def test_hdf5_without_frames(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["energy"] = np.zeros(3)
    with pytest.raises(DataError, match=r"a\.h5: file: no group holds positions"):
        read_frames(tmp_path / "a.h5")


# -- databases -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.db", "a.json", "a.aselmdb"])
def test_databases(tmp_path, water_frames, name):
    if name.endswith("aselmdb"):
        pytest.importorskip("ase_db_backends")
    kind = name.partition(".")[2]
    stress = 1e-3 * np.arange(9).reshape(3, 3)
    stress = stress + stress.T
    with ase.db.connect(tmp_path / name, type=kind) as database:
        for positions, energy, forces in zip(*water_frames, strict=True):
            atoms = Atoms(NUMBERS, positions, cell=[8, 8, 8], pbc=True)
            voigt = stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
            results = {"energy": energy, "forces": forces, "stress": voigt}
            atoms.calc = SinglePointCalculator(atoms, **results)
            database.write(atoms, other_energy=2 * energy, data={"kept": 0.5})
    path = tmp_path / name
    assert_same(read_frames(path), *water_frames, [stress] * 3)
    other = read_frames(path, Conventions(energy_key="other_energy", weight_key="kept"))
    assert other[2].energy == pytest.approx(2 * water_frames[1][2]) and other[2].weight == 0.5


# -- QM9 -------------------------------------------------------------------------------------------

METHANE = (
    "5\n"
    "gdb 1\t157.7118\t157.70997\t157.70699\t0.\t13.21\t-0.3877\t0.1171\t0.5048\t35.3641\t0.044749"
    "\t-40.47893\t-40.476062\t-40.475117\t-40.498597\t6.469\t\n"
    "C\t-0.0126981359\t 1.0858041578\t 8.0009958*^-3\t-0.535689\n"
    "H\t 0.002150416\t-6.0313176*^-3\t 1.9761204*^-3\t 0.133921\n"
    "H\t 1.0117308433\t 1.4637511618\t 2.765748*^-4\t 0.133922\n"
    "H\t-0.540815069\t 1.4475266138\t-0.8766437152\t 0.133923\n"
    "H\t-0.5238136345\t 1.4379326443\t 0.9063972942\t 0.133923\n"
    "1341.307\t1341.3284\t1341.365\t1562.6731\t1562.7453\t3038.3205\t3151.6034\t3151.6788\t3151.7078\n"
    "C\tC\t\nInChI=1S/CH4/h1H4\tInChI=1S/CH4/h1H4\n"
)


def test_qm9(tmp_path):
    with tarfile.open(tmp_path / "dsgdb9nsd.xyz.tar.bz2", "w:bz2") as archive:
        for number in (1, 2):
            text = METHANE.replace("gdb 1", f"gdb {number}").encode()
            member = tarfile.TarInfo(f"dsgdb9nsd_{number:06}.xyz")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    frames = read_frames(tmp_path / "dsgdb9nsd.xyz.tar.bz2")
    assert len(frames) == 2 and frames[1].symbols == ("C", "H", "H", "H", "H")
    assert frames[0].energy == pytest.approx(-40.47893 * units.Hartree)
    np.testing.assert_allclose(frames[0].positions[0], [-0.0126981359, 1.0858041578, 0.0080009958])
    (tmp_path / "dsgdb9nsd_000001.xyz").write_text(METHANE)
    for key, energy in (("U", -40.476062), ("H", -40.475117), ("G", -40.498597)):
        (frame,) = read_frames(tmp_path / "dsgdb9nsd_000001.xyz", Conventions(energy_key=key))
        assert frame.energy == pytest.approx(energy * units.Hartree)
    (tmp_path / "dsgdb9nsd_000001.xyz").write_text(METHANE.replace("\t6.469\t", ""))
    with pytest.raises(DataError, match=r"dsgdb9nsd_000001\.xyz: .*not a molecule of QM9"):
        read_frames(tmp_path / "dsgdb9nsd_000001.xyz")


# -- DeePMD ----------------------------------------------------------------------------------------


def write_system(folder, positions, energies, forces, stress, *, sets=1):
    folder.mkdir()
    (folder / "type.raw").write_text("1\n0\n0\n")
    (folder / "type_map.raw").write_text("H\nO\n")
    frames = np.arange(len(energies))
    for number, members in enumerate(np.array_split(frames, sets)):
        part = folder / f"set.{number:03}"
        part.mkdir()
        np.save(part / "coord.npy", positions[members].reshape(len(members), -1))
        np.save(part / "energy.npy", energies[members])
        np.save(part / "force.npy", forces[members].reshape(len(members), -1))
        if stress is not None:
            np.save(part / "box.npy", np.tile((8 * np.eye(3)).ravel(), (len(members), 1)))
            # eV; the pressure tensor times the volume
            np.save(part / "virial.npy", -512 * stress[members].reshape(len(members), 9))


def test_deepmd(tmp_path, water_frames):
    stress = np.arange(27).reshape(3, 3, 3) * 1e-3
    stress = stress + stress.transpose(0, 2, 1)
    write_system(tmp_path / "system", *water_frames, stress, sets=2)
    frames = read_frames(tmp_path / "system")
    assert_same(frames, *water_frames, stress)
    assert frames[0].pbc.all()
    # a folder of systems
    assert [frame.energy for frame in read_frames(tmp_path)] == list(water_frames[1])


def test_deepmd_without_periodic_boundaries(tmp_path, water_frames):
    write_system(tmp_path / "system", *water_frames, None)
    with pytest.raises(DataError, match=r"system: .*no box\.npy.*nopbc"):
        read_frames(tmp_path / "system")
    (tmp_path / "system" / "nopbc").touch()
    frames = read_frames(tmp_path / "system")
    assert_same(frames, *water_frames)
    assert not frames[0].pbc.any()
    (tmp_path / "system" / "type_map.raw").write_text("H\nXx\n")
    with pytest.raises(DataError, match=r"type_map\.raw: 'Xx' is no chemical symbol"):
        read_frames(tmp_path / "system")
    (tmp_path / "system" / "type_map.raw").unlink()
    with pytest.raises(DataError, match=r"type_map\.raw: missing"):
        read_frames(tmp_path / "system")


def test_deepmd_of_mixed_types_and_text(tmp_path, water_frames):
    positions, energies, forces = water_frames
    write_system(tmp_path / "system", *water_frames, None)
    (tmp_path / "system" / "nopbc").touch()
    mixed = np.asarray([[1, 0, 0], [1, 0, -1], [0, 0, 1]])
    np.save(tmp_path / "system" / "set.000" / "real_atom_types.npy", mixed)
    symbols = [frame.symbols for frame in read_frames(tmp_path / "system")]
    assert symbols == [("O", "H", "H"), ("O", "H"), ("H", "H", "O")]
    text = tmp_path / "text"
    text.mkdir()
    (text / "type.raw").write_text("1 0 0\n")
    (text / "type_map.raw").write_text("H O\n")
    (text / "nopbc").touch()
    for name, rows in (("coord", positions), ("energy", energies), ("force", forces)):
        np.savetxt(text / f"{name}.raw", rows.reshape(3, -1), fmt="%.12f")
    assert_same(read_frames(text), *water_frames)


# -- paths -----------------------------------------------------------------------------------------


def test_folders_and_patterns(tmp_path, water_frames):
    positions, energies, _ = water_frames
    for place, name in enumerate(("b.xyz", "a.xyz", "c.extxyz")):
        atoms = Atoms(NUMBERS, positions[place], info={"energy": energies[place]})
        write(tmp_path / name, atoms, format="extxyz")
    (tmp_path / "notes.txt").write_text("nothing to read\n")
    (tmp_path / ".hidden.xyz").write_text("nothing to read\n")
    names = ["a.xyz", "b.xyz", "c.extxyz"]
    assert [path.name for path in expand(tmp_path)] == names
    assert [path.name for path in expand(tmp_path / "*.xyz")] == names[:2]
    frames = read_frames([tmp_path / "c.extxyz", tmp_path / "?.xyz"])
    assert [frame.energy for frame in frames] == pytest.approx(list(energies[[2, 1, 0]]))
    for path, message in (
        (tmp_path / "*.cif", "no file matches"),
        (tmp_path / "absent", "no such file"),
    ):
        with pytest.raises(DataError, match=message):
            read_frames(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no file of a known format"):
        read_frames(tmp_path / "empty")


def test_a_named_format(tmp_path, water_frames):
    atoms = Atoms(NUMBERS, water_frames[0][0], info={"energy": -1.0})
    write(tmp_path / "frames.abc", atoms, format="extxyz")
    with pytest.raises(DataError, match=r"frames\.abc: .*data\.format"):
        read_frames(tmp_path / "frames.abc")
    (frame,) = read_frames(tmp_path / "frames.abc", Conventions(format="extxyz"))
    assert frame.energy == -1
    with pytest.raises(DataError, match=r"no format 'exyz'; there are extxyz, npz"):
        read_frames(tmp_path / "frames.abc", Conventions(format="exyz"))


def test_frames_come_one_at_a_time(tmp_path, water_frames):
    """A file that breaks off gives all frames before that, and its problem names the frame."""
    positions, energies, _ = water_frames
    frames = [
        Atoms(NUMBERS, p, info={"energy": e}) for p, e in zip(positions, energies, strict=True)
    ]
    write(tmp_path / "a.xyz", frames, format="extxyz")
    text = (tmp_path / "a.xyz").read_text().splitlines(keepends=True)
    (tmp_path / "a.xyz").write_text("".join(text[:-1]))
    reading = iter_frames(tmp_path / "a.xyz")
    assert next(reading).energy == pytest.approx(energies[0])
    assert next(reading).energy == pytest.approx(energies[1])
    with pytest.raises(DataError, match=r"a\.xyz, frame 2: file: ends after 2 of 3 atoms"):
        next(reading)
