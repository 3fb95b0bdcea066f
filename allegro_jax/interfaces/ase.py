"""The ASE calculator."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from jaxtyping import Float

from allegro_jax import model_file
from allegro_jax.potential import SinglePoint


class AllegroCalculator(Calculator):
    """A model as an ASE calculator: energy, forces, stress and per-atom energies, in ASE's units.

    Of a committee, ``results`` also holds ``energy_std`` (eV) and ``forces_std`` [N] (eV/Å): how
    far its members are apart (:mod:`md.committee`). ``get_property`` gives them as well.

    Results are kept until the atoms change, as with every ASE calculator. Functions are compiled
    for capacities (atoms, neighbours) that grow in steps, not for each structure;
    :attr:`compilations` counts how often that has happened. The first structure with two atoms
    closer than any such pair in the training data is reported with a warning.

    Args:
        model: a model, or the path of a model file.
        dtype: ``"float32"`` or ``"float64"``, of the arithmetic; default that of the weights.
        block_size: atoms evaluated at a time, which bounds the memory; default by system and model.
        kwargs: what :class:`ase.calculators.calculator.Calculator` takes.
    """

    implemented_properties: ClassVar[list[str]] = [
        "energy",
        "free_energy",
        "forces",
        "stress",
        "energies",
    ]

    committee_properties: ClassVar[list[str]] = ["energy_std", "forces_std"]

    def __init__(
        self,
        model: model_file.Model | str | os.PathLike[str],
        *,
        dtype: str | None = None,
        block_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(model, model_file.Model):
            model = model_file.load(model)
        self.model = model
        if model.members > 1:
            self.implemented_properties = [*self.implemented_properties, *self.committee_properties]
        self._single_point = SinglePoint(model.potential, dtype=dtype, block_size=block_size)
        self._double = self._single_point.dtype == np.float64
        self._shortest_trained = model.shortest_distance_table()

    @property
    def compilations(self) -> int:
        """How many functions have been compiled so far."""
        return self._single_point.compilations

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        with jax.enable_x64(self._double or jax.config.jax_enable_x64):
            results = self._single_point(self.atoms)
        self._warn_if_too_close(results.pop("shortest_distances"))
        self.results = results | {"free_energy": results["energy"]}

    def _warn_if_too_close(self, distances: Float[np.ndarray, "T T"]) -> None:
        closer = np.argwhere(distances < self._shortest_trained)
        if len(closer) == 0:
            return
        pair = tuple(closer[0])
        first, second = (self.model.species[i] for i in pair)
        warnings.warn(
            f"{first} and {second} are {distances[pair]:.2f} Å apart, closer than any such pair "
            f"in the training data ({self._shortest_trained[pair]:.2f} Å): the model extrapolates, "
            "and its forces may be wrong",
            stacklevel=2,
        )
        self._shortest_trained = np.zeros_like(distances)  # once is enough
