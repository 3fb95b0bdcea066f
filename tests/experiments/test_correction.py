"""Frames get the forces of a model added to theirs, and count as much as the script says."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator

from allegro_jax import model_file
from allegro_jax.interfaces.ase import AllegroCalculator

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def test_a_models_forces_are_added(monkeypatch, tmp_path, tiny_model, water):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    correction = importlib.import_module("correction")
    path = model_file.save(tmp_path / "model.safetensors", tiny_model)
    given = []
    for number in range(3):
        frame = water.copy()
        frame.rattle(0.05, seed=number)
        forces = np.full((len(frame), 3), float(number))
        frame.calc = SinglePointCalculator(frame, forces=forces)
        given.append(frame)
    calculator = AllegroCalculator(path)
    for before, after in zip(given, correction.corrected(path, given), strict=True):
        np.testing.assert_array_equal(after.positions, before.positions)
        assert after.info["weight"] == correction.WEIGHT
        expected = before.get_forces() + calculator.get_forces(before)
        np.testing.assert_allclose(after.get_forces(), expected, atol=2e-3)
        assert np.abs(expected - before.get_forces()).max() > 0.01
