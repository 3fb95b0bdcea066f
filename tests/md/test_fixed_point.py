"""Sums in fixed point do not depend on the order, and forces summed so are right."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import bulk
from flax import struct

from md import LennardJones, fixed_point, neighbour_list, simulate
from md.evaluation import evaluate


@struct.dataclass
class General(LennardJones):
    """Lennard-Jones, of which the engine does not know that it is pairwise."""

    pairwise = False


@pytest.fixture(scope="module")
def general():
    pair = LennardJones.create(("Ar",), 0.0104, 3.4, 5.0)
    return General(pair.params, pair.species, pair.cutoff)


def total(indices, terms):
    return fixed_point.add_at(fixed_point.zeros((5, 3)), jnp.asarray(indices), jnp.asarray(terms))


def test_any_order_gives_the_same_bits():
    rng = np.random.default_rng(0)
    terms = rng.normal(0, 30, (4000, 3)).astype(np.float32)
    indices = rng.integers(0, 6, 4000)  # the last is past the end
    exact = np.zeros((6, 3))
    np.add.at(exact, indices, terms.astype(np.float64))
    results = []
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(4000)
        summed = total(indices[order], terms[order])
        results.append(np.asarray(fixed_point.to_float(summed, jnp.float32)))
        # each term is rounded to a part in 2³⁰
        value = np.asarray(summed.coarse) / 2.0**10 + np.asarray(summed.fine) / 2.0**30
        np.testing.assert_allclose(value, exact[:5], atol=4000 * 2.0**-31)
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


@pytest.mark.parametrize("value", [np.nan, np.inf, 2.0**19])
def test_terms_that_do_not_fit_spoil_the_sum(value):
    terms = np.ones((2, 3), np.float32)
    terms[1, 2] = value
    assert np.all(np.isnan(fixed_point.to_float(total([0, 1], terms), jnp.float32)))


def test_forces_are_the_same_but_for_rounding(general):
    atoms = bulk("Ar", "fcc", a=5.3) * (3, 3, 3)
    atoms.rattle(0.3, seed=0)
    positions, cell = (jnp.asarray(x, jnp.float32) for x in (atoms.positions, atoms.cell.array))
    species = jnp.zeros(len(atoms), jnp.int32)
    listed = neighbour_list(True, 5.0).allocate(positions, cell, species)
    results = [
        evaluate(general, positions, cell, species, listed, block_size=10, deterministic=d)
        for d in (False, True)
    ]
    pairwise = LennardJones(general.params, general.species, general.cutoff)
    results.append(evaluate(pairwise, positions, cell, species, listed))
    for result in results[1:]:
        np.testing.assert_allclose(result.forces, results[0].forces, atol=2e-6)
        np.testing.assert_allclose(result.virial, results[0].virial, rtol=1e-5, atol=1e-6)


def test_a_deterministic_run(general):
    result = simulate(
        general, bulk("Ar", "fcc", a=5.3) * (2, 2, 2), steps=20, temperature_K=30,
        timestep_fs=2.0, deterministic=True, trajectory_every=0, progress=False,
    )  # fmt: skip
    assert np.ptp(result.log["conserved_eV"]) < 1e-5
