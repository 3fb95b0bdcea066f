"""Committees: several models trained at once, in one compiled program."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from allegro_jax.config import AllegroConfig
from allegro_jax.data.batches import Batch
from allegro_jax.model import init


def initial_params(seed: int, config: AllegroConfig, dtype: Any, members: int = 1) -> Any:
    """Random weights of a model; of several members, each from a key of its own, with a leading
    axis."""
    key = jax.random.key(seed)
    if members == 1:
        return init(key, config, dtype)
    draw = jax.jit(jax.vmap(lambda own: init(own, config, dtype)))
    return draw(jax.random.split(key, members))


def over_members(function: Callable[..., Any], members: int) -> Callable[..., Any]:
    """``function(state, batch, ..., **keywords)`` of one model, for all members at once.

    The state has a leading axis of members; so has the result. The batch is shared, but for its
    weights where members have their own (:func:`with_weights`).
    """
    if members == 1:
        return function

    def of_all(state: Any, batch: Batch, *rest: Any, **keywords: Any) -> Any:
        own = 0 if batch.energy_weight.ndim == 2 else None
        axes = jax.tree.map(lambda _: None, batch).replace(
            energy_weight=own, force_weight=own, stress_weight=own
        )
        of_one = functools.partial(function, **keywords)
        return jax.vmap(of_one, in_axes=(0, axes, *(None for _ in rest)))(state, batch, *rest)

    return of_all


def bootstrap(seed: int, members: int, frames: int) -> Float[np.ndarray, "members frames"]:
    """How often each member draws each frame: as many draws as there are frames, with replacement.

    (B. Efron, Ann. Stat. 7, 1 (1979).)
    """
    rng = np.random.default_rng([seed, members])
    draws = rng.integers(frames, size=(members, frames))
    return np.stack([np.bincount(own, minlength=frames) for own in draws]).astype(float)


def with_weights(batch: Batch, weights: Float[np.ndarray, "members n"]) -> Batch:
    """A batch in which the n frames have another weight for every member."""
    missing = len(batch.energy_weight) - weights.shape[1]
    by_frame = np.pad(weights, ((0, 0), (0, missing))).astype(batch.energy_weight.dtype)
    return batch.replace(
        energy_weight=by_frame * batch.energy_weight,
        force_weight=by_frame[:, batch.frame] * batch.force_weight,
        stress_weight=by_frame * batch.stress_weight,
    )


def mean_and_spread(each: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over the members of what is known of each, and ``NAME_spread``, the standard deviation
    (M − 1 in the denominator)."""
    if len(each) == 1:
        return dict(each[0])
    names = [name for name in each[0] if all(name in found for found in each)]
    values = {name: np.asarray([found[name] for found in each], float) for name in names}
    means = {name: float(value.mean()) for name, value in values.items()}
    spreads = {
        f"{name}_spread": float(value.std(ddof=1))
        for name, value in values.items()
        if not name.endswith("_count")
    }
    return means | spreads
