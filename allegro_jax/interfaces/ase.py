"""The ASE calculator."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from allegro_jax import model_file
from allegro_jax.potential import SinglePoint


class AllegroCalculator(Calculator):
    """A model as an ASE calculator: energy, forces, stress and per-atom energies, in ASE's units.

    Results are kept until the atoms change, as with every ASE calculator. Functions are compiled
    for capacities (atoms, neighbours) that grow in steps, not for each structure;
    :attr:`compilations` counts how often that has happened. The first structure with two atoms
    closer than any such pair in the training data is reported with a warning.

    Args:
        model: a model, or the path of a model file.
        dtype: ``"float32"`` or ``"float64"`` (which needs ``jax.enable_x64``) of the arithmetic;
            default that of the weights.
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
        self._single_point = SinglePoint(model.potential, dtype=dtype, block_size=block_size)
        self._shortest_distances = model.shortest_distances

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
        self.results = self._single_point(self.atoms)
        self.results["free_energy"] = self.results["energy"]
        self._warn_if_too_close()

    def _warn_if_too_close(self) -> None:
        warning = model_file.closer_than_trained(self.atoms, self._shortest_distances)
        if warning is not None:
            warnings.warn(warning, stacklevel=2)
            self._shortest_distances = {}  # once is enough
