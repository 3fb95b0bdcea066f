"""Potentials from YAML files and from user code, so that the engine serves on its own.

A file names one potential and its numbers::

    potential: lennard-jones
    species: [Ar, Kr]
    epsilon_eV: {Ar: 0.0104, Kr: 0.0140, Ar-Kr: 0.0117}
    sigma_A: {Ar: 3.40, Kr: 3.65}
    cutoff_A: 8.5

``morse``, ``zbl`` and ``harmonic-lattice`` are the others; ``sum`` has ``parts``, each as above.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import yaml
from ase.data import atomic_numbers

from md.harmonic_lattice import HarmonicLattice
from md.local_potential import LocalPotential
from md.pair_potentials import ZBL, LennardJones, Morse
from md.sum_potential import Sum


def load(path: str | os.PathLike[str], *, dtype: str = "float32") -> LocalPotential:
    """The potential that a YAML file describes.

    Args:
        path: the file; its keys are listed in the module's and the builders' docstrings.
        dtype: of its coefficients, ``"float32"`` or ``"float64"``.

    Raises:
        ValueError: for keys that are missing, unknown or wrong; one line that names file and key.
    """
    if dtype not in ("float32", "float64"):
        raise ValueError(f"dtype must be float32 or float64, not {dtype}")
    with open(path, encoding="utf-8") as file:
        try:
            content = yaml.safe_load(file)
        except yaml.YAMLError as error:
            line = " ".join(str(error).split())
            raise ValueError(f"{path}: not a YAML file: {line}") from None
    try:
        with jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext():
            return from_mapping(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def from_mapping(content: Any) -> LocalPotential:
    """The potential that a mapping describes, as a file would hold it.

    Raises:
        ValueError: for keys that are missing, unknown or wrong.
    """
    if not isinstance(content, dict):
        raise ValueError("a potential is a mapping that starts with the key 'potential'")
    fields = _Fields(content)
    kind = fields.take("potential")
    if not isinstance(kind, str) or kind not in _BUILDERS:
        raise ValueError(f"potential must be one of {', '.join(_BUILDERS)}, not {kind!r}")
    potential = _BUILDERS[kind](fields)
    fields.finish(kind)
    return potential


def from_import(target: str, /, **arguments: Any) -> LocalPotential:
    """The potential that a user's function returns.

    Args:
        target: ``"package.module:function"``, importable from where the program runs.
        arguments: handed to the function.

    Raises:
        ValueError: if there is no such function, or it returns something else.
    """
    module_name, colon, name = target.partition(":")
    if not (colon and module_name and name):
        raise ValueError(f"a potential in code is named module:function, not {target!r}")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not module_name.startswith(error.name):
            raise  # the module is there, but something that it imports is not
        raise ValueError(f"{target}: there is no module {error.name} to import") from None
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"{target}: {module_name} has no function {name}")
    potential = function(**arguments)
    missing = [
        attribute
        for attribute in (
            "params", "species", "cutoff", "pair_cutoffs", "reference_energies", "site_energies"
        )
        if not hasattr(potential, attribute)
    ]  # fmt: skip
    if missing:
        raise ValueError(
            f"{target} returned an object of type {type(potential).__name__}, which lacks "
            f"{', '.join(missing)} (see md.LocalPotential)"
        )
    return potential


# -- builders -------------------------------------------------------------------------------------


def _lennard_jones(fields: _Fields) -> LocalPotential:
    """species; epsilon_eV, sigma_A (a number, or by species, pairs overriding); cutoff_A."""
    species = fields.species()
    epsilon = fields.mixed("epsilon_eV", species, lambda a, b: np.sqrt(a * b))
    sigma = fields.mixed("sigma_A", species, lambda a, b: (a + b) / 2)
    return LennardJones.create(species, epsilon, sigma, fields.number("cutoff_A"))


def _morse(fields: _Fields) -> LocalPotential:
    """species; depth_eV, steepness_per_A, distance_A (a number, or one per pair); cutoff_A."""
    species = fields.species()
    depth, steepness, distance = (
        fields.mixed(name, species) for name in ("depth_eV", "steepness_per_A", "distance_A")
    )
    return Morse.create(species, depth, steepness, distance, fields.number("cutoff_A"))


def _zbl(fields: _Fields) -> LocalPotential:
    """species; inner_A, cutoff_A: the repulsion is switched off between the two."""
    return ZBL.create(
        fields.species(), fields.number("inner_A", least=0.0), fields.number("cutoff_A")
    )


def _harmonic_lattice(fields: _Fields) -> LocalPotential:
    """species; structure (sc, bcc, fcc); lattice_constant_A; along_eV_per_A2, across_eV_per_A2."""
    return HarmonicLattice.crystal(
        fields.species(),
        str(fields.take("structure")),
        fields.number("lattice_constant_A"),
        fields.number("along_eV_per_A2"),
        fields.number("across_eV_per_A2", default=0.0, least=0.0),
    )


def _sum(fields: _Fields) -> LocalPotential:
    """parts: a list of potentials; species may be given once, for all of them."""
    parts = fields.take("parts")
    if not isinstance(parts, list) or not parts:
        raise ValueError("parts must be a list of potentials")
    shared = {"species": fields.take("species")} if "species" in fields.content else {}
    return Sum.create(
        *(from_mapping({**shared, **part} if isinstance(part, dict) else part) for part in parts)
    )


class _Fields:
    """The keys of one mapping, each taken once; what is left over at the end was not understood."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = dict(content)

    def take(self, name: str) -> Any:
        if name not in self.content:
            raise ValueError(f"the key {name} is missing")
        return self.content.pop(name)

    def finish(self, kind: str) -> None:
        if self.content:
            raise ValueError(f"{kind} has no key {', '.join(map(str, self.content))}")

    def species(self) -> tuple[str, ...]:
        species = self.take("species")
        if not isinstance(species, list) or not species:
            raise ValueError("species must be a list of chemical symbols")
        for symbol in species:
            if symbol not in atomic_numbers:
                raise ValueError(f"species: {symbol!r} is no chemical symbol")
        if len(set(species)) < len(species):
            raise ValueError("species names an element twice")
        return tuple(species)

    def number(
        self, name: str, *, default: float | None = None, least: float | None = None
    ) -> float:
        """A positive number, or one of at least ``least``."""
        if default is not None and name not in self.content:
            return default
        return _number(name, self.take(name), least)

    def mixed(
        self,
        name: str,
        species: tuple[str, ...],
        mix: Callable[[float, float], Any] | None = None,
    ) -> Any:
        """A table [T, T] from one number, or from a mapping by species ("Ar") and pair ("Ar-Kr").

        Numbers of species are combined by ``mix``; without it every pair needs a number.
        """
        value = self.take(name)
        if not isinstance(value, dict):
            return np.full((len(species), len(species)), _number(name, value, None))
        given = {str(key): _number(f"{name}, {key}", x, None) for key, x in value.items()}
        table = np.empty((len(species), len(species)))
        for i, a in enumerate(species):
            for j, b in enumerate(species):
                pair = given.get(f"{a}-{b}", given.get(f"{b}-{a}"))
                if pair is None and mix and a in given and b in given:
                    pair = mix(given[a], given[b])
                if pair is None:
                    raise ValueError(f"{name} has no number for {a}-{b}")
                table[i, j] = pair
        known = {f"{a}-{b}" for a in species for b in species} | (set(species) if mix else set())
        if unknown := sorted(set(given) - known):
            raise ValueError(f"{name}: {unknown[0]} is no pair of the species")
        return table


def _number(name: str, value: Any, least: float | None) -> float:
    if isinstance(value, str):  # YAML takes 1e-2, without a point, for a word
        with contextlib.suppress(ValueError):
            value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise ValueError(f"{name} must be a number, not {value!r}")
    if (value <= 0) if least is None else (value < least):
        wanted = "positive" if least is None else f"at least {least:g}"
        raise ValueError(f"{name} must be {wanted}, not {value}")
    return float(value)


_BUILDERS: dict[str, Callable[[_Fields], LocalPotential]] = {
    "lennard-jones": _lennard_jones,
    "morse": _morse,
    "zbl": _zbl,
    "harmonic-lattice": _harmonic_lattice,
    "sum": _sum,
}
