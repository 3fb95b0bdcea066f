"""User functions as observables: mean and variance, and what is refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms

from md import neighbours
from md.correlations import MeanSquaredDisplacement, VelocityAutocorrelation
from md.distributions import AngularDistribution, RadialDistribution
from md.observable import Observable, UserObservable, check_names
from md.structures import state_from_atoms


@pytest.fixture(scope="module")
def start():
    atoms = Atoms("He2", positions=[[0, 0, 0], [0, 0, 1.5]])
    state = state_from_atoms(atoms, ("He",), np.zeros((2, 3)), 0, "float32")
    listed = neighbours.neighbour_list(False, 3.0).allocate(
        state.positions, state.cell, state.species
    )
    return state, listed


def test_mean_and_variance_of_a_function(start):
    """Of numbers with a large offset, which single precision would drown in their squares."""
    state, listed = start

    def function(state, neighbours):
        return {"x": state.positions[:, 0], "bonds": jnp.sum(neighbours.mask, axis=1)}

    observable = UserObservable(function, every=2, name="places")
    rng = np.random.default_rng(0)
    values = (1000 + rng.normal(size=(500, 2))).astype(np.float32)

    @jax.jit
    def run(accumulators, values):
        def look(accumulators, x):
            now = state.replace(positions=state.positions.at[:, 0].set(x))
            return observable.update(accumulators, now, listed), None

        return jax.lax.scan(look, accumulators, values)[0]

    accumulators = run(observable.init(state, listed, ("He",)), jnp.asarray(values))
    table = observable.result(accumulators, 1.0)
    exact = values.astype(np.float64)
    np.testing.assert_allclose(table["x_mean"], exact.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(table["x_variance"], exact.var(axis=0, ddof=1), rtol=1e-6)
    np.testing.assert_array_equal(table["bonds_mean"], [1, 1])
    np.testing.assert_array_equal(table["bonds_variance"], [0, 0])
    nothing = observable.result(observable.init(state, listed, ("He",)), 1.0)
    assert np.isnan(nothing["x_mean"]).all()


def test_a_plain_array_is_a_column(start):
    state, listed = start
    observable = UserObservable(lambda state, neighbours: state.masses[0])
    accumulators = observable.update(observable.init(state, listed, ("He",)), state, listed)
    assert observable.result(accumulators, 1.0)["value_mean"] == pytest.approx(4.0026, rel=1e-3)


def test_arrays_of_different_sizes_make_no_table(start):
    state, listed = start
    observable = UserObservable(lambda s, _: {"a": s.positions, "b": s.masses}, name="both")
    with pytest.raises(ValueError, match="both: the arrays of one table must have equal sizes"):
        observable.init(state, listed, ("He",))


def test_all_observables_keep_the_protocol_and_are_hashable():
    found = [
        RadialDistribution(5.0),
        AngularDistribution({("O", "H"): 1.2}),
        MeanSquaredDisplacement(atoms=[0, 1]),
        VelocityAutocorrelation(),
        UserObservable(lambda state, neighbours: state.cell),
    ]
    for observable in found:
        assert isinstance(observable, Observable)
        hash(observable)
    check_names(found)
    with pytest.raises(ValueError, match="two observables are called 'rdf'"):
        check_names([RadialDistribution(5.0), RadialDistribution(6.0)])
