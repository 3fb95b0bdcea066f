"""Energies, forces and stresses of both architectures against those of their references."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress
from jax.tree_util import keystr, tree_map_with_path

from allegro_jax import model
from allegro_jax.config import AllegroConfig
from allegro_jax.convert import params_from_state_dict
from allegro_jax.neighbour_search import dense, neighbour_pairs
from allegro_jax.potential import AllegroPotential, SinglePoint
from allegro_jax.tensor_product import TensorProduct, tensor_products

REFERENCE = Path(__file__).parents[1] / "reference"
MODERN = np.load(REFERENCE / "modern.npz", allow_pickle=False)
MODERN_CASES = sorted({name.split("/")[0] for name in MODERN.files})
ORIGINAL = np.load(REFERENCE / "original.npz", allow_pickle=False)
ORIGINAL_CASES = sorted({name.split("/")[0] for name in ORIGINAL.files})

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

    # dozens of programs run once each: optimising them would take most of the time
    compiled = jax.jit(
        jax.grad(total, has_aux=True), compiler_options={"xla_backend_optimization_level": 0}
    )
    gradient, energies = compiled(jnp.asarray(vectors, dtype))
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

    np.testing.assert_allclose(
        site_energies, entries["site_energies"], rtol=0, atol=energy_tolerance
    )
    energy = site_energies.sum()
    assert abs(energy - entries["energy"]) <= energy_tolerance * len(shifts)
    np.testing.assert_allclose(ours.forces, forces, rtol=0, atol=force_tolerance)
    if "stress" in entries:
        volume = abs(np.linalg.det(entries["cell"]))
        assert np.abs(ours.virial / volume - entries["stress"]).max() <= force_tolerance


@pytest.mark.parametrize("case", ["l2_two_layers", "l2_one_layer", "zbl", "float32_everything"])
def test_single_points_agree_with_nequip_allegro(case):
    """The same as users compute it: optimised, padded, in blocks."""
    entries = stored_case(MODERN, case)
    config = AllegroConfig.from_dict(json.loads(str(entries["config"])))
    double = str(entries["dtype"]) == "float64"
    atoms = Atoms(
        [config.species[index] for index in entries["species"]],
        entries["positions"],
        cell=entries["cell"],
        pbc=entries["pbc"],
    )
    with jax.enable_x64(double):
        params = params_from_state_dict(entries["weights"], config, str(entries["dtype"]))
        ours = SinglePoint(AllegroPotential(params, config), block_size=4)(atoms)
    tolerance = FORCE_TOLERANCE
    if not double:
        tolerance = FLOAT32_TOLERANCE * np.sqrt(np.mean(entries["forces"] ** 2))
    assert abs(ours["energy"] - entries["energy"]) <= 0.1 * tolerance * len(atoms)
    np.testing.assert_allclose(
        ours["energies"], entries["site_energies"], rtol=0, atol=0.1 * tolerance
    )
    np.testing.assert_allclose(ours["forces"], entries["forces"], rtol=0, atol=tolerance)
    if atoms.pbc.all():
        stress = full_3x3_to_voigt_6_stress(entries["stress"])
        np.testing.assert_allclose(ours["stress"], stress, rtol=0, atol=tolerance)


def original_config(settings: dict[str, Any]) -> AllegroConfig:
    return AllegroConfig.original(
        species=("H", "C", "O")[: settings["num_species"]],
        cutoff=settings["r_max"],
        l_max=settings["l_max"],
        parity=settings["parity"] == "o3_full",
        num_layers=settings["num_layers"],
        num_scalar_features=settings["two_body_mlp"][-1],
        num_tensor_features=settings["tensor_channels"],
        cutoff_power=settings["polynomial_cutoff_p"],
        two_body_hidden=settings["two_body_mlp"][:-1],
        latent_hidden=settings["latent_mlp"][:-1],
        readout_hidden=settings["edge_energy_mlp"],
        average_neighbours=settings["avg_num_neighbors"],
    )


def coefficient_sign(product: TensorProduct, path: tuple[int, int, int]) -> int:
    """Sign of e3nn 0.4's Clebsch-Gordan coefficients, which the original code used, over ours.

    It flips for 1 ⊗ n → n and permutations of it, n > 1 (found by comparing e3nn 0.4.4 with 0.5.1
    and e3nn-jax up to degree 4). The learned map behind the product absorbs it.
    """
    degrees = product.left[path[0]][0], product.right[path[1]][0], product.out[path[2]][0]
    one, n, same = sorted(degrees)
    return -1 if one == 1 and n == same > 1 else 1


def original_params(weights: dict[str, np.ndarray], config: AllegroConfig) -> Any:
    """Weights of the original code (allegro 0.2) in our layout."""
    shapes = jax.eval_shape(lambda key: model.init(key, config), jax.random.key(0))

    def mlp(name: str, like: list[Any]) -> list[Any]:
        return [jnp.asarray(weights[f"{name}._forward._weight_{i}"]) for i in range(len(like))]

    def linear(flat: np.ndarray, product: TensorProduct) -> list[Any]:
        """One flat array: the output irreps one after another, each [out, (channel in, path)]."""
        channels, maps = config.num_tensor_features, []
        for i_out in range(len(product.out)):
            signs = np.array([coefficient_sign(product, p) for p in product.paths if p[2] == i_out])
            block, flat = np.split(flat, [channels**2 * len(signs)])
            block = block.reshape(channels, channels, len(signs)) * signs
            maps.append(jnp.asarray(block.reshape(channels, -1).T))
        return maps

    layers = []
    products = tensor_products(config.l_max, config.parity, config.num_layers)
    for k, (like, product) in enumerate(zip(shapes["layers"], products, strict=True)):
        layer = {
            "environment": mlp(f"allegro.env_embed_mlps.{k}", [None])[0],
            "linear": linear(weights[f"allegro.linears.{k}.w"], product),
        }
        if k:
            layer["latent"] = mlp(f"allegro.latents.{k}", like["latent"])
        layers.append(layer)
    params = {
        "two_body": mlp("allegro.latents.0", shapes["two_body"]),
        "layers": layers,
        "final_latent": mlp("allegro.final_latent", shapes["final_latent"]),
        "readout": mlp("edge_eng._module", shapes["readout"]),
    }
    jax.tree.map(
        lambda value, like: np.testing.assert_equal(value.shape, like.shape), params, shapes
    )
    return params


@pytest.mark.parametrize("number", range(15))
def test_original_architecture_agrees_with_its_reference(number, shared):
    archive = np.load(shared / "original-reference.npz", allow_pickle=False)
    (settings,) = [s for s in json.loads(str(archive["configs"])) if s["case"] == number]
    entries = stored_case(archive, f"case{number}")
    config = original_config(settings)
    with jax.enable_x64(True):
        params = original_params(entries["weights"], config)
        ours = evaluate(params, config, entries, jnp.float64)
    np.testing.assert_allclose(
        ours.site_energies, entries["site_energies"], rtol=0, atol=ENERGY_TOLERANCE
    )
    np.testing.assert_allclose(ours.forces, entries["forces"], rtol=0, atol=FORCE_TOLERANCE)


@pytest.mark.parametrize("case", ORIGINAL_CASES)
def test_original_architecture_computes_what_it_did(case):
    entries = stored_case(ORIGINAL, case)
    config = AllegroConfig.from_dict(json.loads(str(entries["config"])))
    with jax.enable_x64(True):
        shapes = jax.eval_shape(lambda key: model.init(key, config), jax.random.key(0))
        params = tree_map_with_path(
            lambda path, _: jnp.asarray(
                entries["weights"][keystr(path, simple=True, separator=".")]
            ),
            shapes,
        )
        ours = evaluate(params, config, entries, jnp.float64)
    np.testing.assert_allclose(
        ours.site_energies, entries["site_energies"], rtol=0, atol=ENERGY_TOLERANCE
    )
    np.testing.assert_allclose(ours.forces, entries["forces"], rtol=0, atol=FORCE_TOLERANCE)


LI3PO4 = AllegroConfig.original(
    species=("Li", "P", "O"),
    cutoff=4.0,
    l_max=1,
    parity=False,
    num_layers=1,
    num_scalar_features=64,
    num_tensor_features=1,
    cutoff_power=48,
    two_body_hidden=(32,),
    latent_hidden=(),
    readout_hidden=(32,),
)
QM9_ONE_LAYER = AllegroConfig.original(
    species=("H", "C", "N", "O", "F"),
    cutoff=10.0,
    l_max=3,
    num_layers=1,
    num_scalar_features=1024,
    num_tensor_features=256,
    two_body_hidden=(128, 256, 512),
    latent_hidden=(1024, 1024),
    readout_hidden=(128,),
)
QM9_THREE_LAYERS = dataclasses.replace(QM9_ONE_LAYER, l_max=2, num_layers=3)


@pytest.mark.parametrize(
    "config, count",
    [(LI3PO4, 9_058), (QM9_ONE_LAYER, 7_375_232), (QM9_THREE_LAYERS, 17_926_528)],
    ids=["Li3PO4", "QM9 one layer", "QM9 three layers"],
)
def test_original_architecture_has_the_parameters_of_the_paper(config, count):
    shapes = jax.eval_shape(lambda key: model.init(key, config), jax.random.key(0))
    assert model.count_parameters(shapes) == count
