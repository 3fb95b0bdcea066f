"""What training starts from."""

from __future__ import annotations

import pytest
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from allegro_jax.train.config import config_from_dict
from allegro_jax.train.preparation import prepare


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [("H2O", None, 11), ("C60", None, 1), ("CH3CH2OH", None, 4), ("H2O", 2, 2)],
)
def test_batches_hold_about_32_atoms_unless_their_size_is_given(tmp_path, name, given, expected):
    frames = [molecule(name) for _ in range(6)]
    for number, atoms in enumerate(frames):
        atoms.rattle(0.02, seed=number)
        atoms.calc = SinglePointCalculator(atoms, energy=float(number))
    write(tmp_path / "frames.xyz", frames, format="extxyz")
    content = {
        "data": {"train": "frames.xyz", "valid": 2, "cache": False},
        "model": {"cutoff": 3.0},
        "training": {"batch_size": given},
    }
    config = config_from_dict(content, tmp_path)
    assert prepare(config, lambda _: None).batch_size(config.training) == expected
