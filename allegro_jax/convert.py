"""Models of the PyTorch reference (nequip with nequip-allegro), turned into ours.

:func:`convert` needs torch, nequip and nequip-allegro (``pip install "allegro-jax[nequip]"``);
:func:`params_from_state_dict` needs only NumPy arrays.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii
from ase.stress import full_3x3_to_voigt_6_stress
from jax.tree_util import keystr, tree_map_with_path

from allegro_jax import model, model_file, nequip_model
from allegro_jax.config import AllegroConfig
from allegro_jax.model_file import Model
from allegro_jax.potential import AllegroPotential, SinglePoint
from md.pair_potentials import COULOMB

StateDict = Mapping[str, np.ndarray]

# Largest deviation from the reference, relative to a structure's force RMS. A wrong setting
# deviates by percents; a float32 reference itself is off by about 1e-6.
TOLERANCE = {"float64": 1e-9, "float32": 1e-4}

# Nothing that was learned or chosen: Clebsch-Gordan coefficients, spline knots that follow from
# the settings, and placeholders.
_DERIVED = re.compile(r"(^|\.)(w3j|spline\.(lower|upper)|_rtoi|_empty)$")


def convert(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    species: Mapping[str, str] | None = None,
    report: Callable[[str], None] = print,
) -> Model:
    """Turn a nequip-allegro checkpoint or package into a model file, and check the result.

    Both models are evaluated on random structures of the model's species, ours in float64. Where a
    checkpoint has averaged (EMA) weights, these are taken, as the reference does for inference.

    The source is loaded with torch and may run code that it holds: convert only files you trust.

    Args:
        source: ``.ckpt`` or ``.nequip.zip``.
        destination: the model file to write (``.safetensors``).
        species: chemical symbol of each of the reference's types, where its names are not symbols
            and the file does not tell.
        report: takes lines about the progress.

    Raises:
        ValueError: the source cannot be read, has a part that is not known here, or the two models
            disagree; nothing is written then.
    """
    report(f"loading {source} (torch runs code stored in it: only convert files you trust)")
    reference = nequip_model.load(source, species)
    config = nequip_model.config_of(reference)
    with jax.enable_x64(reference.dtype == "float64"):
        params = params_from_state_dict(reference.state_dict, config, reference.dtype)
    potential = AllegroPotential(params, config)
    report(
        f"{', '.join(config.species[:8])}{', …' if config.num_species > 8 else ''}: "
        f"l_max {config.l_max}, {config.num_layers} layers, cutoff {config.cutoff} Å, "
        f"{model.count_parameters(params)} weights in {reference.dtype}"
    )
    differences = compare(reference, potential)
    report(differences.summary())
    if not differences.relative <= TOLERANCE[reference.dtype]:  # also if NaN
        raise ValueError(
            f"{source}: the converted model disagrees with the reference "
            f"({differences.summary()}); nothing was written. Please report this, with the model's "
            "configuration"
        )
    training = {
        "program": "nequip",
        "source": Path(source).name,
        "versions": dict(reference.settings.get("versions") or {}),
    }
    result = Model(potential, {"training": training})
    model_file.save(destination, result)
    report(f"wrote {destination}")
    return result


class Differences(NamedTuple):
    """Largest deviations of a converted model from its reference, over some structures.

    Attributes:
        energy: eV per atom. forces: eV/Å. stress: eV/Å³.
        relative: the largest number among these, of one structure, over the root mean square of its
            forces (in eV/Å: the model's own scale). It is NaN if anything is.
        structures: how many were compared.
    """

    energy: float
    forces: float
    stress: float
    relative: float
    structures: int

    def summary(self) -> str:
        return (
            f"largest differences over {self.structures} random structures: "
            f"energy {self.energy:.1e} eV/atom, forces {self.forces:.1e} eV/Å, "
            f"stress {self.stress:.1e} eV/Å³; relative to the force RMS {self.relative:.1e}"
        )


def compare(reference: nequip_model.NequipModel, potential: AllegroPotential) -> Differences:
    """Evaluate a reference model and ours (in float64) on random structures of its species."""
    found = []
    structures = random_structures(potential.config, np.random.default_rng(0))
    with jax.enable_x64(True):
        single_point = SinglePoint(potential, dtype=jnp.float64)
        for atoms in structures:
            theirs, ours = reference.evaluate(atoms), single_point(atoms)
            stress = 0.0
            if "stress" in theirs:
                voigt = full_3x3_to_voigt_6_stress(theirs["stress"])
                stress = np.abs(ours["stress"] - voigt).max()
            absolute = [
                abs(ours["energy"] - theirs["energy"]) / len(atoms),
                np.abs(ours["forces"] - theirs["forces"]).max(),
                stress,
            ]
            rms = np.sqrt(np.mean(theirs["forces"] ** 2))
            found.append([*absolute, np.max(absolute) / max(rms, 1e-6)])
    energy, forces, stress, relative = np.max(found, axis=0).tolist()
    return Differences(energy, forces, stress, relative, len(structures))


def random_structures(config: AllegroConfig, rng: np.random.Generator) -> list[Atoms]:
    """Disordered structures of eight atoms, molecules and crystals in turn, with every species.

    From dense, where neighbours are closer than a bond and repulsion rules, to thin, where it does
    not hide the rest.
    """
    size = 8
    count = max(4, -(-config.num_species // size))
    order = rng.permutation(config.num_species)
    structures = []
    for number in range(count):
        symbols = [
            config.species[order[(number * size + i) % config.num_species]] for i in range(size)
        ]
        radii = np.array([covalent_radii[atomic_numbers[symbol]] for symbol in symbols])
        periodic, spacing = bool(number % 2), (0.8, 0.9, 1.1, 1.3)[number % 4]
        closest = spacing * (radii[:, None] + radii)
        edge = closest.mean() * size ** (1 / 3)
        while True:
            cell = edge * (np.eye(3) + 0.15 * rng.uniform(-1, 1, (3, 3)))
            positions = rng.uniform(0, 1, (size, 3)) @ cell
            atoms = Atoms(symbols, positions, cell=cell if periodic else None, pbc=periodic)
            distances = atoms.get_all_distances(mic=periodic)
            if (distances + 10 * closest * np.eye(size) > closest).all():
                break
            edge *= 1.01
        structures.append(atoms)
    return structures


def params_from_state_dict(
    state_dict: StateDict, config: AllegroConfig, dtype: Any = jnp.float32
) -> model.Params:
    """Our weights from a nequip-allegro model's ``state_dict``.

    The reference keeps raw weights, as we do, and both share the real e3nn basis, so that nothing
    is permuted, and only shapes change.

    Args:
        state_dict: arrays under the reference's names, with or without the prefixes that wrap a
            model in a checkpoint.
        config: the settings of the model; they must be those of the reference's.
        dtype: of the result.

    Returns:
        Weights as from :func:`allegro_jax.model.init`.

    Raises:
        ValueError: an entry is missing, has another shape or value than ``config`` asks for, or is
            not known here. The message names it.
    """
    if config.architecture != "modern":
        raise ValueError("architecture: nequip-allegro's state_dict is of the modern architecture")
    entries = _Entries(state_dict)
    shapes = jax.eval_shape(lambda key: model.init(key, config), jax.random.key(0))

    def weight(path: Any, expected: jax.ShapeDtypeStruct) -> np.ndarray:
        name = keystr(path, simple=True, separator=".")
        value = entries.take(_reference_name(name, config), expected.shape)
        return np.asarray(value, np.float64)

    params = tree_map_with_path(weight, shapes)
    if config.shifts_trainable:
        params["shifts"] = params["shifts"] - np.asarray(config.per_species("species_shifts"))
    _check_constants(entries, config)
    entries.finish()
    return jax.tree.map(lambda value: jnp.asarray(value, dtype), params)


class _Entries:
    """The entries of a state_dict, taken one by one so that none is overlooked."""

    def __init__(self, state_dict: StateDict) -> None:
        anchor = "edge_norm._rmax_recip"
        found = [key for key in state_dict if key.endswith(anchor)]
        if len(found) != 1:
            raise ValueError(
                f"state_dict: expected one nequip-allegro model (one entry {anchor!r}), "
                f"found {len(found)}"
            )
        prefix = found[0].removesuffix(anchor)
        self._left = {
            key.removeprefix(prefix): np.asarray(value) for key, value in state_dict.items()
        }
        for key in self._left:
            if "parametrizations" in key:
                raise ValueError(f"state_dict: {key!r} is of a parametrised MLP, not supported")

    def take(self, key: str, shape: tuple[int, ...]) -> np.ndarray:
        """Remove and return an entry; its elements must be as many as ``shape`` asks for."""
        if key not in self._left:
            raise ValueError(f"state_dict: the entry {key!r} is missing")
        value = self._left.pop(key)
        if _essential(value.shape) != _essential(shape) and not (
            key.endswith("class_embed.weight") and value.shape == (shape[0], shape[1] * shape[2])
        ):
            raise ValueError(
                f"state_dict: {key!r} has the shape {value.shape}, the configuration asks for "
                f"{shape}"
            )
        return value.reshape(shape)

    def expect(self, key: str, wanted: Any, setting: str) -> None:
        """Remove a constant; it must have the value that a setting of the configuration implies."""
        wanted = np.asarray(wanted, float)
        value = self.take(key, wanted.shape)
        if not np.allclose(value, wanted, rtol=1e-6, atol=0):
            raise ValueError(
                f"state_dict: {key!r} holds {value.tolist()}; the configuration's {setting} "
                f"asks for {wanted.tolist()}"
            )

    def size(self, key: str) -> int:
        return self._left[key].size if key in self._left else 0

    def finish(self) -> None:
        unknown = [key for key in self._left if not _DERIVED.search(key)]
        if unknown:
            raise ValueError(
                f"state_dict: {unknown[0]!r} is not known here, or the configuration has no use "
                f"for it ({len(unknown)} such entries)"
            )


def _essential(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without the axes of length 1 that the reference keeps for broadcasting."""
    return tuple(size for size in shape if size != 1)


def _reference_name(name: str, config: AllegroConfig) -> str:
    """The reference's name of one of our weights (``layers.0.latent.1``)."""
    embedding = "radial_chemical_embed"
    fixed = {
        "bessel": f"{embedding}.bessel_encode.bessel_weights",
        "type_embedding.centre": f"{embedding}.type_embed.center_embed.weight",
        "type_embedding.neighbour": f"{embedding}.type_embed.neighbor_embed.weight",
        "basis_linear": f"{embedding}.type_embed.basis_linear.mlp.0.weight",
        "spline": f"{embedding}.spline.class_embed.weight",
        "tensor_embedding": "tensor_embed.env_embed_linear.mlp.0.weight",
        "first_projection": "allegro.first_layer_env_embed_projection.mlp.0.weight",
        "scales": "per_type_energy_scale_shift.scales",
        "shifts": "per_type_energy_scale_shift.shifts",
    }
    if name in fixed:
        return fixed[name]
    *parts, index = name.split(".")
    if index == "tensor_product":
        return f"allegro.tps.{parts[1]}.weights"
    kind = parts[-1]
    home = {
        "two_body": "scalar_embed_mlp.mlp_module",
        "latent": f"allegro.latents.{parts[1]}" if len(parts) > 1 else "",
        "readout": "edge_readout.mlp_module",
    }[kind]
    hidden, nonlinearity = (
        getattr(config, f"{kind}_hidden"),
        getattr(config, f"{kind}_nonlinearity"),
    )
    if nonlinearity == "none" and hidden:  # the reference multiplies such layers out
        return f"{home}.mlp.weights.{index}"
    return f"{home}.mlp.{2 * int(index)}.weight"  # activations are counted, too


def _check_constants(entries: _Entries, config: AllegroConfig) -> None:
    """What the state_dict holds besides weights must be what the configuration says."""
    if config.pair_cutoffs is None:
        entries.expect("edge_norm._rmax_recip", 1 / config.cutoff, "cutoff")
    else:
        table = np.ravel(config.pair_cutoffs)
        entries.expect("edge_norm._rmax_recip", 1 / table, "pair_cutoffs")
    if config.radial_basis == "bessel" and not config.bessel_trainable:
        key = "radial_chemical_embed.bessel_encode.bessel_weights"
        entries.expect(key, np.arange(1, config.num_bessels + 1), "num_bessels")
    for name, neutral in (("scales", 1.0), ("shifts", 0.0)):
        if getattr(config, f"{name}_trainable"):
            continue
        key = f"per_type_energy_scale_shift.{name}"
        field = f"species_{name}"
        size = entries.size(key)
        if size == 0:  # the model was built without
            entries.take(key, (0,))
            if set(config.per_species(field)) != {neutral}:
                raise ValueError(f"state_dict: {key!r} is empty; {field} must be {neutral}")
        elif size == 1 and not isinstance(getattr(config, field), tuple):
            entries.expect(key, getattr(config, field), field)
        else:
            entries.expect(key, config.per_species(field), field)
    if config.zbl:
        entries.expect("pair_potential.atomic_numbers", config.atomic_numbers, "species")
        entries.expect("pair_potential._qqr2exesquare", COULOMB / 2, "zbl (eV and Å)")
