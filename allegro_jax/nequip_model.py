"""Models of nequip and nequip-allegro, as their own libraries load them.

The only file that touches torch. A model's settings are read from the built model, not from the
configuration it was trained with: that may nest other files, and a model may have been modified
since.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from allegro_jax.config import AllegroConfig
from allegro_jax.mlp import scaled_weights
from allegro_jax.tensor_product import harmonics
from md.pair_potentials import COULOMB

_NONLINEARITIES = {
    "SiLU": "silu",
    "Mish": "mish",
    "GELU": "gelu",
    "ShiftedSoftplus": "ssp",
    "Tanh": "tanh",
    "Identity": "identity",
}


@dataclasses.dataclass(frozen=True)
class NequipModel:
    """A loaded reference model.

    Attributes:
        module: the torch module, in evaluation mode, with the EMA weights if there are any.
        species: chemical symbols, one per type.
        settings: what the file says of its training (may be empty).
    """

    module: Any
    species: tuple[str, ...]
    settings: Mapping[str, Any]

    @property
    def dtype(self) -> str:
        return self.module.metadata["model_dtype"]

    @property
    def state_dict(self) -> dict[str, np.ndarray]:
        return {key: value.numpy() for key, value in self.module.state_dict().items()}

    def evaluate(self, atoms: Atoms) -> dict[str, np.ndarray]:
        """Energy (eV), forces (eV/Å) and, if the cell has a volume, stress [3, 3] (eV/Å³)."""
        from nequip.data import AtomicDataDict, from_ase
        from nequip.integrations.utils import basic_transforms

        names = self.module.type_names
        metadata = self.module.metadata
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = from_ase(atoms)
            for transform in basic_transforms(
                metadata,
                float(metadata["r_max"]),
                names,
                dict(zip(self.species, names, strict=True)),
            ):
                data = transform(data)
            out = {key: value.detach().numpy() for key, value in self.module(data).items()}
        results = {
            "energy": out[AtomicDataDict.TOTAL_ENERGY_KEY].reshape(()),
            "forces": out[AtomicDataDict.FORCE_KEY],
        }
        if atoms.cell.rank == 3:
            results["stress"] = out[AtomicDataDict.STRESS_KEY].reshape(3, 3)
        return {key: np.asarray(value, float) for key, value in results.items()}


def load(source: str | os.PathLike[str], species: Mapping[str, str] | None = None) -> NequipModel:
    """Load a nequip checkpoint (``.ckpt``) or package (``.nequip.zip``) with nequip itself.

    Both formats are pickles: loading one runs code that the file holds. Load only files you trust.

    Args:
        source: the file.
        species: chemical symbol of each of the model's types, where names differ and the file does
            not tell.

    Raises:
        ValueError: torch, nequip or nequip-allegro are missing, or it is not a model of theirs.
    """
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if not path.name.endswith((".ckpt", ".nequip.zip")):
        raise ValueError(f"{path}: expected a nequip checkpoint (.ckpt) or package (.nequip.zip)")
    try:
        import allegro  # noqa: F401
        import torch
        from nequip.model.saved_models.load_utils import load_saved_model
        from nequip.utils.global_state import set_global_state
    except ImportError as error:
        raise ValueError(
            f"{path.name} is read with torch and nequip, which are missing ({error}): "
            'pip install "allegro-jax[nequip]"'
        ) from None
    with _quiet():
        set_global_state()
        try:
            module = load_saved_model(str(path))
            settings = _settings(path)
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"{path}: nequip cannot load it: {reason}") from error
    module = module.to(torch.device("cpu")).eval()
    return NequipModel(module, _species(path, module, settings, species), settings)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the log lines and warnings with which nequip comments on loading."""
    import logging

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _settings(path: Path) -> dict[str, Any]:
    """What the file stores of the configuration of its training."""
    import torch
    import yaml

    if path.name.endswith(".ckpt"):
        checkpoint = torch.load(path, map_location="cpu", weights_only=False)
        return dict(checkpoint.get("hyper_parameters", {}).get("info_dict", {}))
    importer = torch.package.PackageImporter(str(path))
    settings = yaml.safe_load(importer.load_text("model", "config.yaml")) or {}
    metadata = yaml.safe_load(importer.load_text("model", "package_metadata.txt")) or {}
    return settings | {"versions": metadata.get("versions", {})}


def _species(
    path: Path, module: Any, settings: Mapping[str, Any], given: Mapping[str, str] | None
) -> tuple[str, ...]:
    """The chemical symbol of every type: as given, as stored, or as named."""
    names = list(module.type_names)
    symbols: dict[str, str] = {}
    parts = dict(module.model.func.named_children())
    if "pair_potential" in parts and hasattr(parts["pair_potential"], "atomic_numbers"):
        numbers = parts["pair_potential"].atomic_numbers.tolist()
        by_number = {number: symbol for symbol, number in atomic_numbers.items()}
        symbols |= {n: by_number[round(z)] for n, z in zip(names, numbers, strict=True)}
    for transform in (settings.get("data") or {}).get("transforms") or []:
        stored = transform.get("chemical_species_to_atom_type_map")
        if isinstance(stored, Mapping):
            symbols |= {name: symbol for symbol, name in stored.items()}
        stored = transform.get("chemical_symbols")  # nequip before 0.16, in the order of the types
        if isinstance(stored, list) and len(stored) == len(names):
            symbols |= dict(zip(names, stored, strict=True))
    symbols |= given or {}
    for name in given or {}:
        if name not in names:
            raise ValueError(f"species: {path} has no type {name!r}; its types are {names}")
    result = tuple(symbols.get(name, name) for name in names)
    for name, symbol in zip(names, result, strict=True):
        if symbol not in atomic_numbers:
            raise ValueError(
                f"{path}: the file does not tell which element its type {name!r} is; "
                f"say so, for example --species {name}=H"
            )
    if len(set(result)) != len(result):
        raise ValueError(
            f"{path}: several types are one element ({dict(zip(names, result, strict=True))}); "
            "species are elements here, so that such a model cannot be converted"
        )
    return result


# -- settings of a built model --------------------------------------------------------------------


def config_of(model: NequipModel) -> AllegroConfig:
    """The settings of a reference model.

    Raises:
        ValueError: it is not an Allegro model, or has a part that is not known here.
    """
    try:
        return _config_of(model)
    except AttributeError as error:
        raise ValueError(
            f"the model is of a version of nequip-allegro that is not known here ({error})"
        ) from error


def _config_of(model: NequipModel) -> AllegroConfig:
    metadata = model.module.metadata
    parts = dict(model.module.model.func.named_children())
    if "allegro" not in parts:
        raise ValueError("the model is not an Allegro model (a NequIP model, perhaps?)")
    known = {
        "edge_norm", "radial_chemical_embed", "scalar_embed_mlp", "tensor_embed", "allegro",
        "edge_readout", "edge_eng_sum", "per_type_energy_scale_shift", "pair_potential", "cutoff",
        "total_energy_sum",
    }  # fmt: skip
    if unknown := set(parts) - known:
        raise ValueError(f"the model has a part that is not known here: {sorted(unknown)[0]!r}")
    allegro = parts["allegro"]
    scale_shift = parts["per_type_energy_scale_shift"]
    l_max, parity = _irreps(parts)
    forward = _forward_normalised(parts)
    pair_cutoffs = None
    if metadata.get("per_edge_type_cutoff") is not None:
        values = [float(value) for value in metadata["per_edge_type_cutoff"].split()]
        size = len(model.species)
        pair_cutoffs = tuple(tuple(values[row * size : (row + 1) * size]) for row in range(size))
    return AllegroConfig(
        species=model.species,
        cutoff=float(metadata["r_max"]),
        pair_cutoffs=pair_cutoffs,
        l_max=l_max,
        parity=parity,
        num_layers=allegro.num_layers,
        num_scalar_features=allegro.num_scalar_features,
        num_tensor_features=allegro.num_tensor_features,
        path_channel_coupling=allegro.tps[0].path_channel_coupling,
        weight_individual_irreps=allegro._env_weighter.weight_individual_irreps,
        forward_normalize=forward,
        average_neighbours=_average_neighbours(model, allegro),
        species_scales=_per_species(scale_shift.scales, 1.0),
        scales_trainable=bool(scale_shift.scales_trainable and scale_shift.has_scales),
        species_shifts=_per_species(scale_shift.shifts, 0.0),
        shifts_trainable=bool(scale_shift.shifts_trainable and scale_shift.has_shifts),
        **_radial(parts["radial_chemical_embed"]),
        **_mlp("two_body", parts["scalar_embed_mlp"].mlp_module),
        **_mlp("latent", allegro.latents[0]),
        **_mlp("readout", parts["edge_readout"].mlp_module),
        **_pair_potential(parts),
    )


def _per_species(values: Any, absent: float) -> float | tuple[float, ...]:
    values = tuple(values.detach().reshape(-1).tolist())
    return absent if not values else values[0] if len(values) == 1 else values


def _irreps(parts: Mapping[str, Any]) -> tuple[int, bool]:
    """l_max and parity; only the irreps that these two describe are known here."""
    edge = [(ir.l, ir.p) for _, ir in parts["tensor_embed"].sh.irreps_out]
    allowed = {(ir.l, ir.p) for _, ir in parts["allegro"].tensor_track_allowed_irreps}
    l_max = len(edge) - 1
    both = {(degree, p) for degree in range(l_max + 1) for p in (1, -1)}
    if tuple(edge) != harmonics(l_max) or allowed not in (both, set(edge)):
        raise ValueError(f"the model's irreps are not those of an l_max and a parity: {allowed}")
    return l_max, allowed == both


def _forward_normalised(parts: Mapping[str, Any]) -> bool:
    """Whether the MLPs are scaled by their fan-in or their fan-out."""
    functions = [
        parts["scalar_embed_mlp"].mlp_module,
        parts["tensor_embed"].env_embed_linear,
        *parts["allegro"].latents,
        parts["edge_readout"].mlp_module,
    ]
    for forward in (True, False):
        if all(_has_factors(function, forward) for function in functions):
            return forward
    raise ValueError("the model's MLPs have factors that are not known here")


def _has_factors(function: Any, forward: bool) -> bool:
    ones = [jnp.ones(shape) for shape in itertools.pairwise(function.dims)]
    scaled = scaled_weights(ones, "silu" if function.is_nonlinear else "none", forward=forward)
    expected = [float(weight[0, 0]) for weight in scaled]
    if hasattr(function.mlp, "alpha"):  # multiplied out
        expected, held = [math.prod(expected)], [float(function.mlp.alpha)]
    else:
        held = [float(layer.alpha) for layer in function.mlp if hasattr(layer, "alpha")]
    return np.allclose(held, expected, rtol=1e-5)


def _radial(embedding: Any) -> dict[str, Any]:
    if hasattr(embedding, "spline"):
        spline = embedding.spline
        return {
            "radial_basis": "spline",
            "num_splines": spline.num_splines,
            "spline_span": spline.spline_span,
            "embedding_dim": spline.num_channels,
        }
    parts = dict(embedding.named_children())
    if set(parts) != {"bessel_encode", "type_embed"}:
        raise ValueError(f"the model's two-body embedding is not known here: {sorted(parts)}")
    bessel = parts["bessel_encode"]
    return {
        "num_bessels": bessel.num_bessels,
        "bessel_trainable": bool(bessel.trainable),
        "cutoff_power": _power(bessel.cutoff),
        "embedding_dim": parts["type_embed"].basis_linear.dims[-1],
    }


def _power(cutoff: Any) -> int:
    if not float(cutoff.p).is_integer():
        raise ValueError(f"polynomial_cutoff_p: {cutoff.p} is not whole, which is needed here")
    return int(cutoff.p)


def _mlp(name: str, function: Any) -> dict[str, Any]:
    hidden = list(function.dims[1:-1])
    if function.bias:
        raise ValueError(f"{name}: an MLP with bias does not vanish at the cutoff; not supported")
    settings: dict[str, Any] = {f"{name}_hidden": hidden}
    if hidden and not function.is_nonlinear:
        settings[f"{name}_nonlinearity"] = "none"
    elif hidden:
        kind = type(function.mlp[1]).__name__
        if kind not in _NONLINEARITIES:
            raise ValueError(
                f"{name}: the nonlinearity {kind} is not supported (sigmoid and softplus do not "
                "vanish at 0, so that energies jump at the cutoff)"
            )
        settings[f"{name}_nonlinearity"] = _NONLINEARITIES[kind]
    return settings


def _pair_potential(parts: Mapping[str, Any]) -> dict[str, Any]:
    module = parts.get("pair_potential")
    if module is None:
        return {}
    if type(module).__name__ != "ZBL":
        raise ValueError(
            f"the model's pair potential {type(module).__name__} is not known here, only ZBL"
        )
    if not math.isclose(float(module._qqr2exesquare), COULOMB / 2, rel_tol=1e-6):
        raise ValueError(
            "the model's ZBL repulsion is not in eV and Å (units: metal): its energies are in "
            "another unit, and all of this program is in eV"
        )
    if hasattr(module, "cutoff"):
        envelope = module.cutoff
    elif "cutoff" in parts:
        envelope = parts["cutoff"].cutoff
    else:  # before nequip 0.17 the two-body embedding's envelope served both
        envelope = parts["radial_chemical_embed"].bessel_encode.cutoff
    return {"zbl": True, "zbl_cutoff_power": _power(envelope)}


def _average_neighbours(model: NequipModel, allegro: Any) -> float | tuple[float, ...]:
    """As configured, to the last digit, where that is what the model holds (rounded)."""
    if hasattr(allegro, "avg_num_neighbors_norm"):
        norm = allegro.avg_num_neighbors_norm.norm_const.double().reshape(-1).numpy()
    else:  # packages made by nequip-allegro before 0.8 hold the code of their time
        norm = np.array([allegro.tps[0].scatter_factor])
    held = 1 / norm**2
    stored = _find(model.settings.get("training_module"), "avg_num_neighbors")
    if isinstance(stored, Mapping):
        stored = [stored.get(name, math.nan) for name in model.module.type_names]
    if stored is not None:
        exact = np.asarray(stored, float).reshape(-1)
        if exact.shape == held.shape and np.allclose(exact, held, rtol=1e-6):
            held = exact
    return float(held[0]) if len(held) == 1 else tuple(held.tolist())


def _find(settings: Any, key: str) -> Any:
    """The value of a key anywhere in nested settings."""
    if isinstance(settings, Mapping):
        if key in settings:
            return settings[key]
        settings = list(settings.values())
    if isinstance(settings, list):
        for value in settings:
            if (found := _find(value, key)) is not None:
                return found
    return None
