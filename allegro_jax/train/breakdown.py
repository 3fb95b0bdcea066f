"""Validation errors by species and by file: which atoms and which data a model is worst at."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from allegro_jax.data.batches import Batch
from allegro_jax.train.gradient import Prediction
from allegro_jax.train.loss import QUANTITIES, atom_sums, frame_sums, mean_errors

Errors = dict[str, dict[str, float]]


@dataclasses.dataclass(frozen=True)
class Breakdown:
    """Which groups errors are told apart by.

    Attributes:
        species: chemical symbols, in the order of a batch's species indices.
        sources: names of the files, in the order of a batch's ``source``.
    """

    species: tuple[str, ...]
    sources: tuple[str, ...]

    def __call__(self, prediction: Prediction, batch: Batch) -> Float[Array, " sums"]:
        """Sums of errors of every group; they add up over batches, and over parts of one."""
        by_source = jax.ops.segment_sum(
            frame_sums(prediction, batch), batch.source, len(self.sources)
        )
        by_species = jax.ops.segment_sum(
            atom_sums(prediction, batch), jnp.maximum(batch.species, 0), len(self.species)
        )
        return jnp.concatenate([by_source.reshape(-1), by_species.reshape(-1)])

    def errors(self, sums: Any) -> dict[str, Errors]:
        """Mean errors ``by_source`` and ``by_species`` (forces), where there are several.

        Args:
            sums: [..., sums] as the call returns them; added up over all leading axes in float64.
        """
        sums = np.asarray(sums, np.float64)
        totals = sums.reshape(-1, sums.shape[-1]).sum(axis=0)
        by_source, by_species = np.split(totals, [3 * len(QUANTITIES) * len(self.sources)])
        found: dict[str, Errors] = {}
        if len(self.sources) > 1:
            groups = by_source.reshape(-1, len(QUANTITIES), 3)
            found["by_source"] = {
                name: mean_errors(group) for name, group in zip(self.sources, groups, strict=True)
            }
        if len(self.species) > 1 and by_species.any():
            groups = np.zeros((len(self.species), len(QUANTITIES), 3))
            groups[:, QUANTITIES.index("forces")] = by_species.reshape(-1, 3)
            found["by_species"] = {
                name: mean_errors(group) for name, group in zip(self.species, groups, strict=True)
            }
        return found
