"""What tests of training are made of: a tiny model, structures with labels, configurations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from allegro_jax.train.config import TrainingConfig, config_from_dict

TINY = {
    "cutoff": 3.4,
    "l_max": 1,
    "num_layers": 1,
    "num_scalar_features": 4,
    "num_tensor_features": 2,
    "two_body_hidden": [4],
    "latent_hidden": [4],
    "readout_hidden": [4],
}
SHORT = {
    "epochs": 4,
    "batch_size": 4,
    "row_groups": 1,
    "warmup_epochs": 0.5,
    "checkpoint_minutes": 0,
}


def quiet(*_: object) -> None:
    """Takes messages, and says nothing."""


def alloy(number: int) -> Atoms:
    """Four atoms of a shaken crystal of copper, every third with an atom of gold; labelled."""
    atoms = bulk("Cu", "fcc", a=3.7, cubic=True)
    atoms.rattle(0.07, seed=number)
    atoms.numbers[0] = 79 if number % 3 == 0 else 29
    return labelled(atoms)


def cluster(number: int, symbols: str = "Cu3Au") -> Atoms:
    """Four atoms in the vacuum, without labels."""
    rng = np.random.default_rng(number)
    corners = 2.6 * np.asarray([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], float)
    return Atoms(symbols, corners + rng.normal(0, 0.15, (4, 3)))


def labelled(atoms: Atoms, *, stress: bool = True) -> Atoms:
    """The same atoms with labels of effective-medium theory; stress where they are periodic."""
    atoms.calc = EMT()
    atoms.get_forces()
    if stress and atoms.pbc.all():
        atoms.get_stress()
    return atoms


def configuration(
    folder: Path, output: Path, training: Mapping[str, Any] = {}, **sections: Any
) -> TrainingConfig:
    """A short run of the tiny model on ``train.xyz`` in a folder, but for what is given."""
    content = {
        "data": {"train": "train.xyz", "valid": 4, **sections.pop("data", {})},
        "model": {**TINY, **sections.pop("model", {})},
        "training": {**SHORT, **training},
        "output": str(output),
        **sections,
    }
    return config_from_dict(content, folder)
