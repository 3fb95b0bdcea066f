"""Biases: their forces and virials against finite differences, their variables against ASE."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms

from md import bias
from md.bias import BiasFunction, as_bias
from md.collective_variables import (
    Angle,
    Coordinate,
    Coordination,
    Distance,
    Torsion,
    VariableFunction,
    Volume,
)
from md.metadynamics import Metadynamics
from md.restraints import PlaneWall, PositionRestraint, Restraint, SphereWall, VariableWall
from md.structures import state_from_atoms

CELL = np.array([[6.0, 0, 0], [2.5, 5.5, 0], [-2.0, 1.5, 6.5]])


@pytest.fixture(scope="module")
def atoms():
    """Six atoms over several cells of an oblique lattice."""
    rng = np.random.default_rng(5)
    return Atoms("H6", positions=rng.uniform(-1, 2, (6, 3)) @ CELL, cell=CELL, pbc=True)


@pytest.fixture(scope="module")
def state(atoms):
    with jax.enable_x64(True):
        return state_from_atoms(atoms, ("H",), np.zeros((6, 3)), 0, "float64")


VARIABLES = {
    "distance": Distance(0, 3),
    "angle": Angle(0, 1, 2),
    "torsion": Torsion(0, 1, 2, 3),
    "coordination": Coordination([0, 1], np.arange(1, 5).tolist(), 2),
    "volume": Volume(),
    "coordinate": Coordinate(4, (1.0, 2.0, -1.0)),
    "function": VariableFunction(lambda positions, cell: jnp.sum(positions**2) / cell[0, 0]),
}


def test_variables_agree_with_ase(atoms, state):
    with jax.enable_x64(True):
        value = {
            name: float(variable.value(bias.path(state), state.cell, state.pbc))
            for name, variable in VARIABLES.items()
        }
    assert value["distance"] == pytest.approx(atoms.get_distance(0, 3, mic=True), rel=1e-12)
    assert value["angle"] == pytest.approx(np.radians(atoms.get_angle(0, 1, 2, mic=True)))
    turn = np.radians(atoms.get_dihedral(0, 1, 2, 3, mic=True))
    assert value["torsion"] == pytest.approx((turn + np.pi) % (2 * np.pi) - np.pi)
    near = [
        1 / (1 + (atoms.get_distance(i, j, mic=True) / 2.0) ** 6)
        for i in (0, 1)
        for j in (1, 2, 3, 4)
        if i != j
    ]
    assert value["coordination"] == pytest.approx(sum(near), rel=1e-12)
    assert value["volume"] == pytest.approx(atoms.get_volume(), rel=1e-12)
    along = atoms.positions[4] @ [1, 2, -1] / np.sqrt(6)
    assert value["coordinate"] == pytest.approx(along, rel=1e-12)


BIASES = {
    **{name: Restraint(variable, 0.3, 0.7) for name, variable in VARIABLES.items()},
    "upper wall": VariableWall(VARIABLES["volume"], 200.0, 0.01),
    "lower wall": VariableWall(VARIABLES["distance"], 9.0, 1.5, side="lower"),
    "places": PositionRestraint(0.4, atoms=(1, 4), places=np.full((2, 3), 0.8)),
    "plane": PlaneWall((0.0, 1.0, 2.0), 1.0, 0.6, atoms=(0, 2, 3, 5)),
    "sphere": SphereWall([1, 0, 2], 2.0, 0.5),
    "plain": BiasFunction(lambda positions, cell: jnp.sum(jnp.sin(positions)) + cell[1, 0] ** 2),
}


@pytest.mark.parametrize("name", BIASES)
def test_forces_and_virial_are_derivatives_of_the_energy(name, state):
    """Central differences in float64, of positions and of a strain of positions and cell."""
    with jax.enable_x64(True):
        term = BIASES[name]
        variables = term.init(state)
        energy, forces, virial = jax.jit(bias.forces)(term, variables, state)
        rng = np.random.default_rng(0)
        moves, strain, h = rng.normal(size=(6, 3)), rng.normal(size=(3, 3)), 1e-5

        @jax.jit
        def displaced(path, cell):
            return term.energy(variables, path, cell, state.pbc)

        path, cell = np.asarray(bias.path(state)), np.asarray(state.cell)
        assert float(energy) == pytest.approx(float(displaced(path, cell)), rel=1e-12)
        assert float(energy) != 0
        slope = [float(displaced(path + s * h * moves, cell)) for s in (1, -1)]
        expected = (slope[0] - slope[1]) / (2 * h)
        assert -np.sum(np.asarray(forces) * moves) == pytest.approx(expected, rel=1e-6, abs=1e-7)
        strained = np.eye(3) + h * strain, np.eye(3) - h * strain
        slope = [float(displaced(path @ f, cell @ f)) for f in strained]
        expected = (slope[0] - slope[1]) / (2 * h)
        assert np.sum(np.asarray(virial) * strain) == pytest.approx(expected, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("name", ["distance", "angle", "torsion", "coordination"])
def test_internal_variables_do_not_see_translation_or_wrapping(name, state):
    with jax.enable_x64(True):
        variable = VARIABLES[name]
        path = np.asarray(bias.path(state))
        value = variable.value(jnp.asarray(path), state.cell, state.pbc)
        turns = np.random.default_rng(1).integers(-2, 3, (6, 3))
        moved = jnp.asarray(path + 0.7 + turns @ CELL)
        assert float(variable.value(moved, state.cell, state.pbc)) == pytest.approx(float(value))


def test_a_torsion_takes_the_short_way_round(state):
    """Half a turn away from both sides of π."""
    with jax.enable_x64(True):
        now = float(VARIABLES["torsion"].value(bias.path(state), state.cell, state.pbc))
        for turns in (-2, 0, 1):
            term = Restraint(VARIABLES["torsion"], now + 0.1 + 2 * np.pi * turns, 2.0)
            energy, *_ = bias.forces(term, None, state)
            assert float(energy) == pytest.approx(0.01)


def test_gradients_are_finite_where_there_is_none(state):
    """Coincident atoms and straight angles."""
    terms = [
        Restraint(Distance(0, 3), 1.0, 1.0),
        Restraint(Angle(0, 1, 2), 3.0, 1.0),
        Restraint(Coordination((0,), (3,), 1.0), 0.0, 1.0),
        SphereWall((0.0, 0.0, 0.0), 1.0, 1.0),
    ]
    places = [[0, 0, 0], [1, 0, 0], [2, 0, 0], [0, 0, 0], [3, 0, 0], [4, 0, 0]]
    with jax.enable_x64(True):
        straight = state.replace(
            positions=jnp.asarray(places, float), images=jnp.zeros_like(state.images)
        )
        for term in terms:
            assert np.isfinite(np.asarray(bias.forces(term, term.init(state), straight)[1])).all()


def test_a_position_restraint_holds_atoms_where_they_started(state):
    with jax.enable_x64(True):
        term = PositionRestraint(2.0, atoms=(3,))
        variables = term.init(state)
        moved = state.replace(positions=state.positions + 0.1)
        energy, forces, _ = bias.forces(term, variables, moved)
        assert float(energy) == pytest.approx(0.03)
        expected = np.zeros((6, 3))
        expected[3] = -0.2
        np.testing.assert_allclose(forces, expected, atol=1e-12)


def test_several_biases_add_up(state):
    """Energies, what deposits add, and the tables of two metadynamics."""
    with jax.enable_x64(True):
        hills = Metadynamics((Distance(0, 1),), (0.3,), 0.05, 1)
        total = as_bias([lambda positions, cell: jnp.sum(positions), hills, [hills]])
        state = state.replace(step=jnp.int32(1))
        variables = total.init(state)
        variables, added = total.update(variables, state)
        assert float(added) == pytest.approx(0.1)
        energy, forces, virial = bias.forces(total, variables, state)
        assert float(energy) == pytest.approx(float(jnp.sum(bias.path(state))) + 0.1)
        np.testing.assert_allclose(forces, -np.ones((6, 3)), atol=1e-12)
        expected = np.sum(np.asarray(bias.path(state)), axis=0)[:, None] * np.ones(3)
        np.testing.assert_allclose(virial, expected, atol=1e-12)
        assert sorted(total.results(variables)) == sorted(
            ["hills", "hills-2", "free_energy", "free_energy-2"]
        )
        grown = total.reserve(variables, 500)
        assert float(bias.forces(total, grown, state)[0]) == pytest.approx(float(energy))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: as_bias(3.0), "a bias is a function of positions and cell"),
        (lambda: Distance(1, 1), "different indices"),
        (lambda: Coordination((), (1,), 2.0), "at least one"),
        (lambda: Coordinate(0, (0.0, 0.0, 0.0)), "no length"),
        (lambda: VariableWall(Torsion(0, 1, 2, 3), 1.0, 1.0), "no wall can limit it"),
        (lambda: VariableWall(Distance(0, 1), 1.0, 1.0, side="left"), '"upper" or "lower"'),
        (lambda: PlaneWall((0.0, 0.0, 0.0), 1.0, 1.0), "has no length"),
        (lambda: SphereWall([0.0, 0.0], 1.0, 1.0), "centre must be three numbers"),
    ],
)
def test_settings_without_a_meaning_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (Restraint(Distance(0, 6), 1.0, 1.0), "there is no atom 6"),
        (SphereWall((0.0, 0.0, 0.0), 1.0, 1.0, atoms=(6,)), "indices from 0 to 5"),
        (PositionRestraint(1.0, places=np.zeros((2, 3))), r"must have the shape \(6, 3\)"),
    ],
)
def test_atoms_that_are_not_there_are_refused(term, message, state):
    with jax.enable_x64(True), pytest.raises(ValueError, match=message):
        term.init(state)


def test_a_function_must_return_one_energy(state):
    with jax.enable_x64(True), pytest.raises(ValueError, match="must return one energy"):
        bias.forces(as_bias(lambda positions, cell: positions[:, 0]), None, state)


def test_variables_are_hashable_settings():
    for variable in VARIABLES.values():
        assert hash(variable) == hash(dataclasses.replace(variable))
