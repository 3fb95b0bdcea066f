"""Radial functions against their textbook forms and finite differences."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from allegro_jax import radial


@pytest.mark.parametrize("power", [2, 6, 48])
def test_envelope_and_its_derivatives(power):
    x = np.linspace(0.01, 1.2, 60)
    p = power
    textbook = np.where(
        x < 1,
        1
        - (p + 1) * (p + 2) / 2 * x**p
        + p * (p + 2) * x ** (p + 1)
        - p * (p + 1) / 2 * x ** (p + 2),
        0,
    )
    with jax.enable_x64(True):
        x = jnp.asarray(x)
        slope = jax.vmap(jax.grad(radial.envelope), (0, None))
        np.testing.assert_allclose(radial.envelope(x, p), textbook, atol=1e-12)
        step = 1e-5
        numeric = (radial.envelope(x + step, p) - radial.envelope(x - step, p)) / (2 * step)
        np.testing.assert_allclose(slope(x, p), numeric, atol=1e-5)
        curvature = jax.vmap(jax.grad(jax.grad(radial.envelope)), (0, None))
        numeric = (slope(x + step, p) - slope(x - step, p)) / (2 * step)
        inside = np.abs(x - 1) > 2 * step
        np.testing.assert_allclose(curvature(x, p)[inside], numeric[inside], atol=1e-3)


def test_envelope_keeps_its_digits_in_float32():
    """The textbook form loses four digits of the derivative at p = 48."""
    x = jnp.linspace(0.5, 0.999, 500)
    slope = jax.vmap(jax.grad(radial.envelope), (0, None))
    with jax.enable_x64(True):
        exact = slope(x.astype(float), 48)
    np.testing.assert_allclose(slope(x, 48), exact, atol=1e-4)
    assert slope(jnp.array([1.0, 1.5]), 48).tolist() == [0.0, 0.0]


def test_bessel_basis():
    x = np.linspace(0.05, 0.95, 7)
    n = np.arange(1, 5)
    with jax.enable_x64(True):
        found = radial.bessel_basis(jnp.asarray(x), jnp.asarray(n, float))
    np.testing.assert_allclose(
        found, np.sin(np.pi * n * x[:, None]) / (np.pi * x[:, None]), atol=1e-14
    )


def test_spline_basis_vanishes_at_one_and_overlaps_by_its_span():
    with jax.enable_x64(True):
        x = jnp.linspace(0, 1, 201)
        basis = np.asarray(radial.spline_basis(x, 8, 3))
    assert np.allclose(basis[-1], 0, atol=1e-15)
    assert ((basis > 1e-12).sum(axis=1) <= 4).all()
    assert basis.max() == pytest.approx(1, abs=1e-3)


def test_zbl_against_lammps_formula():
    """H–O at 1 Å by hand: ½·14.399645·8·φ, φ from the four exponentials."""
    rho = (1 + 8**0.23) / 0.46850
    c, d = (0.02817, 0.28022, 0.50986, 0.18175), (0.20162, 0.40290, 0.94229, 3.19980)
    expected = 0.5 * 14.399645 * 8 * sum(a * np.exp(-b * rho) for a, b in zip(c, d, strict=True))
    with jax.enable_x64(True):
        found = radial.zbl(
            jnp.ones((1, 2)), jnp.array([[True, False]]), jnp.ones(1), jnp.full((1, 2), 8.0)
        )
    np.testing.assert_allclose(found, [[expected, 0]], rtol=1e-14)
