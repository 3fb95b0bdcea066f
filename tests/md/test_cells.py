"""Geometry of cells: general triclinic, any mix of periodic directions."""

from __future__ import annotations

from itertools import product

import jax.numpy as jnp
import numpy as np
import pytest

from md import cells

TRICLINIC = np.array([[7.0, 0.3, -0.4], [2.5, 6.0, 0.2], [-1.5, 2.0, 5.5]])


def test_volume_and_heights():
    cell = jnp.asarray(TRICLINIC)
    assert float(cells.volume(cell)) == pytest.approx(abs(np.linalg.det(TRICLINIC)), rel=1e-6)
    faces = [np.cross(TRICLINIC[(d + 1) % 3], TRICLINIC[(d + 2) % 3]) for d in range(3)]
    expected = [abs(np.linalg.det(TRICLINIC)) / np.linalg.norm(face) for face in faces]
    np.testing.assert_allclose(cells.heights(cell), expected, rtol=1e-6)


@pytest.mark.parametrize("pbc", list(product((False, True), repeat=3)))
def test_frame_keeps_what_repeats_and_completes_the_rest(pbc):
    cell = np.where(np.asarray(pbc)[:, None], TRICLINIC, 0.0)
    frame = np.asarray(cells.frame(jnp.asarray(cell), pbc))
    for d in range(3):
        if pbc[d]:
            np.testing.assert_array_equal(frame[d], cell[d].astype(frame.dtype))
        else:
            others = np.delete(frame, d, axis=0)
            assert np.linalg.norm(frame[d]) == pytest.approx(1, rel=1e-6)
            np.testing.assert_allclose(others @ frame[d], 0, atol=1e-6)


def test_fractional_is_the_inverse_of_lattice_vector():
    fractional = np.random.default_rng(0).uniform(-2, 2, (20, 3)).astype(np.float32)
    cell = jnp.asarray(TRICLINIC)
    positions = cells.lattice_vector(jnp.asarray(fractional), cell)
    np.testing.assert_allclose(positions, fractional @ TRICLINIC, rtol=2e-6, atol=1e-5)
    np.testing.assert_allclose(cells.fractional(positions, cell), fractional, atol=1e-5)


def test_displacement_adds_the_shift():
    a, b, shift = np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.5, 0.5]), np.array([1, 0, -2])
    found = cells.displacement(*map(jnp.asarray, (a, b, shift, TRICLINIC)))
    np.testing.assert_allclose(found, a - b + shift @ TRICLINIC, rtol=1e-6)


def test_images_and_translation_wrap():
    pbc = (True, False, True)
    positions = np.random.default_rng(1).uniform(-30, 30, (50, 3)).astype(np.float32)
    cell = jnp.asarray(TRICLINIC)
    images = cells.images(jnp.asarray(positions), cell, pbc)
    assert np.all(np.asarray(images)[:, 1] == 0)
    wrapped = cells.translate(jnp.asarray(positions), -images, cell)
    fractional = np.asarray(cells.fractional(wrapped, cells.frame(cell, pbc)))[:, [0, 2]]
    assert fractional.min() > -1e-5 and fractional.max() < 1 + 1e-5


def test_travelled_leaves_out_what_the_cell_did():
    rng = np.random.default_rng(2)
    positions = rng.uniform(0, 6, (10, 3)).astype(np.float32)
    strain = np.eye(3) + 0.01 * rng.normal(size=(3, 3))
    cell, pbc = jnp.asarray(TRICLINIC), (True, True, True)
    moved, change = cells.travelled(
        jnp.asarray(positions @ strain, jnp.float32), jnp.asarray(positions),
        jnp.asarray(TRICLINIC @ strain), cell, pbc,
    )  # fmt: skip
    np.testing.assert_allclose(moved, 0, atol=2e-5)
    assert float(change) == pytest.approx(np.linalg.norm(strain - np.eye(3)), rel=1e-3)

    moved, change = cells.travelled(
        jnp.asarray(positions + np.array([0.3, 0.0, 0.4])), jnp.asarray(positions), cell, cell, pbc
    )
    np.testing.assert_allclose(moved, 0.5, rtol=1e-5)
    assert float(change) == 0
