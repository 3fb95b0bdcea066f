"""Store what our own original architecture computes, for checkouts without the shared data.

Agreement with the original code is tested against ``../shared/original-reference.npz``
(``tests/allegro_jax/test_parity.py``). The few cases written here are ours, computed once that test
passed; they guard against a later change where that file is absent. Run it only when the change is
meant, and with that file present:

    python tests/reference/make_original_regression.py

It writes ``original.npz`` beside this script, named like the entries of ``modern.npz``; weights are
under our own names (``layers.0.linear.1``).
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_leaves_with_path
from structures import random_structure

from allegro_jax import model
from allegro_jax.config import AllegroConfig
from allegro_jax.neighbour_search import dense, neighbour_pairs

DESTINATION = Path(__file__).parent / "original.npz"

TWO_LAYERS = AllegroConfig.original(
    species=("H", "C", "O"),
    cutoff=4.0,
    l_max=2,
    num_layers=2,
    num_scalar_features=8,
    num_tensor_features=4,
    two_body_hidden=(7,),
    latent_hidden=(9,),
    readout_hidden=(5,),
    average_neighbours=11.0,
    species_scales=(0.7, 1.9, 0.4),
)
CASES = {
    "one_layer": (
        dataclasses.replace(
            TWO_LAYERS, l_max=1, parity=False, num_layers=1, latent_hidden=(), cutoff_power=48
        ),
        "slab",
    ),
    "two_layers": (TWO_LAYERS, "triclinic"),
    "three_layers": (dataclasses.replace(TWO_LAYERS, num_layers=3), "molecule"),
}


def main() -> None:
    stored: dict[str, np.ndarray] = {}
    for seed, (name, (config, kind)) in enumerate(CASES.items(), start=1):
        rng = np.random.default_rng(seed)
        positions, cell, pbc, species = random_structure(kind, config.num_species, rng)
        neighbours, vectors, mask = dense(
            neighbour_pairs(positions, cell, pbc, config.cutoff), len(positions)
        )
        with jax.enable_x64(True):
            params = model.init(jax.random.key(seed), config, jnp.float64)

            def total(vectors, params=params, config=config, arrays=(mask, species, neighbours)):
                mask, species, neighbours = arrays
                energies = model.site_energies(
                    params,
                    config,
                    vectors,
                    jnp.asarray(mask),
                    jnp.asarray(species, jnp.int32),
                    jnp.asarray(species[neighbours], jnp.int32),
                )
                return jnp.sum(energies), energies

            gradient, energies = jax.jit(jax.grad(total, has_aux=True))(jnp.asarray(vectors))
        gradient = np.asarray(gradient)
        forces = gradient.sum(axis=1)
        np.subtract.at(forces, neighbours[mask], gradient[mask])
        entries = {
            "positions": positions,
            "cell": cell,
            "pbc": pbc,
            "species": species,
            "config": np.array(json.dumps(config.to_dict())),
            **{
                f"weights/{keystr(path, simple=True, separator='.')}": np.asarray(value)
                for path, value in tree_leaves_with_path(params)
            },
            "site_energies": np.asarray(energies),
            "forces": forces,
        }
        stored |= {f"{name}/{key}": value for key, value in entries.items()}
        print(f"{name:14s} force RMS {np.sqrt(np.mean(forces**2)):.4f} eV/Å")
    np.savez_compressed(DESTINATION, **stored)
    print(f"{DESTINATION}: {DESTINATION.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
