"""Errors and predictions on many frames."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

from allegro_jax.data.frames import DataError
from allegro_jax.data.sources import read_frames
from allegro_jax.evaluation import evaluate, predict_frames, write_errors


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Molecules with energies and forces, one without labels; and crystals with stress."""
    folder, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    molecules, crystals = [], []
    for number in range(5):
        atoms = Atoms("OHH", [[0, 0, 0.12], [0, 0.76, -0.48], [0, -0.76, -0.48]])
        atoms.rattle(0.05, seed=number)
        if number != 2:
            forces = random.normal(size=(3, 3))
            atoms.calc = SinglePointCalculator(atoms, energy=-2000.0 + number, forces=forces)
        molecules.append(atoms)
    for number in range(3):
        atoms = bulk("O", "fcc", a=4.0, cubic=number > 0)
        atoms.rattle(0.1, seed=number)
        results = {"energy": -8000.0, "stress": random.normal(size=6) / 10}
        atoms.calc = SinglePointCalculator(atoms, **results)
        crystals.append(atoms)
    write(folder / "molecules.xyz", molecules, format="extxyz")
    write(folder / "crystals.xyz", crystals, format="extxyz")
    return [folder / "molecules.xyz", folder / "crystals.xyz"]


@pytest.fixture(scope="module")
def report(tiny_model, files, tmp_path_factory):
    output = tmp_path_factory.mktemp("out") / "predictions.extxyz"
    return evaluate(tiny_model, files, output=output), output


def test_errors_are_those_of_single_points(tiny_model, files, report):
    found, _ = report
    frames = read_frames(files, require_labels=False)
    single = [tiny_model(frame.to_atoms()) for frame in frames]
    energy = np.asarray(
        [
            s["energy"] - f.energy
            for s, f in zip(single, frames, strict=True)
            if f.energy is not None
        ]
    )
    atoms = np.asarray([len(f) for f in frames if f.energy is not None])
    forces = np.concatenate(
        [
            np.ravel(s["forces"] - f.forces)
            for s, f in zip(single, frames, strict=True)
            if f.forces is not None
        ]
    )
    assert found["frames"] == 8 and found["energy_count"] == 7
    assert found["forces_count"] == 4 and found["stress_count"] == 3
    assert found["energy_mae"] == pytest.approx(np.abs(energy).mean(), rel=1e-6)
    assert found["energy_rmse"] == pytest.approx(np.sqrt(np.mean(energy**2)), rel=1e-6)
    assert found["energy_per_atom_mae"] == pytest.approx(np.abs(energy / atoms).mean(), rel=1e-6)
    assert found["energy_per_atom_rmse"] == pytest.approx(
        np.sqrt(np.mean((energy / atoms) ** 2)), rel=1e-6
    )
    assert found["forces_mae"] == pytest.approx(np.abs(forces).mean(), rel=1e-4)
    assert found["forces_rmse"] == pytest.approx(np.sqrt(np.mean(forces**2)), rel=1e-4)
    numbers = np.concatenate([np.repeat(f.numbers, 3) for f in frames if f.forces is not None])
    for symbol, number in (("H", 1), ("O", 8)):
        own, part = forces[numbers == number], found["by_species"][symbol]
        assert part["atoms"] == len(own) / 3
        assert part["forces_mae"] == pytest.approx(np.abs(own).mean(), rel=1e-4)
        assert part["forces_rmse"] == pytest.approx(np.sqrt(np.mean(own**2)), rel=1e-4)
    voigt = [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]
    stress = [
        s["stress"] - [f.stress[place] for place in voigt]
        for s, f in zip(single, frames, strict=True)
        if f.stress is not None
    ]
    assert found["stress_mae"] == pytest.approx(np.abs(stress).mean(), rel=1e-4)
    assert found["stress_rmse"] == pytest.approx(np.sqrt(np.mean(np.square(stress))), rel=1e-4)


def test_errors_per_file(files, report, tmp_path):
    found, _ = report
    molecules, crystals = (found["files"][str(path)] for path in files)
    assert molecules["energy_count"] == 4 and molecules["forces_count"] == 4
    assert molecules["by_species"] == found["by_species"] and not crystals["by_species"]
    assert "stress_mae" not in molecules and "forces_mae" not in crystals
    assert crystals["stress_rmse"] == found["stress_rmse"]
    write_errors(tmp_path / "errors.json", found)
    assert json.loads((tmp_path / "errors.json").read_text()) == found


def test_predictions_follow_ase(tiny_model, files, report):
    _, output = report
    images = read(output, ":")
    assert len(images) == 8
    for atoms, frame in zip(images, read_frames(files, require_labels=False), strict=True):
        expected = tiny_model(frame.to_atoms())
        assert atoms.get_potential_energy() == pytest.approx(expected["energy"], abs=1e-5)
        np.testing.assert_allclose(atoms.get_forces(), expected["forces"], atol=2e-5)
        np.testing.assert_allclose(atoms.calc.results["energies"], expected["energies"], atol=1e-5)
        if atoms.pbc.any():
            np.testing.assert_allclose(atoms.get_stress(), expected["stress"], atol=1e-6)
        else:
            assert "stress" not in atoms.calc.results


def test_double_precision(tiny_model, files):
    frames = read_frames(files, require_labels=False)
    single, double = (
        predict_frames(tiny_model, frames, dtype=dtype) for dtype in ("float32", "float64")
    )
    difference = [
        np.abs(one["forces"] - other["forces"]).max()
        for one, other in zip(single, double, strict=True)
    ]
    assert 0 < max(difference) < 1e-4
    # momentum is conserved to the precision of the arithmetic
    assert np.abs(double[0]["forces"].sum(axis=0)).max() < 1e-13
    with pytest.raises(ValueError, match="float16"):
        predict_frames(tiny_model, frames, dtype="float16")


def test_unknown_species_is_named(tiny_model, tmp_path):
    write(tmp_path / "u.xyz", Atoms("U"), format="extxyz")
    with pytest.raises(DataError, match=r"u\.xyz, frame 0: species: the potential knows .*, not U"):
        evaluate(tiny_model, tmp_path / "u.xyz")
