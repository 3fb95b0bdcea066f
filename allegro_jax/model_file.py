"""The model file: one ``.safetensors`` with the weights, and everything else as JSON metadata.

Tensors are named by their path in the parameter tree (``"layers.0.latent.1"``); those of a
committee have a leading axis of members. The file's metadata are three strings: ``format_version``
(2 of a committee, 1 of a single model, which older programs can read as well); ``model``, a JSON
object with the configuration, the units, the number of members and what the training recorded; and
``sha256`` over that text and the tensors. Python's JSON writes
the shortest decimal that reads back as the same float64, so reference energies survive to the last
bit. Nothing in the file is ever executed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialise

from allegro_jax import __version__
from allegro_jax.collapsed import Collapse, NotTabulated, collapse, obstacle
from allegro_jax.config import AllegroConfig
from allegro_jax.model import init, parameter_name
from allegro_jax.potential import AllegroPotential, Potential, SinglePoint, potential_of
from md.committee import members_of

FORMAT_VERSION = 2
SINGLE_MODEL_VERSION = 1
UNITS: Mapping[str, str] = {
    "energy": "eV",
    "length": "Å",
    "forces": "eV/Å",
    "stress": "eV/Å³",
}


@dataclasses.dataclass(frozen=True)
class Model:
    """A potential, and where it came from.

    Calling it on an :class:`ase.Atoms` gives ``energy`` (eV, reference energies included),
    ``forces`` [N, 3] (eV/Å), ``stress`` [6] (eV/Å³, Voigt order xx, yy, zz, yz, xz, xy; only when
    the cell has a volume) and ``energies`` [N] (eV), in NumPy float64; a committee also gives
    ``energy_std`` (eV) and ``forces_std`` [N] (eV/Å), how far its members are apart
    (:mod:`md.committee`).

    Attributes:
        potential: configuration and weights; or those of a committee.
        metadata: plain JSON data, under these keys where they are known: ``units``, ``versions``
            (of the libraries that wrote the file), ``training`` (provenance),
            ``shortest_distances`` (``{"C-H": Å}``: the shortest distance of each species pair in
            the training data) and ``ranges`` (of the training data's species and properties).
    """

    potential: Potential
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def config(self) -> AllegroConfig:
        """Of the potential, or of each member of a committee."""
        return getattr(self.potential, "member", self.potential).config

    @property
    def members(self) -> int:
        """How many members the committee has; 1 of a single model."""
        return members_of(self.potential)

    @property
    def species(self) -> tuple[str, ...]:
        return self.config.species

    @property
    def shortest_distances(self) -> dict[tuple[str, str], float]:
        """Å; the training data's shortest distance of each (unordered, sorted) pair of species."""
        pairs = self.metadata.get("shortest_distances") or {}
        return {_pair(*pair.split("-")): distance for pair, distance in pairs.items()}

    def shortest_distance_table(self) -> np.ndarray:
        """[T, T] :attr:`shortest_distances`, 0 where unknown, for :func:`md.run.simulate`."""
        known = self.shortest_distances
        return np.array([[known.get(_pair(a, b), 0.0) for b in self.species] for a in self.species])

    def collapsed(self, dtype: Any = None) -> Collapse | None:
        """The same potential as a few tabulated radial functions, which is far faster to run.

        Args:
            dtype: of the arithmetic; default that of the weights.

        Returns:
            None where the configuration does not collapse (:mod:`allegro_jax.collapsed`), or where
            tables would not be worth it.
        """
        if obstacle(self.config):
            return None
        try:
            return collapse(self.potential, dtype=dtype)
        except NotTabulated:
            return None

    def __call__(self, atoms: Atoms) -> dict[str, Any]:
        results = self._single_point(atoms)
        del results["shortest_distances"]
        return results

    @cached_property
    def _single_point(self) -> SinglePoint:
        return SinglePoint(self.potential)


def save(path: str | os.PathLike[str], model: Model) -> Path:
    """Write a model file. An existing file is replaced at once, or left as it was on an error.

    ``units`` and ``versions`` are added to the metadata. Raises ValueError when the metadata are
    not JSON data, TypeError when the potential is no network (a collapsed one is made anew from the
    network it stands for), OSError when the folder cannot be written.
    """
    path = Path(path)
    network = getattr(model.potential, "member", model.potential)
    if not isinstance(network, AllegroPotential):
        raise TypeError(
            f"{path}: a model file holds an Allegro network or a committee of them, not a "
            f"{type(network).__name__}; save the network that it was made from"
        )
    content = {
        **model.metadata,
        "config": model.config.to_dict(),
        "units": dict(UNITS),
        "versions": library_versions(),
    }
    if model.members > 1:
        content["members"] = model.members
    try:
        text = json.dumps(content, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: the model's metadata are not JSON data: {error}") from None
    leaves, _ = jax.tree_util.tree_flatten_with_path(model.potential.params)
    tensors = {parameter_name(keys): np.ascontiguousarray(value) for keys, value in leaves}
    header = {
        "format_version": str(FORMAT_VERSION if model.members > 1 else SINGLE_MODEL_VERSION),
        "model": text,
        "sha256": _checksum(text, tensors),
    }
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {path.parent} does not exist")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(serialise(tensors, header))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def load(path: str | os.PathLike[str]) -> Model:
    """Read a model file.

    Weights keep the dtype they were written in, but without ``jax.enable_x64`` JAX has no float64
    and rounds such weights to float32.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, truncated, not a model of this program, or of a later
            format; the message says which.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such model file")
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            _check_format(path, header)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{path}: not a readable model file: damaged, truncated, or of another kind ({error})"
        ) from None
    if header.get("sha256") != _checksum(header["model"], tensors):
        raise ValueError(f"{path}: damaged model file: its contents do not match their checksum")
    content = json.loads(header["model"])
    config = AllegroConfig.from_dict(content.pop("config"))
    members = content.pop("members", 1)
    return Model(
        potential_of(_parameters(path, tensors, config, members), config, members), content
    )


def _pair(first: str, second: str) -> tuple[str, str]:
    return (first, second) if first <= second else (second, first)


def library_versions() -> dict[str, str]:
    """Versions of what computes a model's numbers."""
    names = ("jax", "jaxlib", "e3nn-jax", "numpy")
    return {"allegro-jax": __version__} | {name: version(name) for name in names}


def _parameters(
    path: Path, tensors: Mapping[str, np.ndarray], config: AllegroConfig, members: int
) -> Any:
    """The parameter tree that the configuration asks for, filled from named tensors."""
    leading = (members,) if members > 1 else ()
    template = jax.eval_shape(lambda key: init(key, config), jax.random.key(0))
    leaves, structure = jax.tree_util.tree_flatten_with_path(template)
    expected = {parameter_name(keys): (*leading, *leaf.shape) for keys, leaf in leaves}
    for name in sorted(expected.keys() | tensors.keys()):
        found = tensors[name].shape if name in tensors else None
        if found != expected.get(name):
            raise ValueError(
                f"{path}: the weights do not belong to the configuration: {name!r} should be "
                f"{expected.get(name, 'absent')}, and is {found or 'absent'}"
            )
    return jax.tree_util.tree_unflatten(
        structure, [jnp.asarray(tensors[name]) for name in expected]
    )


def _check_format(path: Path, header: Mapping[str, str]) -> None:
    if not {"format_version", "model"} <= header.keys():
        raise ValueError(
            f"{path}: a safetensors file, but not an allegro-jax model; models of nequip are "
            "converted with: allegro-jax convert SOURCE DESTINATION"
        )
    written = header["format_version"]
    if not written.isdecimal() or int(written) > FORMAT_VERSION:
        raise ValueError(
            f"{path}: written in format {written} by a later allegro-jax; this one reads formats "
            f"up to {FORMAT_VERSION}. Upgrade: pip install --upgrade allegro-jax"
        )


def _checksum(text: str, tensors: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {value.shape}".encode())
        digest.update(value.data)
    return digest.hexdigest()
