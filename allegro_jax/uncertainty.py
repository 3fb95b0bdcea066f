"""Whether the uncertainty of a committee tells its errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from allegro_jax.data.frames import Frame


def calibration_of(
    frames: Sequence[Frame], predictions: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, float]]:
    """Uncertainties against true errors, over all frames that carry a label.

    Returns:
        For ``energy_per_atom`` (eV per atom, one number per frame) and ``forces`` (eV/Å, one number
        per atom), each only where there are labels: figures of :func:`calibration`. Empty without
        uncertainties.
    """
    pairs: dict[str, list[tuple[Any, Any]]] = {"energy_per_atom": [], "forces": []}
    for frame, predicted in zip(frames, predictions, strict=True):
        if "energy_std" not in predicted:
            continue
        if frame.energy is not None:
            size = max(len(frame), 1)
            error = predicted["energy"] - frame.energy
            pairs["energy_per_atom"].append(([predicted["energy_std"] / size], [error / size]))
        if frame.forces is not None:
            errors = np.linalg.norm(predicted["forces"] - frame.forces, axis=1)
            pairs["forces"].append((predicted["forces_std"], errors))
    return {
        name: calibration(*(np.concatenate(part) for part in zip(*found, strict=True)))
        for name, found in pairs.items()
        if found
    }


def calibration(
    uncertainty: Float[np.ndarray, " samples"], error: Float[np.ndarray, " samples"]
) -> dict[str, float]:
    """How well uncertainties σ tell the sizes of errors ε.

    Returns:
        ``mean``: ⟨σ⟩. ``rms``: √⟨σ²⟩. ``ratio``: √(⟨ε²⟩/⟨σ²⟩), by which σ should be multiplied to
        be as large as errors are; above 1 the committee is too sure of itself. ``correlation`` and
        ``rank_correlation`` of σ with |ε| (Pearson, Spearman; absent where one of them does not
        vary). ``share_of_largest``: of the tenth of the samples with the largest errors, how many
        are among the tenth with the largest uncertainties (0.1 by chance).
    """
    error = np.abs(error)
    found = {
        "mean": float(uncertainty.mean()),
        "rms": float(np.sqrt(np.mean(uncertainty**2))),
    }
    if found["rms"] > 0:
        found["ratio"] = float(np.sqrt(np.mean(error**2))) / found["rms"]
    if np.ptp(uncertainty) > 0 and np.ptp(error) > 0:
        found["correlation"] = float(np.corrcoef(uncertainty, error)[0, 1])
        found["rank_correlation"] = float(np.corrcoef(_ranks(uncertainty), _ranks(error))[0, 1])
    tenth = len(error) // 10
    if tenth:
        largest = [set(np.argsort(values)[-tenth:].tolist()) for values in (uncertainty, error)]
        found["share_of_largest"] = len(set.intersection(*largest)) / tenth
    return found


def _ranks(values: Float[np.ndarray, " samples"]) -> Float[np.ndarray, " samples"]:
    """Place of every value in their order, equal ones sharing theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse].astype(float)
