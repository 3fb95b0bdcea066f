r"""Barostats on gases whose cells have an elastic energy, where the distribution is known.

The cell h = h₀ F resists with U = ½ κ (ln det F)² + ½ μ (tr C · (det F)^(−2/3) − 3), C = F Fᵀ. The
atoms feel waves in their fractional coordinates, which tangle their orbits, but give neither a
virial nor, in the integral over them, anything that depends on the cell. With the principal
stretches e^(λ_d) the distribution is then that of three numbers,

isotropic or anisotropic:  exp(−(U + P V)/k_B T) V^(g/3) V Π dλ_d
full:                      the same · Π_{d<e} |sinh(λ_d − λ_e)|, the volume of rotations
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from md import cells, units
from md.barostats import martyna_tobias_klein, stochastic_cell_rescaling
from md.strains import FREEDOM, mean_exponential, mean_growth, projected, strained
from tests.md.small_loop import parameters, replicated, run, run_replicas, start

TEMPERATURE = 300.0
THERMAL = units.BOLTZMANN * TEMPERATURE
ATOMS = 8
BULK, SHEAR = 1.0, 0.6  # eV
WAVES = 0.02  # eV
PRESSURE = 0.2  # GPa
EDGE = 300.0 ** (1 / 3)
REFERENCE = np.array([[EDGE, 0, 0], [0.2 * EDGE, EDGE, 0], [0, -0.1 * EDGE, EDGE]])
INVERSE = np.linalg.inv(REFERENCE)

COUPLINGS = ["isotropic", "anisotropic", "full"]
RESCALING = {c: partial(stochastic_cell_rescaling, coupling=c) for c in COUPLINGS}
PISTON = {c: partial(martyna_tobias_klein, coupling=c) for c in COUPLINGS}
BAROSTATS = [
    pytest.param(barostat[c], id=f"{barostat[c].func.__name__}-{c}")
    for barostat in (RESCALING, PISTON)
    for c in COUPLINGS
]
# The anisotropic ones share all their code with the two others.
LONG_RUNS = [
    pytest.param(*p.values, id=p.id, marks=[pytest.mark.nightly] if "-aniso" in p.id else [])
    for p in BAROSTATS
]


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def elastic_gas(state):
    def energy(positions, strain):
        deformed = jnp.eye(3) + strain
        cell = state.cell @ deformed
        stretch = INVERSE @ cell
        volume = cells.volume(stretch)
        shape = jnp.sum(stretch**2) * volume ** (-2 / 3) - 3
        angle = 2 * jnp.pi * cells.fractional(positions @ deformed, cell)
        waves = jnp.sum(jnp.cos(angle) * jnp.sin(jnp.roll(angle, 1, axis=1)))
        return BULK / 2 * jnp.log(volume) ** 2 + SHEAR / 2 * shape + WAVES * waves

    value, (slope, virial) = jax.value_and_grad(energy, argnums=(0, 1))(
        state.positions, jnp.zeros((3, 3))
    )
    sites = jnp.full(ATOMS, value / ATOMS)
    return state.replace(forces=-slope, virial=virial, site_energies=sites)


def ideal_gas(state):
    return state


def in_cell(cell=REFERENCE, seed=0, **kwargs):
    fractions = np.random.default_rng(seed).uniform(size=(ATOMS, 3))
    masses = np.repeat([12.0, 40.0], ATOMS // 2)
    return start(fractions @ cell, masses, cell, temperature_K=TEMPERATURE, seed=seed, **kwargs)


def bath(barostat, timestep_fs, *, pressure_GPa=PRESSURE, freedom=3.0 * ATOMS, **times):
    numbers = {"time_constant_fs": 40.0, "pressure_time_fs": 60.0} | times
    if barostat.func is stochastic_cell_rescaling:
        numbers["compressibility_per_GPa"] = 1.0
    return parameters(
        timestep_fs, TEMPERATURE, freedom=freedom, pressure_GPa=pressure_GPa, **numbers
    )


def stretches(state, integrator):
    """Kinetic energy, and the logarithms of the principal stretches, in order of size if full."""
    stretch = INVERSE @ state.cell
    full = jnp.log(jnp.linalg.eigvalsh(stretch @ stretch.T)) / 2
    kinetic = jnp.sum(state.momenta**2 / state.masses[:, None]) / 2
    return kinetic, jnp.log(jnp.diagonal(stretch)), full


@pytest.mark.parametrize("barostat", BAROSTATS)
def test_conserved_quantity(barostat):
    errors = []
    state = in_cell(seed=1)
    for timestep, every in ((2.0, 2), (0.5, 8)):
        after, seen = run(barostat, elastic_gas, state, bath(barostat, timestep), 100, every)
        errors.append(np.abs(seen["conserved"] - seen["conserved"][0]).max())
        assert errors[-1] < 1e-3 * seen["kinetic"].max()
        assert np.ptp(seen["volume"]) > 10  # the cell does move
    if barostat.func is martyna_tobias_klein:  # of second order
        assert errors[0] / errors[1] == pytest.approx(16, rel=0.1)
    else:  # random strains of size √Δt leave errors of Δt in all
        assert errors[0] / errors[1] > 2.5

    # the cell changed in no way that the coupling forbids, and was not turned
    stretch = INVERSE @ np.asarray(after.cell)
    coupling = barostat.keywords["coupling"]
    if coupling == "full":
        assert np.abs(stretch - np.diag(np.diagonal(stretch))).max() > 1e-3
    else:
        np.testing.assert_allclose(projected(jnp.asarray(stretch), coupling), stretch, atol=1e-12)
    assert np.linalg.det(after.cell) > 0

    # nothing happens in no time
    still, seen = run(barostat, elastic_gas, after, bath(barostat, 0.0), 100, 1)
    for name in ("positions", "momenta", "cell", "images"):
        np.testing.assert_array_equal(getattr(still, name), getattr(after, name))
    assert np.ptp(seen["conserved"]) == 0


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_piston_is_time_reversible(coupling):
    barostat, state = PISTON[coupling], in_cell()
    numbers = bath(barostat, 2.0)
    there, _ = run(barostat, elastic_gas, state, numbers, 100, 2)
    chains = there.thermostat.replace(momenta=-there.thermostat.momenta)
    piston = there.barostat
    piston = piston.replace(
        momenta=-piston.momenta, chains=piston.chains.replace(momenta=-piston.chains.momenta)
    )
    turned = there.replace(momenta=-there.momenta, thermostat=chains, barostat=piston)
    back, _ = run(barostat, elastic_gas, turned, numbers, 100, 2)
    np.testing.assert_allclose(back.positions, state.positions, atol=1e-8)
    np.testing.assert_allclose(back.cell, state.cell, atol=1e-9)
    np.testing.assert_allclose(-back.momenta, state.momenta, atol=1e-8)


@pytest.mark.parametrize("barostat", [RESCALING["full"], PISTON["full"]])
def test_fractional_coordinates_and_drift_are_kept(barostat):
    """Atoms at rest stay where they are in the cell; others' total momentum stays zero."""
    moving = in_cell()
    still = moving.replace(momenta=jnp.zeros_like(moving.momenta))
    numbers = bath(barostat, 2.0, pressure_GPa=3.0, freedom=3.0 * ATOMS - 3)
    for before in (moving, still):
        after, _ = run(barostat, ideal_gas, before, numbers, 5)
        np.testing.assert_allclose(jnp.sum(after.momenta, axis=0), 0, atol=1e-12)
        assert abs(np.linalg.det(after.cell) - np.linalg.det(before.cell)) > 1e-3
    before, after = (cells.fractional(s.positions, s.cell) for s in (before, after))
    np.testing.assert_allclose(after, before, atol=1e-12)


@pytest.mark.parametrize("barostat", [RESCALING["full"], PISTON["full"]])
def test_single_precision_stays_single(barostat):
    with jax.enable_x64(False):
        state = in_cell(REFERENCE.astype(np.float32))
        state = state.replace(**{
            name: getattr(state, name).astype(jnp.float32)
            for name in ("positions", "momenta", "masses", "forces", "site_energies")
        })  # fmt: skip
        integrator = barostat(**bath(barostat, 1.0))
        state = integrator.init(state)
        after = jax.eval_shape(lambda s: integrator.finish(integrator.begin(s)), state)
        assert [x.dtype for x in jax.tree.leaves(after)] == [
            x.dtype for x in jax.tree.leaves(state)
        ]


@pytest.mark.parametrize("barostat", [RESCALING["full"], PISTON["full"]])
def test_cells_must_repeat(barostat):
    state = in_cell().replace(pbc=(True, True, False))
    with pytest.raises(ValueError, match="repeats in all directions"):
        barostat(**bath(barostat, 1.0)).init(state)


def quadrature(coupling, freedom, observables):
    """Expectation values over the principal stretches λ, by summing over a grid of them."""
    axis = np.linspace(-1.8, 1.8, 181)
    if coupling == "isotropic":
        stretch = np.repeat(np.linspace(-1, 1, 4001)[:, None], 3, axis=1)
    else:
        stretch = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    total = stretch.sum(axis=1)
    volume = np.linalg.det(REFERENCE) * np.exp(total)
    squares = np.exp(2 * stretch).sum(axis=1)  # tr C
    energy = BULK / 2 * total**2 + SHEAR / 2 * (squares * np.exp(-2 * total / 3) - 3)
    exponent = -(energy + PRESSURE * units.GIGAPASCAL * volume) / THERMAL
    exponent += (freedom / 3 + 1) * total
    weight = np.exp(exponent - exponent.max())
    if coupling == "full":
        for d, e in ((0, 1), (1, 2), (0, 2)):
            weight *= np.abs(np.sinh(stretch[:, d] - stretch[:, e]))
    weight /= weight.sum()
    return [np.sum(weight * f(stretch)) for f in observables]


@pytest.mark.physical
@pytest.mark.slow
@pytest.mark.parametrize("barostat", LONG_RUNS)
def test_cells_are_distributed_as_they_should(barostat):
    coupling = barostat.keywords["coupling"]
    states = replicated(in_cell(), 48, TEMPERATURE, remove_drift=False)
    numbers = bath(barostat, 1.0)
    _, (kinetic, lengths, principal) = run_replicas(
        barostat, elastic_gas, states, numbers, 36, 150, stretches
    )
    kinetic = kinetic[:, 8:]
    samples = (principal if coupling == "full" else lengths)[:, 8:]
    observables = [
        lambda x: x.sum(axis=-1),
        lambda x: x.sum(axis=-1) ** 2,
        lambda x: ((x - x.mean(axis=-1, keepdims=True)) ** 2).sum(axis=-1),
    ]
    expected = quadrature(coupling, 3 * ATOMS, observables)
    for f, value in zip(observables, expected, strict=True):
        means = f(samples).mean(axis=1)  # of each replica
        error = means.std() / np.sqrt(len(means))
        assert means.mean() == pytest.approx(value, abs=4 * error + 1e-9)
        assert error < 0.15 * max(abs(value), 0.05)
    energy = kinetic.ravel() / THERMAL
    assert stats.kstest(energy, stats.gamma(1.5 * ATOMS).cdf).pvalue > 1e-3


@pytest.mark.parametrize("strain_size", [1e-4, 0.3])
def test_finite_strains_are_exponentials(strain_size):
    matrix = np.random.default_rng(0).uniform(-1, 1, (3, 3)) * strain_size / 3
    for coupling in COUPLINGS:
        strain = projected(jnp.asarray(matrix), coupling)
        values, axes = np.linalg.eigh(strain)
        exponential = axes @ np.diag(np.exp(values)) @ axes.T
        np.testing.assert_allclose(
            strained(jnp.eye(3), strain, coupling), exponential, rtol=1e-14, atol=1e-15
        )
        average = axes @ np.diag(np.expm1(values) / values) @ axes.T
        np.testing.assert_allclose(mean_exponential(strain, coupling), average, atol=1e-13)
        # as many directions as the coupling has degrees of freedom
        basis = np.eye(9).reshape(9, 3, 3)
        kept = [np.ravel(projected(jnp.asarray(b), coupling)) for b in basis]
        assert np.linalg.matrix_rank(np.array(kept)) == FREEDOM[coupling]
    assert float(mean_growth(jnp.asarray(0.2))) == pytest.approx(np.expm1(0.2) / 0.2, rel=1e-15)
