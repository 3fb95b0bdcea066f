"""Metadynamics: its hills by hand, and the free energy of a known double well."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms

from md import bias, units
from md.collective_variables import Coordinate, Distance, Torsion
from md.metadynamics import Metadynamics
from md.structures import state_from_atoms
from md.thermostats import langevin

X = Coordinate(0, (1.0, 0.0, 0.0))


@pytest.fixture(scope="module")
def state():
    atoms = Atoms("H4", positions=[[0.3, 0, 0], [0, 1, 0], [0, 1, 1], [1, 1, 2]])
    return state_from_atoms(atoms, ("H",), np.zeros((4, 3)), 0, "float32")


def at(state, x, step):
    return state.replace(positions=state.positions.at[0, 0].set(x), step=jnp.int32(step))


def test_hills_by_hand(state):
    """Three well-tempered hills of a distance and a torsion, against the equations in numpy."""
    variables = (Distance(0, 1), Torsion(0, 1, 2, 3))
    term = Metadynamics(variables, (0.2, 0.4), 0.3, 10, bias_factor=5.0, temperature_K=400.0)
    hills, places, heights = term.init(state), [], []

    def energy(place):
        total = 0.0
        for centre, height in zip(places, heights, strict=True):
            apart = np.asarray(place) - centre
            apart[1] = (apart[1] + np.pi) % (2 * np.pi) - np.pi
            total += height * np.exp(-np.sum((apart / [0.2, 0.4]) ** 2) / 2)
        return total

    for step, x in ((5, 0.0), (10, 0.3), (20, 0.35), (27, 0.5), (30, 0.25)):
        now = at(state, x, step)
        hills, added = term.update(hills, now)
        place = np.asarray(term.values(now.positions, now.cell, now.pbc), float)
        if step % 10 == 0:
            height = 0.3 * np.exp(-energy(place) / (units.BOLTZMANN * 400 * 4))
            places.append(place)
            heights.append(height)
            assert float(added) == pytest.approx(height, rel=1e-5)
        else:
            assert float(added) == 0
    table = term.results(hills)["hills"]
    np.testing.assert_array_equal(table["step"], [10, 20, 30])
    np.testing.assert_allclose(table["height_eV"], heights, rtol=1e-5)
    np.testing.assert_allclose(table["distance_A"], np.asarray(places)[:, 0], rtol=1e-6)
    probe = at(state, 0.4, 31)
    value = term.values(probe.positions, probe.cell, probe.pbc)
    assert float(bias.forces(term, hills, probe)[0]) == pytest.approx(energy(value), rel=1e-5)

    axes = np.linspace(0.8, 1.5, 4), np.linspace(-3, 3, 5)
    landscape = term.free_energy(hills, *axes)
    expected = np.array([[-1.25 * energy(np.array([a, b])) for b in axes[1]] for a in axes[0]])
    np.testing.assert_allclose(landscape, expected - expected.min(), atol=1e-6)


def test_a_fresh_hill_has_no_slope(state):
    """So forces that were computed before it was left stay right."""
    term = Metadynamics((X,), (0.2,), 0.3, 1)
    hills, _ = term.update(term.init(state), at(state, 0.3, 1))
    energy, forces, virial = bias.forces(term, hills, at(state, 0.3, 1))
    assert float(energy) == pytest.approx(0.3)
    assert not np.any(np.asarray(forces)) and not np.any(np.asarray(virial))


def test_room_for_hills_never_runs_out_in_silence(state):
    term = Metadynamics((X,), (0.2,), 0.1, 2)
    hills = term.init(state)
    room = len(hills.heights)
    assert term.reserve(hills, 2 * room - 2) is hills
    grown = term.reserve(hills, 2 * room)
    assert len(grown.heights) == 2 * room
    deposit = jax.jit(term.update)
    for step in range(2, 2 * room + 2, 2):
        hills, _ = deposit(hills, at(state, 0.3, step))
    assert float(bias.forces(term, hills, state)[0]) == pytest.approx(0.1 * room, rel=1e-5)
    grown = term.reserve(hills, 2)
    more, _ = term.update(grown, at(state, 0.3, 1000))
    assert float(bias.forces(term, more, state)[0]) == pytest.approx(0.1 * (room + 1), rel=1e-5)
    # without the reserve: not a number, which stops a run
    lost, added = deposit(hills, at(state, 0.3, 1000))
    assert np.isnan(float(added)) and np.isnan(float(bias.forces(term, lost, state)[0]))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Metadynamics((), (), 0.1, 10), "different names"),
        (lambda: Metadynamics((X, X), (0.1, 0.1), 0.1, 10), "different names"),
        (lambda: Metadynamics((X,), (0.1, 0.2), 0.1, 10), "1 positive numbers"),
        (lambda: Metadynamics((X,), (0.1,), 0.1, 0), "at least 1 step apart"),
        (lambda: Metadynamics((X,), (0.1,), -0.1, 10), "height of hills must be positive"),
        (lambda: Metadynamics((X,), (0.1,), 0.1, 10, 0.5, 300.0), "bias_factor must be above 1"),
        (lambda: Metadynamics((X,), (0.1,), 0.1, 10, 5.0), "needs temperature_K"),
        (lambda: Metadynamics((Distance(0, 9),), (0.1,), 0.1, 10), "there is no atom 9"),
    ],
)
def test_settings_without_a_meaning_are_refused(build, message, state):
    with pytest.raises(ValueError, match=message):
        build().init(state)


@pytest.mark.physical
def test_free_energy_of_a_double_well():
    """U = a (x² − 1)² with a barrier of 10 k_B T, in one coordinate of a free particle: F = U."""
    temperature, barrier, steps = 300.0, 0.25, 300_000
    term = Metadynamics((X,), (0.12,), 0.004, 200, bias_factor=8.0, temperature_K=temperature)
    atoms = Atoms("H", positions=[[-1.0, 0, 0]])
    state = state_from_atoms(atoms, ("H",), np.zeros((1, 3)), 1, "float32")
    hills = term.reserve(term.init(state), steps)
    integrator = langevin(
        timestep=jnp.asarray(0.5 * units.FEMTOSECOND),
        temperature=jnp.asarray([temperature]),
        rate=jnp.asarray([0.02 / units.FEMTOSECOND]),
    )

    def well(positions):
        return barrier * (positions[0, 0] ** 2 - 1) ** 2

    @jax.jit
    def run(state, hills):
        def step(_, carry):
            state, hills = carry
            state = integrator.begin(state)
            _, forces, _ = bias.forces(term, hills, state)
            state = state.replace(forces=forces - jax.grad(well)(state.positions))
            state = integrator.finish(state)
            state = state.replace(step=state.step + 1)
            hills, _ = term.update(hills, state)
            return state, hills

        return jax.lax.fori_loop(0, steps, step, (integrator.init(state), hills))

    state, hills = run(state, hills)
    x = np.linspace(-1.25, 1.25, 51)
    found = term.free_energy(hills, x)
    expected = barrier * (x**2 - 1) ** 2
    error = found - expected - np.mean(found - expected)
    visited = np.asarray(hills.centres)[: int(hills.count), 0]
    assert visited.min() < -1 and visited.max() > 1  # a plain run would stay where it began
    assert np.sqrt(np.mean(error**2)) < 0.4 * units.BOLTZMANN * temperature
