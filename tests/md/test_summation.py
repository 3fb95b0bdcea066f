"""Sums in pairs of float32 keep the digits that a float32 sum loses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from md import summation


@pytest.mark.parametrize("size", [0, 1, 2, 3, 1000, 4097])
def test_compensated_sum_is_as_good_as_float64(size):
    values = np.random.default_rng(size).normal(-1000, 300, size).astype(np.float32)
    total = summation.to_float(jax.jit(summation.compensated_sum)(jnp.asarray(values)))
    assert total == pytest.approx(np.sum(values, dtype=np.float64), rel=1e-13, abs=1e-9)


def test_accumulation_does_not_drift():
    steps, increment = 20_000, np.float32(0.1)

    @jax.jit
    def accumulate(total):
        body = lambda _, pair: summation.add(pair, jnp.float32(increment))  # noqa: E731
        return jax.lax.fori_loop(0, steps, body, total)

    start = summation.TwoFloat(jnp.float32(1e5), jnp.float32(0))
    total = summation.to_float(accumulate(start))
    assert total == pytest.approx(1e5 + steps * float(increment), rel=1e-12)
