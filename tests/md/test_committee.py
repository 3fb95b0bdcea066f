"""Committees of any potential: their mean, and how far their members are apart."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from md.committee import Committee, evaluate_spread, members_of
from md.evaluation import evaluate
from md.local_potential import LocalPotential
from md.neighbours import neighbour_list
from md.pair_potentials import LennardJones

CELL = jnp.eye(3) * 12.0


def test_spread_of_a_committee_of_pair_potentials():
    members = [LennardJones.create(("Ar",), depth, 3.4, 8.0) for depth in (0.009, 0.010, 0.014)]
    committee = Committee.create(*members)
    assert isinstance(committee, LocalPotential)
    assert members_of(committee) == 3 and members_of(members[0]) == 1
    positions = jnp.asarray(np.random.default_rng(0).uniform(0, 3, (7, 3)) + 3.5 * np.eye(7, 3))
    species = jnp.asarray([0] * 6 + [-1])  # the last is padding
    listed = neighbour_list((False,) * 3, 8.0, 0.5).allocate(positions, CELL, species)
    place = positions, CELL, species, listed
    alone = [evaluate(member, *place) for member in members]
    mean = evaluate(committee, *place)
    forces = np.asarray([one.forces for one in alone], float)
    energies = np.asarray([np.sum(one.site_energies) for one in alone], float)
    # float32, and forces between atoms that overlap are large
    scale = np.abs(forces).max()
    np.testing.assert_allclose(mean.forces, forces.mean(axis=0), atol=1e-5 * scale)
    found = evaluate_spread(committee, *place)
    expected = np.sqrt(((forces - forces.mean(axis=0)) ** 2).sum(axis=(0, 2)) / 2)
    np.testing.assert_allclose(found.forces, expected, atol=1e-5 * scale)
    assert found.forces[6] == 0 and (found.forces[:6] > 0).all()
    assert float(found.energy) == pytest.approx(energies.std(ddof=1), rel=1e-4)
    np.testing.assert_array_equal(
        evaluate(committee[1], *place).forces, np.asarray(alone[1].forces)
    )


def test_members_differ_in_their_weights_alone():
    one = LennardJones.create(("Ar",), 0.01, 3.4, 8.0)
    with pytest.raises(ValueError, match="at least two members"):
        Committee.create(one)
    with pytest.raises(ValueError, match="differ in their weights alone"):
        Committee.create(one, LennardJones.create(("Ar",), 0.01, 3.4, 7.0))
