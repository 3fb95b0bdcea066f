"""Writes the model file of format 1 that every later version has to read. Run once, in 2026."""

from __future__ import annotations

import json
from pathlib import Path

import jax
from ase import Atoms

from allegro_jax import model_file
from allegro_jax.config import AllegroConfig
from allegro_jax.model import init
from allegro_jax.potential import AllegroPotential

PATH = Path(__file__).parent / "model-version-1.safetensors"

config = AllegroConfig(
    species=("H", "O"),
    cutoff=3.5,
    l_max=1,
    num_layers=2,
    num_scalar_features=4,
    num_tensor_features=2,
    two_body_hidden=(4,),
    latent_hidden=(4,),
    readout_hidden=(4,),
    average_neighbours=2.0,
    species_scales=(0.7, 1.3),
    species_shifts=(-13.587222780835477, -2041.8396277138045),
)
potential = AllegroPotential(init(jax.random.key(0), config), config)
model = model_file.Model(potential, {"training": {"data": ["stored"], "epochs": 1}})
model_file.save(PATH, model)
positions = [[0.0, 0.0, 0.12], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]]
results = model(Atoms("OHH", positions))
expected = {
    "symbols": "OHH",
    "positions": positions,
    "energy": results["energy"],
    "forces": results["forces"].tolist(),
}
PATH.with_suffix(".json").write_text(json.dumps(expected) + "\n")
