"""The loss on energies, forces and stress, and the errors reported beside it."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from allegro_jax.data.batches import Batch
from allegro_jax.train.gradient import Prediction

PENALTIES = ("mse", "mae", "huber")
TERMS = ("energy", "forces", "stress")
QUANTITIES = ("energy", "energy_per_atom", "forces", "stress", "virial_per_atom")
# The six independent components of a symmetric tensor (Voigt order).
VOIGT = ((0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1))


@dataclasses.dataclass(frozen=True)
class Loss:
    """A weighted sum of mean penalties of energies, forces and stress.

    L = energy · ⟨w ρ(r_E)⟩ + forces · ⟨w s ρ(r_F)⟩ + stress · ⟨w ρ(r_S)⟩

    Every label has one residual r, which no rotation changes, in units of σ·Å (energies) and σ:

    - r_E = |ΔE|/n of a frame of n atoms, or |ΔE|;
    - r_F = |ΔF|/√3 of an atom: the root mean square of the components;
    - r_S = ‖ΔS‖/3 · V/n of a frame of volume V (Frobenius norm, the root mean square likewise):
      a virial per atom, the counterpart of the energy per atom.

    ρ is r² (``mse``), r (``mae``), or r² up to δ and 2δr − δ² beyond (``huber``: the same weights
    serve as for ``mse``, but outliers pull no harder than a residual of δ). The means run over the
    labels of a batch, whatever their weights w (of the frame) and s (of the species): twice the
    weight is twice the pull, also in a batch of one frame.

    With σ the RMS of the forces, weights and learning rates carry over from one material to
    another; with σ = 1 eV/Å residuals are in eV and eV/Å.

    Attributes:
        energy, forces, stress: weights of the terms; where they follow a schedule, those that
            epochs are compared by.
        force_scale: σ in eV/Å.
        penalty: ρ.
        huber_delta: δ.
        total_energy: whether r_E is the error of the frame instead of that per atom.
        species_weights: s of every species; all 1 if none are given.
    """

    energy: float
    forces: float
    stress: float
    force_scale: float
    penalty: str = "mse"
    huber_delta: float = 0.1
    total_energy: bool = False
    species_weights: tuple[float, ...] | None = None

    def normalisers(self, batch: Batch) -> Float[Array, " terms"]:
        """How many labels the means over a batch divide by, by term."""
        weights = (batch.energy_weight, batch.force_weight, batch.stress_weight)
        return jnp.stack([jnp.sum(weight > 0, dtype=batch.energies.dtype) for weight in weights])

    def __call__(
        self,
        prediction: Prediction,
        batch: Batch,
        weights: Float[Array, " terms"] | None = None,
        normalisers: Float[Array, " terms"] | None = None,
    ) -> tuple[Float[Array, ""], Float[Array, " sums"]]:
        """The loss of a batch, and the sums from which :meth:`errors` makes mean errors.

        Args:
            prediction: of the batch.
            batch: frames with labels, or a part of a larger batch.
            weights: of energy, forces and stress; the loss's own by default.
            normalisers: for a part, the sum of :meth:`normalisers` over all parts. Losses, sums
                and gradients then add up over the parts to those of the whole.
        """
        if weights is None:
            weights = jnp.asarray(self._weights, batch.energies.dtype)
        counts = self.normalisers(batch)
        penalties = self._penalties(prediction, batch)
        means = penalties / jnp.maximum(counts if normalisers is None else normalisers, 1)
        metrics = frame_sums(prediction, batch).sum(axis=0).reshape(-1)
        return jnp.vdot(weights, means), jnp.concatenate([metrics, counts, penalties])

    def errors(self, sums: Any) -> dict[str, float]:
        """The loss, and mean errors (``*_mae``, ``*_rmse``, ``*_count``) of what carries labels.

        Args:
            sums: [..., sums] as the call returns them; added up over all leading axes in float64.
        """
        sums = np.asarray(sums, np.float64)
        totals = sums.reshape(-1, sums.shape[-1]).sum(axis=0)
        metrics, counts, penalties = np.split(totals, np.cumsum([3 * len(QUANTITIES), len(TERMS)]))
        value = float(np.dot(self._weights, penalties / np.maximum(counts, 1)))
        return {"loss": value, **mean_errors(metrics.reshape(-1, 3))}

    @property
    def _weights(self) -> tuple[float, float, float]:
        return self.energy, self.forces, self.stress

    def _penalties(self, prediction: Prediction, batch: Batch) -> Float[Array, " terms"]:
        """Σ w ρ(r) of every term."""
        energy = prediction.energies - batch.energies
        if not self.total_energy:
            energy = energy / batch.atoms
        forces = prediction.forces - batch.forces
        virial = _virial_per_atom(prediction, batch)
        force_weight = batch.force_weight
        if self.species_weights is not None:
            table = jnp.asarray(self.species_weights, force_weight.dtype)
            force_weight = force_weight * table[batch.species]
        squares = (energy**2, jnp.mean(forces**2, axis=-1), jnp.mean(virial**2, axis=(-2, -1)))
        return jnp.stack(
            [
                jnp.sum(weight * self._penalty(square / self.force_scale**2))
                for square, weight in zip(
                    squares, (batch.energy_weight, force_weight, batch.stress_weight), strict=True
                )
            ]
        )

    def _penalty(self, square: Float[Array, " labels"]) -> Float[Array, " labels"]:
        """ρ(r) from r²; where r = 0, as in padding, its gradient is 0 as well."""
        if self.penalty == "mse":
            return square
        residual = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
        if self.penalty == "mae":
            return residual
        delta = self.huber_delta
        return jnp.where(residual <= delta, square, 2 * delta * residual - delta**2)


def frame_sums(prediction: Prediction, batch: Batch) -> Float[Array, "frames quantities 3"]:
    """Of every frame and quantity: how many components carry labels, Σ|Δ| and ΣΔ² over them."""
    frames = batch.atoms.shape[0]
    energy = prediction.energies - batch.energies
    stress = _virial_per_atom(prediction, batch)[:, VOIGT[0], VOIGT[1]]
    forces = atom_sums(prediction, batch)
    by_quantity = {
        "energy": _sums(energy[:, None], batch.energy_weight),
        "energy_per_atom": _sums((energy / batch.atoms)[:, None], batch.energy_weight),
        "forces": jax.ops.segment_sum(forces, batch.frame, frames),
        "stress": _sums(stress * (batch.atoms / batch.volumes)[:, None], batch.stress_weight),
        "virial_per_atom": _sums(stress, batch.stress_weight),
    }
    return jnp.stack([by_quantity[name] for name in QUANTITIES], axis=1)


def atom_sums(prediction: Prediction, batch: Batch) -> Float[Array, "rows 3"]:
    """Of every row: how many components of its force carry labels, Σ|Δ| and ΣΔ² over them."""
    return _sums(prediction.forces - batch.forces, batch.force_weight)


def mean_errors(sums: Float[np.ndarray, "quantities 3"]) -> dict[str, float]:
    """``*_mae``, ``*_rmse`` and ``*_count`` of the quantities that carry labels."""
    found: dict[str, float] = {}
    for name, (count, absolute, squared) in zip(QUANTITIES, sums, strict=True):
        if count:
            found[f"{name}_mae"] = float(absolute / count)
            found[f"{name}_rmse"] = float(np.sqrt(squared / count))
            found[f"{name}_count"] = int(count)
    return found


def _virial_per_atom(prediction: Prediction, batch: Batch) -> Float[Array, "frames 3 3"]:
    """ΔS · V/n, eV."""
    difference = prediction.virials - batch.stress * batch.volumes[:, None, None]
    return difference / batch.atoms[:, None, None]


def _sums(
    differences: Float[Array, "labels components"], weights: Float[Array, " labels"]
) -> Float[Array, "labels 3"]:
    present = (weights > 0).astype(differences.dtype)
    return present[:, None] * jnp.stack(
        [
            jnp.full(weights.shape, differences.shape[1], differences.dtype),
            jnp.sum(jnp.abs(differences), axis=1),
            jnp.sum(differences**2, axis=1),
        ],
        axis=1,
    )
