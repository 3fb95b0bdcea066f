"""The loss on energies, forces and stress, and the errors reported beside it."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from allegro_jax.data.batches import Batch
from allegro_jax.train.gradient import Prediction

QUANTITIES = ("energy", "energy_per_atom", "forces", "stress", "virial_per_atom")
# The six independent components of a symmetric tensor (Voigt order).
VOIGT = ((0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1))


@dataclasses.dataclass(frozen=True)
class Loss:
    """A weighted sum of mean squared errors, in units of the force RMS σ of the data.

    L = energy · ⟨(ΔE/n)²⟩/(σ·Å)² + forces · ⟨ΔF²⟩/σ² + stress · ⟨(ΔS·V/n)²⟩/(σ·Å)²

    n atoms and volume V of a frame; the means run over the frames (or components) of the batch
    that carry the label. Dividing by σ makes weights and learning rates carry over from one
    material to another.

    Attributes:
        energy, forces, stress: weights.
        force_scale: σ in eV/Å.
    """

    energy: float
    forces: float
    stress: float
    force_scale: float

    def normalisers(self, batch: Batch) -> dict[str, Float[Array, ""]]:
        """What the means over a batch divide by: its labels (components), by term of the loss."""
        return {
            "energy_per_atom": jnp.sum(batch.energy_weight),
            "forces": 3 * jnp.sum(batch.force_weight),
            "virial_per_atom": 6 * jnp.sum(batch.stress_weight),
        }

    def __call__(
        self,
        prediction: Prediction,
        batch: Batch,
        normalisers: dict[str, Float[Array, ""]] | None = None,
    ) -> tuple[Float[Array, ""], Float[Array, " sums"]]:
        """The loss of a batch, and the sums from which :func:`errors` makes mean errors.

        Args:
            prediction: of the batch.
            batch: frames with labels; or a part of a larger batch, and then
            normalisers: the sums over all parts of their :meth:`normalisers`. Both results, and
                gradients, then add up over the parts to those of the whole.
        """
        if normalisers is None:
            normalisers = self.normalisers(batch)
        energy = prediction.energies - batch.energies
        forces = prediction.forces - batch.forces
        stress = prediction.virials / batch.volumes[:, None, None] - batch.stress
        stress = stress[:, VOIGT[0], VOIGT[1]]
        differences = {
            "energy": (energy, batch.energy_weight),
            "energy_per_atom": (energy / batch.atoms, batch.energy_weight),
            "forces": (forces, batch.force_weight),
            "stress": (stress, batch.stress_weight),
            "virial_per_atom": (
                stress * (batch.volumes / batch.atoms)[:, None],
                batch.stress_weight,
            ),
        }
        value = sum(
            weight / self.force_scale**2 * _mean_square(*differences[name], normalisers[name])
            for name, weight in self._terms().items()
        )
        return jnp.asarray(value), jnp.concatenate(
            [_sums(*differences[name]) for name in QUANTITIES]
        )

    def of_errors(self, found: dict[str, float]) -> float:
        """The loss that belongs to mean errors (:func:`errors`)."""
        return sum(
            weight * (found.get(f"{name}_rmse", 0.0) / self.force_scale) ** 2
            for name, weight in self._terms().items()
        )

    def _terms(self) -> dict[str, float]:
        return {
            "energy_per_atom": self.energy,
            "forces": self.forces,
            "virial_per_atom": self.stress,
        }


def errors(sums: Any) -> dict[str, float]:
    """Mean errors (``*_mae``, ``*_rmse``, ``*_count``) of what carries labels.

    Args:
        sums: [..., sums] as :class:`Loss` returns them; summed over all leading axes in float64.
    """
    totals = np.asarray(sums, np.float64).reshape(-1, len(QUANTITIES), 3).sum(axis=0)
    found = {}
    for name, (count, absolute, squared) in zip(QUANTITIES, totals, strict=True):
        if count:
            found[f"{name}_mae"] = float(absolute / count)
            found[f"{name}_rmse"] = float(np.sqrt(squared / count))
            found[f"{name}_count"] = int(count)
    return found


def _weights(values: Array, weights: Array) -> Array:
    return jnp.broadcast_to(weights.reshape(-1, *(1,) * (values.ndim - 1)), values.shape)


def _mean_square(values: Array, weights: Array, normaliser: Float[Array, ""]) -> Float[Array, ""]:
    return jnp.sum(_weights(values, weights) * values**2) / jnp.maximum(normaliser, 1)


def _sums(values: Array, weights: Array) -> Float[Array, " 3"]:
    present = (_weights(values, weights) > 0).astype(values.dtype)
    return jnp.stack(
        [jnp.sum(present), jnp.sum(present * jnp.abs(values)), jnp.sum(present * values**2)]
    )
