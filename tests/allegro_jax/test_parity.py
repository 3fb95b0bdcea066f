"""Energies, forces and stresses of both architectures against those of their references."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from allegro_jax import model
from allegro_jax.config import AllegroConfig
from allegro_jax.convert import params_from_state_dict
from allegro_jax.neighbourhoods import dense, neighbour_pairs

REFERENCE = Path(__file__).parents[1] / "reference"
MODERN = np.load(REFERENCE / "modern.npz", allow_pickle=False)
MODERN_CASES = sorted({name.split("/")[0] for name in MODERN.files})

# eV per atom and eV/Å; float32: relative to the root mean square of the forces
ENERGY_TOLERANCE = 1e-10
FORCE_TOLERANCE = 1e-9
FLOAT32_TOLERANCE = 1e-5


class Results(NamedTuple):
    """Site energies [N] (eV, without shifts), forces [N, 3] (eV/Å), virial [3, 3] (eV)."""

    site_energies: np.ndarray
    forces: np.ndarray
    virial: np.ndarray


def stored_case(archive: Any, case: str) -> dict[str, Any]:
    """The entries of one case, its weights gathered under ``weights``."""
    entries: dict[str, Any] = {"weights": {}}
    for name in archive.files:
        if not name.startswith(f"{case}/"):
            continue
        key = name.removeprefix(f"{case}/")
        if key.startswith("weights/"):
            entries["weights"][key.removeprefix("weights/")] = archive[name]
        else:
            entries[key] = archive[name]
    return entries


def evaluate(params: Any, config: AllegroConfig, entries: dict[str, Any], dtype: Any) -> Results:
    """Our results for the structure of a stored case."""
    positions, species = entries["positions"], entries["species"]
    pairs = neighbour_pairs(
        positions,
        entries["cell"],
        entries.get("pbc", True),
        config.cutoff,
        species,
        config.pair_cutoffs,
    )
    neighbours, vectors, mask = dense(pairs, len(positions))

    def total(vectors):
        energies = model.site_energies(
            params,
            config,
            vectors,
            jnp.asarray(mask),
            jnp.asarray(species, jnp.int32),
            jnp.asarray(species[neighbours], jnp.int32),
        )
        return jnp.sum(energies), energies

    gradient, energies = jax.jit(jax.grad(total, has_aux=True))(jnp.asarray(vectors, dtype))
    gradient = np.asarray(gradient, float)
    forces = gradient.sum(axis=1)
    np.subtract.at(forces, neighbours[mask], gradient[mask])
    return Results(np.asarray(energies, float), forces, np.einsum("nki,nkj->ij", vectors, gradient))


@pytest.mark.parametrize("case", MODERN_CASES)
def test_modern_architecture_agrees_with_nequip_allegro(case):
    entries = stored_case(MODERN, case)
    config = AllegroConfig.from_dict(json.loads(str(entries["config"])))
    double = str(entries["dtype"]) == "float64"
    with jax.enable_x64(double):
        dtype = jnp.float64 if double else jnp.float32
        params = params_from_state_dict(entries["weights"], config, dtype)
        ours = evaluate(params, config, entries, dtype)
    shifts = np.asarray(config.per_species("species_shifts"))[entries["species"]]
    site_energies = ours.site_energies + shifts
    forces = entries["forces"]
    force_rms = np.sqrt(np.mean(forces**2))
    energy_tolerance = ENERGY_TOLERANCE if double else FLOAT32_TOLERANCE * force_rms
    force_tolerance = FORCE_TOLERANCE if double else FLOAT32_TOLERANCE * force_rms

    np.testing.assert_allclose(site_energies, entries["site_energies"], rtol=0, atol=energy_tolerance)
    energy = site_energies.sum()
    assert abs(energy - entries["energy"]) <= energy_tolerance * len(shifts)
    np.testing.assert_allclose(ours.forces, forces, rtol=0, atol=force_tolerance)
    if "stress" in entries:
        volume = abs(np.linalg.det(entries["cell"]))
        assert np.abs(ours.virial / volume - entries["stress"]).max() <= force_tolerance
