"""Activation energies from diffusion coefficients at several temperatures."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import curve_fit

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
BOLTZMANN_EV = 8.617333262e-5
TEMPERATURES = np.array([500.0, 600, 800, 1000])


@pytest.fixture
def arrhenius(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    return importlib.import_module("arrhenius")


def exact(energy=0.25, factor=3e-3):
    return factor * np.exp(-energy / (BOLTZMANN_EV * TEMPERATURES))


def test_an_exact_line_is_found(arrhenius):
    line = arrhenius.fit(np.stack([TEMPERATURES, exact(), 0.1 * exact()], 1))
    assert line.activation_eV[0] == pytest.approx(0.25)
    assert line.extrapolated[0] == pytest.approx(3e-3 * np.exp(-0.25 / (BOLTZMANN_EV * 300)))
    assert line.chi2_per_degree == pytest.approx(0, abs=1e-12)


def test_weights_and_errors_are_those_of_another_fit(arrhenius):
    value = exact() * np.array([1.1, 0.9, 1.05, 1.0])
    error = value * np.array([0.2, 0.05, 0.1, 0.02])
    line = arrhenius.fit(np.stack([TEMPERATURES, value, error], 1))
    best, covariance = curve_fit(
        lambda x, constant, energy: constant - energy * x,
        1 / (BOLTZMANN_EV * TEMPERATURES),
        np.log(value),
        sigma=error / value,
        absolute_sigma=True,
    )
    assert line.activation_eV == pytest.approx((best[1], np.sqrt(covariance[1, 1])), rel=1e-5)
    assert line.constants[0] == pytest.approx(best[0], rel=1e-5)


def test_errors_are_as_large_as_they_say(arrhenius):
    random, found = np.random.default_rng(0), []
    for _ in range(300):
        value = exact() * (1 + 0.05 * random.normal(size=4))
        found.append(arrhenius.fit(np.stack([TEMPERATURES, value, 0.05 * value], 1)))
    energies = np.array([line.activation_eV for line in found])
    assert energies[:, 0].std() == pytest.approx(energies[:, 1].mean(), rel=0.15)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[500, 1, 0.1], [600, 2, 0.1]], "three temperatures, not 2"),
        ([[500, 1, 0.1], [600, 2, np.nan], [700, 3, 0.1]], "must be positive"),
        ([[500, -1, 0.1], [600, 2, 0.1], [700, 3, 0.1]], "must be positive"),
    ],
)
def test_what_gives_no_line_is_refused(arrhenius, rows, message):
    with pytest.raises(ValueError, match=message):
        arrhenius.fit(np.array(rows, float))


def test_seeds_are_averaged_and_the_table_written(arrhenius):
    described = arrhenius.Arrhenius.of(
        {"species": "Li", "analysis": {"msd": True}, "series": {"model": ["a", "b", "c"]}}
    )
    results = {
        name: {
            str(seed): {"bath K": t, "D": d * (1 + 0.1 * seed), "error": 0.05 * d}
            for seed in range(seeds)
        }
        for name, seeds, t, d in zip("abc", (2, 1, 1), TEMPERATURES, exact(), strict=False)
    }
    assert arrhenius.lines(described, {"a": results["a"]}) == {}
    line = arrhenius.lines(described, results)["model"]
    assert line.points[0] == pytest.approx([500, 1.05 * exact()[0], 0.05 * exact()[0]])
    assert line.points[1] == pytest.approx([600, exact()[1], 0.05 * exact()[1]])
    text = arrhenius.table({"model": line})
    assert "| model | 600 | 23.8 ± 1.2 |" in text
