"""Evaluate nequip-allegro on small random models, and store what it says.

The stored file holds configurations (in the field names of ``AllegroConfig``), weights under the
reference's own names, structures, and the reference's energies, forces and stresses. Reading it
needs only numpy; writing it needs an environment with torch, nequip and nequip-allegro:

    pip install torch==2.13.0 nequip==0.19.1 nequip-allegro==0.8.3
    python tests/reference/make_reference.py

It writes ``modern.npz`` beside this script. Entries are named ``CASE/FIELD``: ``config`` (JSON),
``weights/KEY``, ``positions`` (N, 3) Å, ``cell`` (3, 3) Å (rows; zero without a cell), ``pbc``
(3,), ``species`` (N,) indices into ``config["species"]``, ``site_energies`` (N,) eV, ``energy`` eV,
``forces`` (N, 3) eV/Å and, where all directions are periodic or a cell is given, ``stress`` (3, 3)
eV/Å³ in ASE's sign.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import ase
import numpy as np
import torch
from allegro.model import AllegroModel
from nequip.data import AtomicDataDict, from_ase
from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform
from nequip.utils.global_state import set_global_state
from structures import random_structure

DESTINATION = Path(__file__).parent / "modern.npz"

# Narrow and uneven on purpose: widths that differ from one another catch a transposed axis.
BASE = {
    "species": ["H", "C", "O"],
    "cutoff": 4.0,
    "l_max": 2,
    "parity": True,
    "num_layers": 2,
    "num_scalar_features": 8,
    "num_tensor_features": 4,
    "embedding_dim": 10,
    "two_body_hidden": [12],
    "latent_hidden": [14],
    "readout_hidden": [6],
    "average_neighbours": 11.0,
}
SMALL = {
    "num_scalar_features": 6,
    "num_tensor_features": 3,
    "embedding_dim": 6,
    "two_body_hidden": [7],
    "latent_hidden": [9],
    "readout_hidden": [5],
}
LINEAR = {
    "two_body_nonlinearity": "none",
    "latent_nonlinearity": "none",
    "readout_nonlinearity": "none",
}
PAIR_CUTOFFS = [[2.2, 3.1, 4.0], [2.7, 3.4, 3.9], [3.6, 2.9, 3.3]]

# name: (fields that differ from BASE, structure)
CASES = {
    "l0_one_layer": ({"l_max": 0, "num_layers": 1}, "molecule"),
    "l1_one_layer": ({"l_max": 1, "num_layers": 1}, "molecule"),
    "l2_one_layer": ({"num_layers": 1}, "slab"),
    "l2_two_layers": ({}, "triclinic"),
    "l3_two_layers": (SMALL | {"l_max": 3}, "crystal"),
    "l4_one_layer": (SMALL | {"l_max": 4, "num_layers": 1}, "slab"),
    "l1_three_layers_parity": ({"l_max": 1, "num_layers": 3}, "molecule"),
    "l1_three_layers_no_parity": ({"l_max": 1, "num_layers": 3, "parity": False}, "molecule"),
    "l2_three_layers_parity": (SMALL | {"num_layers": 3}, "triclinic"),
    "l2_three_layers_no_parity": (SMALL | {"num_layers": 3, "parity": False}, "triclinic"),
    "l3_three_layers_parity": (SMALL | {"l_max": 3, "num_layers": 3}, "molecule"),
    "pair_cutoffs": ({"pair_cutoffs": PAIR_CUTOFFS, "l_max": 1}, "triclinic"),
    "zbl": ({"zbl": True, "zbl_cutoff_power": 7, "l_max": 1}, "close"),
    "spline": (
        {"radial_basis": "spline", "num_splines": 9, "spline_span": 5, "l_max": 1},
        "triclinic",
    ),
    "spline_zbl_pair_cutoffs": (
        {"radial_basis": "spline", "zbl": True, "pair_cutoffs": PAIR_CUTOFFS, "l_max": 1},
        "close",
    ),
    "no_path_channel_coupling": ({"path_channel_coupling": False}, "slab"),
    "shared_irreps_weights": (
        {"weight_individual_irreps": False, "num_layers": 3, "l_max": 1},
        "slab",
    ),
    "per_species_numbers": (
        {
            "average_neighbours": [4.0, 9.5, 17.0],
            "species_scales": [0.7, 1.9, 0.4],
            "species_shifts": [-13.6, -1029.2, -2041.8],
            "l_max": 1,
        },
        "triclinic",
    ),
    "one_scale_and_shift": (
        {"species_scales": 1.7, "species_shifts": -3.25, "l_max": 1},
        "molecule",
    ),
    "trainable_scales_and_shifts": (
        {
            "species_scales": 0.8,
            "scales_trainable": True,
            "species_shifts": [-13.6, -1029.2, -2041.8],
            "shifts_trainable": True,
            "l_max": 1,
        },
        "molecule",
    ),
    "linear": (LINEAR | {"two_body_hidden": [12, 12], "l_max": 1}, "triclinic"),
    "identity": (
        dict.fromkeys(LINEAR, "identity") | {"two_body_hidden": [12, 12], "l_max": 1},
        "triclinic",
    ),
    "mish_gelu_ssp": (
        {
            "two_body_nonlinearity": "mish",
            "latent_nonlinearity": "gelu",
            "readout_nonlinearity": "ssp",
            "l_max": 1,
        },
        "molecule",
    ),
    "tanh_deep": (
        {
            **dict.fromkeys(LINEAR, "tanh"),
            "two_body_hidden": [12, 12],
            "latent_hidden": [14, 14, 14],
            "readout_hidden": [6, 6],
            "l_max": 1,
        },
        "molecule",
    ),
    "no_hidden_layers": (
        {"two_body_hidden": [], "latent_hidden": [], "readout_hidden": [], "l_max": 1},
        "slab",
    ),
    "backward_normalised": ({"forward_normalize": False, "two_body_hidden": [12, 12]}, "molecule"),
    "backward_normalised_linear": (
        LINEAR | {"forward_normalize": False, "latent_hidden": [14, 14], "l_max": 1},
        "molecule",
    ),
    "bessel_trainable": (
        {"bessel_trainable": True, "num_bessels": 6, "cutoff_power": 9, "l_max": 1},
        "slab",
    ),
    "one_species": ({"species": ["Cu"], "cutoff": 5.0, "l_max": 1}, "single_atom_cell"),
    "float32": ({"dtype": "float32"}, "triclinic"),
    "float32_everything": (
        {
            "dtype": "float32",
            "pair_cutoffs": PAIR_CUTOFFS,
            "zbl": True,
            "average_neighbours": [4.0, 9.5, 17.0],
            "species_scales": [0.7, 1.9, 0.4],
            "species_shifts": [-13.6, -1029.2, -2041.8],
            "num_layers": 3,
            "l_max": 1,
        },
        "crystal",
    ),
}


def reference_model(config: dict, seed: int) -> torch.nn.Module:
    """Build the reference model that ``config`` (in our field names) describes."""
    species = config["species"]

    def mlp(prefix: str, field: str) -> dict:
        widths = config[f"{field}_hidden"]
        nonlinearity = config.get(f"{field}_nonlinearity", "silu")
        return {
            f"{prefix}_mlp_hidden_layers_depth": len(widths),
            f"{prefix}_mlp_hidden_layers_width": widths[0] if widths else 1,
            f"{prefix}_mlp_nonlinearity": {"none": None, "identity": "None"}.get(
                nonlinearity, nonlinearity
            ),
        }

    def per_type(value: object) -> object:
        return dict(zip(species, value, strict=True)) if isinstance(value, list) else value

    if config.get("radial_basis") == "spline":
        embedding = {
            "_target_": "allegro.nn.TwoBodySplineScalarEmbed",
            "num_splines": config.get("num_splines", 16),
            "spline_span": config.get("spline_span", 12),
        }
    else:
        embedding = {
            "_target_": "allegro.nn.TwoBodyBesselScalarEmbed",
            "num_bessels": config.get("num_bessels", 8),
            "bessel_trainable": config.get("bessel_trainable", False),
            "polynomial_cutoff_p": config.get("cutoff_power", 6),
        }
    pair_potential = None
    if config.get("zbl"):
        pair_potential = {
            "_target_": "nequip.nn.pair_potential.ZBL",
            "chemical_species": species,
            "units": "metal",
            "polynomial_cutoff_p": config.get("zbl_cutoff_power", 6),
        }
    return AllegroModel(
        seed=seed,
        model_dtype=config.get("dtype", "float64"),
        type_names=species,
        r_max=config["cutoff"],
        per_edge_type_cutoff=edge_type_cutoffs(config),
        l_max=config["l_max"],
        parity=config["parity"],
        radial_chemical_embed=embedding,
        radial_chemical_embed_dim=config["embedding_dim"],
        num_layers=config["num_layers"],
        num_scalar_features=config["num_scalar_features"],
        num_tensor_features=config["num_tensor_features"],
        tp_path_channel_coupling=config.get("path_channel_coupling", True),
        weight_individual_irreps=config.get("weight_individual_irreps", True),
        avg_num_neighbors=per_type(config["average_neighbours"]),
        per_type_energy_scales=per_type(config.get("species_scales")),
        per_type_energy_shifts=per_type(config.get("species_shifts")),
        per_type_energy_scales_trainable=config.get("scales_trainable", False),
        per_type_energy_shifts_trainable=config.get("shifts_trainable", False),
        pair_potential=pair_potential,
        forward_normalize=config.get("forward_normalize", True),
        **mlp("scalar_embed", "two_body"),
        **mlp("allegro", "latent"),
        **mlp("readout", "readout"),
    ).eval()


def edge_type_cutoffs(config: dict) -> dict | None:
    table = config.get("pair_cutoffs")
    if table is None:
        return None
    species = config["species"]
    return {
        centre: dict(zip(species, row, strict=True))
        for centre, row in zip(species, table, strict=True)
    }


def perturb(model: torch.nn.Module, seed: int) -> None:
    """Move the weights that start at special values away from them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("scales", "shifts", "bessel_weights")):
                noise = torch.rand(weight.shape, generator=generator, dtype=weight.dtype)
                weight.add_(0.3 * (noise - 0.5))


def evaluate(model: torch.nn.Module, config: dict, atoms: ase.Atoms) -> dict[str, np.ndarray]:
    """The reference's site energies, energy, forces and stress."""
    data = from_ase(atoms)
    for transform in (
        ChemicalSpeciesToAtomTypeMapper(
            model_type_names=config["species"],
            chemical_species_to_atom_type_map={s: s for s in config["species"]},
        ),
        NeighborListTransform(
            r_max=config["cutoff"],
            per_edge_type_cutoff=edge_type_cutoffs(config),
            type_names=config["species"],
        ),
    ):
        data = transform(data)
    out = {key: value.detach().numpy() for key, value in model(data).items()}
    results = {
        "site_energies": out[AtomicDataDict.PER_ATOM_ENERGY_KEY].reshape(-1),
        "energy": out[AtomicDataDict.TOTAL_ENERGY_KEY].reshape(()),
        "forces": out[AtomicDataDict.FORCE_KEY],
    }
    if atoms.cell.rank == 3:
        results["stress"] = out[AtomicDataDict.STRESS_KEY].reshape(3, 3)
    return results


def main() -> None:
    warnings.filterwarnings("ignore")
    set_global_state()
    stored: dict[str, np.ndarray] = {}
    for seed, (name, (fields, kind)) in enumerate(CASES.items(), start=1):
        config = BASE | fields
        model = reference_model(config, seed)
        perturb(model, seed)
        rng = np.random.default_rng(seed)
        positions, cell, pbc, species = random_structure(kind, len(config["species"]), rng)
        atoms = ase.Atoms([config["species"][s] for s in species], positions, cell=cell, pbc=pbc)
        results = evaluate(model, config, atoms)
        entries = {
            "positions": positions,
            "cell": cell,
            "pbc": pbc,
            "species": species,
            "dtype": np.array(config.pop("dtype", "float64")),
            "config": np.array(json.dumps(config)),
            **{f"weights/{key}": value.numpy() for key, value in model.state_dict().items()},
            **results,
        }
        stored |= {f"{name}/{key}": value for key, value in entries.items()}
        scale = np.sqrt(np.mean(results["forces"] ** 2))
        print(f"{name:28s} {len(atoms):3d} atoms, force RMS {scale:8.4f} eV/Å")
    np.savez_compressed(DESTINATION, **stored)
    print(f"{DESTINATION}: {len(CASES)} cases, {DESTINATION.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
