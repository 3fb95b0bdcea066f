"""Schedules against their formulas."""

from __future__ import annotations

import numpy as np
import pytest

from allegro_jax.train.config import FitConfig
from allegro_jax.train.schedule import Schedule


def rates(**training):
    fit = FitConfig(**{"epochs": 10, "warmup_epochs": 2.0, "learning_rate": 1.0, **training})
    return [Schedule(fit).learning_rate(epoch) for epoch in (1.0, 2.0, 6.0, 8.0, 10.0)]


@pytest.mark.parametrize(
    ("training", "expected"),
    [
        ({"final_learning_rate": 0.1}, [0.5, 1, 0.55, 0.1 + 0.45 * (1 - 0.5**0.5), 0.1]),
        (
            {"schedule": "exponential", "final_learning_rate": 0.01},
            [0.5, 1, 0.1, 0.01**0.75, 0.01],
        ),
        ({"schedule": "linear", "final_learning_rate": 0.2}, [0.5, 1, 0.6, 0.4, 0.2]),
        (
            {"schedule": "linear", "final_learning_rate": 0.0, "decay_share": 0.5},
            [0.5, 1, 1, 0.5, 0],
        ),
        ({"schedule": "constant"}, [0.5, 1, 1, 1, 1]),
        ({"schedule": "constant", "warmup_epochs": 0.0}, [1, 1, 1, 1, 1]),
    ],
)
def test_learning_rates(training, expected):
    np.testing.assert_allclose(rates(**training), expected)


def test_plateau():
    schedule = Schedule(FitConfig(schedule="plateau", plateau_patience=2))
    before = schedule.learning_rate(100.0)
    for improved in (True, False, False, False):
        schedule.validated(improved)
    assert schedule.learning_rate(100.0) == before / 2


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_weights_follow_straight_lines(precision):
    fit = FitConfig(
        energy_weight={2.0: 1.0, 4.0: 9.0, 4.5: 0.5}, forces_weight=3.0, precision=precision
    )
    schedule = Schedule(fit)
    found = [schedule(epoch).weights for epoch in (0.0, 2.0, 2.5, 4.0, 4.25, 4.5, 99.0)]
    assert all(one.dtype == precision for one in found)
    assert [float(one[0]) for one in found] == [1, 1, 3, 9, 4.75, 0.5, 0.5]
    assert all(one[1] == 3 and one[2] == 1 for one in found)


def test_weights_may_follow_shares_of_the_epochs():
    for epochs in (50, 200):
        schedule = Schedule(FitConfig(epochs=epochs, energy_weight={"60%": 1.0, "100%": 9.0}))
        found = [float(schedule(share * epochs).weights[0]) for share in (0.0, 0.6, 0.8, 1.0, 1.5)]
        np.testing.assert_allclose(found, [1, 1, 5, 9, 9], rtol=1e-6)
    mixed = Schedule(FitConfig(epochs=10, energy_weight={"100%": 4.0, 5.0: 2.0}))
    np.testing.assert_allclose(mixed(7.5).weights[0], 3, rtol=1e-6)
