"""Trajectories: read back by ASE, h5py and MDAnalysis; subsets, precision, cutting, joining."""

from __future__ import annotations

import warnings

import ase.io
import h5py
import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator

from md import h5md
from md.parts import Part
from md.trajectory import TrajectorySettings, join, open_trajectory

ATOMS = 5


def frame(step: int, *, pbc: bool = True) -> Atoms:
    rng = np.random.default_rng(step)
    atoms = Atoms(
        "H2OLiF",
        rng.normal(0, 20, (ATOMS, 3)),  # a continuous path leaves the cell
        cell=np.diag([5.0, 6, 7]) + rng.uniform(0, 1, (3, 3)),
        pbc=pbc,
        momenta=rng.normal(size=(ATOMS, 3)),
    )
    forces, stress = rng.normal(size=(ATOMS, 3)), rng.normal(size=6)
    atoms.calc = SinglePointCalculator(atoms, energy=-12345.678901234, forces=forces, stress=stress)
    atoms.info.update(step=step, time_fs=0.5 * step)
    return atoms


def written(folder, settings, steps=(0, 10, 20)):
    trajectory = open_trajectory(folder, settings)
    frames = [frame(step) for step in steps]
    trajectory.write(frames[:1])
    trajectory.commit()
    trajectory.write(frames[1:])
    trajectory.finish()
    trajectory.close()
    return frames


@pytest.mark.parametrize("form", ["extxyz", "traj"])
def test_ase_reads_everything_back(tmp_path, form):
    settings = TrajectorySettings(form, velocities=True, forces=True)
    frames = written(tmp_path, settings)
    for ours, theirs in zip(frames, ase.io.read(tmp_path / f"trajectory.{form}", ":"), strict=True):
        assert theirs.get_chemical_symbols() == ours.get_chemical_symbols()
        np.testing.assert_allclose(theirs.positions, ours.positions, atol=1e-8)
        np.testing.assert_allclose(theirs.cell.array, ours.cell.array, rtol=1e-15)
        np.testing.assert_allclose(theirs.get_momenta(), ours.get_momenta(), atol=1e-8)
        np.testing.assert_allclose(theirs.get_forces(), ours.get_forces(), atol=1e-8)
        np.testing.assert_allclose(theirs.get_stress(), ours.get_stress(), rtol=1e-15)
        assert theirs.get_potential_energy() == ours.get_potential_energy()
        assert theirs.info["step"] == ours.info["step"]
        assert theirs.info["time_fs"] == ours.info["time_fs"]
        assert theirs.pbc.all()


@pytest.mark.parametrize("form", ["extxyz", "traj"])
def test_a_subset_keeps_only_what_is_its_own(tmp_path, form):
    frames = written(tmp_path, TrajectorySettings(form, atoms=(3, 1), forces=True))
    read = ase.io.read(tmp_path / f"trajectory.{form}")
    assert read.get_chemical_symbols() == ["Li", "H"]
    np.testing.assert_allclose(read.get_forces(), frames[-1].get_forces()[[3, 1]], atol=1e-8)
    assert not read.has("momenta")
    # the energy is that of all atoms: as a label of these two it would be wrong
    assert set(read.calc.results) == {"forces"}


def test_decimals_of_text(tmp_path):
    frames = written(tmp_path, TrajectorySettings(precision=2))
    read = ase.io.read(tmp_path / "trajectory.extxyz")
    np.testing.assert_array_equal(read.positions, np.round(frames[-1].positions, 2))
    assert read.calc.results.keys() == {"energy", "stress"}


def test_extended_xyz_of_what_is_unusual(tmp_path):
    """No cell, masses of one's own, long symbols, text and truth in the info."""
    from md.extxyz import formatted

    atoms = Atoms("ClH", [[0, 0, 0], [1e5, -1e5, 1.25]], masses=[34.5, 2.014])
    atoms.info.update(name='a "name" with blanks', done=True, count=np.int64(3))
    (tmp_path / "a.extxyz").write_text(formatted(atoms))
    read = ase.io.read(tmp_path / "a.extxyz")
    np.testing.assert_allclose(read.positions, atoms.positions)
    np.testing.assert_allclose(read.get_masses(), [34.5, 2.014])
    assert read.info == atoms.info and not read.pbc.any() and not read.cell.any()


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_h5md_says_what_it_holds(tmp_path, precision):
    settings = TrajectorySettings("h5md", velocities=True, forces=True, precision=precision)
    frames = written(tmp_path, settings)
    assert not (tmp_path / "trajectory").exists()
    with h5py.File(tmp_path / "trajectory.h5md") as file:
        np.testing.assert_array_equal(file["h5md"].attrs["version"], [1, 1])
        assert file["h5md/modules/units"].attrs["version"].tolist() == [1, 0]
        particles = file["particles/trajectory"]
        assert h5py.check_enum_dtype(particles["species"].dtype)["Li"] == 3
        np.testing.assert_array_equal(particles["species"], frames[0].numbers)
        np.testing.assert_allclose(particles["mass"], frames[0].get_masses())
        assert list(particles["box"].attrs["boundary"]) == ["periodic"] * 3
        for name, unit, values in (
            ("position", "Angstrom", [a.positions for a in frames]),
            ("box/edges", "Angstrom", [a.cell.array for a in frames]),
            ("velocity", "Angstrom fs-1", [a.get_velocities() * units.fs for a in frames]),
            (
                "force",
                "kJ mol-1 Angstrom-1",
                [a.get_forces() / (units.kJ / units.mol) for a in frames],
            ),
        ):
            group = particles[name]
            assert group["value"].attrs["unit"] == unit
            np.testing.assert_allclose(group["value"], values, rtol=3e-7)
            np.testing.assert_array_equal(group["step"], [0, 10, 20])
            np.testing.assert_array_equal(group["time"], [0, 5, 10])
            assert group["time"].attrs["unit"] == "fs"
            # one data set, under several names
            assert group["step"] == particles["position/step"]
        assert particles["position/value"].dtype == precision
        energy = file["observables/potential_energy/value"]
        assert energy.attrs["unit"] == "eV"
        np.testing.assert_array_equal(energy, [a.get_potential_energy() for a in frames])
        kinetic = file["observables/kinetic_energy/value"]
        np.testing.assert_allclose(kinetic, [a.get_kinetic_energy() for a in frames])


@pytest.mark.parametrize("chosen", [None, (4, 0)])
def test_mdanalysis_reads_h5md(tmp_path, chosen):
    mda = pytest.importorskip("MDAnalysis", reason="MDAnalysis is not installed")
    settings = TrajectorySettings("h5md", atoms=chosen, velocities=True, forces=True)
    frames = written(tmp_path, settings)
    some = slice(None) if chosen is None else list(chosen)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        universe = mda.Universe(str(tmp_path / "trajectory.h5md"))
        assert len(universe.trajectory) == 3
        for ours, theirs in zip(frames, universe.trajectory, strict=True):
            np.testing.assert_allclose(theirs.positions, ours.positions[some], rtol=1e-6)
            per_ps = ours.get_velocities()[some] * units.fs * 1000
            np.testing.assert_allclose(theirs.velocities, per_ps, rtol=1e-6)
            forces = ours.get_forces()[some] / (units.kJ / units.mol)
            np.testing.assert_allclose(theirs.forces, forces, rtol=1e-6)
            np.testing.assert_allclose(theirs.dimensions, ours.cell.cellpar(), rtol=1e-5)
            assert theirs.time == pytest.approx(ours.info["time_fs"] / 1000)  # ps
            assert theirs.data["potential_energy"] == ours.get_potential_energy()
            assert theirs.data["step"] == ours.info["step"]
        universe.trajectory.close()


@pytest.mark.parametrize("chosen", [None, (4, 0, 1)])
@pytest.mark.parametrize("form", ["extxyz", "h5md", "traj"])
def test_a_frame_in_parts_is_the_same_frame(tmp_path, form, chosen):
    settings = TrajectorySettings(form, atoms=chosen, velocities=True, forces=True)
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    whole.mkdir()
    parted.mkdir()
    frames = written(whole, settings)
    trajectory = open_trajectory(parted, settings)
    kept = range(ATOMS) if chosen is None else chosen
    for atoms in frames:
        for first in range(0, len(kept), 2):
            some = list(kept[first : first + 2])
            piece = atoms[some]
            piece.info = atoms.info
            forces = atoms.get_forces()[some]
            piece.calc = SinglePointCalculator(piece, **{**atoms.calc.results, "forces": forces})
            part = Part(piece, first, len(kept), atoms.get_kinetic_energy())
            assert (part.begins, part.ends) == (first == 0, first + 2 >= len(kept))
            trajectory.write_part(part)
    trajectory.finish()
    trajectory.close()
    one, other = (folder / f"trajectory.{form}" for folder in (whole, parted))
    if form == "extxyz":
        assert one.read_text() == other.read_text()
    elif form == "h5md":
        with h5py.File(one) as ours, h5py.File(other) as theirs:

            def compare(name, item):
                if isinstance(item, h5py.Dataset):
                    np.testing.assert_array_equal(item[()], theirs[name][()], err_msg=name)

            ours.visititems(compare)
            assert h5py.check_enum_dtype(theirs["particles/trajectory/species"].dtype)["Li"] == 3
    else:
        for ours, theirs in zip(ase.io.read(one, ":"), ase.io.read(other, ":"), strict=True):
            assert ours == theirs and ours.info == theirs.info
            np.testing.assert_array_equal(ours.get_forces(), theirs.get_forces())
            assert ours.calc.results.keys() == theirs.calc.results.keys()


def test_parts_of_more_atoms_than_a_chunk_holds(tmp_path, monkeypatch):
    """In HDF5; also where segments are joined."""
    monkeypatch.setattr(h5md, "_CHUNK_ATOMS", 2)
    settings = TrajectorySettings("h5md", velocities=True)
    frames = written(tmp_path, settings)
    with h5py.File(tmp_path / "trajectory.h5md") as file:
        position = file["particles/trajectory/position/value"]
        assert position.chunks[1:] == (2, 3)
        np.testing.assert_allclose(position, [a.positions for a in frames], rtol=1e-6)


def steps_in(folder, form) -> list[int]:
    path = folder / f"trajectory.{form}"
    if form == "h5md":
        with h5py.File(path) as file:
            for group in ("particles/trajectory/position", "observables/kinetic_energy"):
                assert file[group]["value"].shape[0] == file[group]["step"].shape[0]
            return file["particles/trajectory/position/step"][:].tolist()
    return [atoms.info["step"] for atoms in ase.io.read(path, ":")]


@pytest.mark.parametrize("form", ["extxyz", "h5md", "traj"])
def test_cut_back_to_any_mark(tmp_path, form):
    """As after kills: open files, closed segments, joined files, all longer than the mark."""
    settings = TrajectorySettings(form)
    first = open_trajectory(tmp_path, settings)
    marks = [first.commit()]
    for step in range(3):
        first.write([frame(2 * step), frame(2 * step + 1)])
        marks.append(first.commit())
    first.write([frame(99)])  # never committed, and the process dies here
    first.close()
    second = open_trajectory(tmp_path, settings, marks[2])
    second.write([frame(10)])
    second.finish()
    second.close()
    assert steps_in(tmp_path, form) == [0, 1, 2, 3, 10]
    # a finished run goes on from a mark in the middle of what has become one file
    third = open_trajectory(tmp_path, settings, marks[1])
    third.write([frame(20)])
    third.finish()
    third.close()
    assert steps_in(tmp_path, form) == [0, 1, 20]
    last = open_trajectory(tmp_path, settings, marks[0])
    last.write([frame(30)])
    last.finish()
    last.close()
    assert steps_in(tmp_path, form) == [30]


@pytest.mark.parametrize("form", ["extxyz", "h5md", "traj"])
def test_a_lost_frame_is_noticed(tmp_path, form):
    trajectory = open_trajectory(tmp_path, TrajectorySettings(form))
    trajectory.write([frame(0)])
    trajectory.commit()
    trajectory.close()
    for path in (tmp_path / "trajectory.extxyz", *tmp_path.glob("trajectory/*")):
        path.unlink(missing_ok=True)
    with pytest.raises(ValueError, match="cannot go on"):
        open_trajectory(tmp_path, TrajectorySettings(form), {"frames": 1, "bytes": 10})


@pytest.mark.parametrize("form", ["h5md", "traj"])
def test_join_what_a_killed_run_left(tmp_path, form):
    settings = TrajectorySettings(form)
    for folder in (tmp_path / "replica-000", tmp_path / "replica-001"):
        folder.mkdir()
        trajectory = open_trajectory(folder, settings)
        for step in range(3):
            trajectory.write([frame(step)])
            mark = trajectory.commit()
        trajectory.write([frame(4)])  # in a file that is never closed in order
        files = [folder / f"trajectory.{form}" for folder in tmp_path.glob("replica-*")]
    assert sorted(join(tmp_path)) == sorted(files)
    for folder in (tmp_path / "replica-000", tmp_path / "replica-001"):
        assert steps_in(folder, form) == [0, 1, 2]
        # nothing was lost by it: the run goes on, and makes the file again
        trajectory.close()
        trajectory = open_trajectory(folder, settings, mark)
        trajectory.write([frame(3)])
        trajectory.finish()
        assert steps_in(folder, form) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="no segments"):
        join(tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"format": "dcd"}, "must be one of extxyz, h5md, traj, not 'dcd'"),
        ({"atoms": ()}, "at least one"),
        ({"atoms": (1, 1)}, "distinct"),
        ({"atoms": (-1,)}, "counted from 0"),
        ({"precision": "float32"}, "number of decimals"),
        ({"precision": 40}, "number of decimals"),
        ({"format": "h5md", "precision": 8}, "float32 or float64"),
        ({"format": "traj", "precision": "float32"}, "must be float64"),
    ],
)
def test_impossible_settings_are_refused_in_words(options, words):
    with pytest.raises(ValueError, match=words):
        TrajectorySettings(**options)


def test_a_subset_must_exist():
    with pytest.raises(ValueError, match="index 7, but the structure has 5 atoms"):
        TrajectorySettings(atoms=(2, 7)).check(ATOMS)
