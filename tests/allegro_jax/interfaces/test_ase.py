"""The ASE calculator against direct evaluation."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.calculator import PropertyNotImplementedError
from ase.md.verlet import VelocityVerlet

from allegro_jax import model_file
from allegro_jax.interfaces.ase import AllegroCalculator


@pytest.fixture(scope="module")
def calculator(tiny_model) -> AllegroCalculator:
    return AllegroCalculator(tiny_model)


def test_agrees_with_direct_evaluation(calculator, tiny_model, water):
    water.set_cell([4.0, 4.5, 5.0])
    water.pbc = True
    water.calc = calculator
    direct = tiny_model(water)
    assert water.get_potential_energy() == direct["energy"]
    assert water.get_potential_energy(force_consistent=True) == direct["energy"]
    np.testing.assert_array_equal(water.get_forces(), direct["forces"])
    np.testing.assert_array_equal(water.get_stress(), direct["stress"])
    np.testing.assert_array_equal(water.get_potential_energies(), direct["energies"])
    assert water.get_potential_energies().sum() == pytest.approx(direct["energy"], abs=1e-9)


def test_stress_needs_a_volume(calculator, water):
    water.calc = calculator
    water.get_forces()
    with pytest.raises(PropertyNotImplementedError):
        water.get_stress()


def test_results_are_kept_until_the_atoms_change(calculator, water, monkeypatch):
    water.calc = calculator
    water.get_forces()
    calls = []
    single_point = calculator._single_point
    monkeypatch.setattr(
        calculator, "_single_point", lambda atoms: calls.append(0) or single_point(atoms)
    )
    water.get_forces()
    water.get_potential_energy()
    assert not calls
    water.positions[0, 0] += 0.01
    water.get_forces()
    assert len(calls) == 1


def test_compiles_only_when_capacities_grow(calculator, water):
    water.calc = calculator
    water.get_forces()
    compiled = calculator.compilations
    rng = np.random.default_rng(0)
    for _ in range(3):
        water.positions += rng.normal(0, 0.02, water.positions.shape)
        water.get_forces()
    smaller = water[:5]
    smaller.calc = calculator
    smaller.get_forces()
    assert calculator.compilations == compiled


def test_conserves_energy_in_a_run(tiny_model, water):
    water.calc = AllegroCalculator(tiny_model)
    water.set_momenta(np.zeros((6, 3)))
    before = water.get_total_energy()
    dynamics = VelocityVerlet(water, 0.2 * units.fs)
    dynamics.run(50)
    assert water.get_kinetic_energy() > 1e-4
    assert water.get_total_energy() == pytest.approx(before, abs=2e-4)


def test_warns_once_below_the_shortest_training_distance(tiny_model, water):
    model = dataclasses.replace(tiny_model, metadata={"shortest_distances": {"H-O": 1.0}})
    water.calc = AllegroCalculator(model)
    with pytest.warns(
        UserWarning, match="H and O are 0.9. Å apart, closer than any such pair in the training"
    ):
        water.get_forces()
    water.positions[0, 0] += 0.01
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        water.get_forces()


def test_double_precision(tiny_model, water):
    single, double = AllegroCalculator(tiny_model), AllegroCalculator(tiny_model, dtype="float64")
    water.calc = single
    forces = water.get_forces()
    water.calc = double
    assert 1e-9 < np.abs(water.get_forces() - forces).max() < 1e-4
    assert np.abs(water.get_forces().sum(axis=0)).max() < 1e-12


def test_takes_a_path(tmp_path, tiny_model, water):
    path = model_file.save(tmp_path / "model.safetensors", tiny_model)
    water.calc = AllegroCalculator(path)
    assert water.get_potential_energy() == pytest.approx(tiny_model(water)["energy"], abs=1e-5)


def test_names_an_unknown_species(calculator):
    atoms = Atoms("NaO", [[0, 0, 0], [0, 0, 2.0]], calculator=calculator)
    with pytest.raises(ValueError, match="Na"):
        atoms.get_forces()
