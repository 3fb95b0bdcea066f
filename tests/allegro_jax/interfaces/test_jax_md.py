"""The jax-md interface: forces as everywhere else, and jax-md's own simulators."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

jax_md = pytest.importorskip("jax_md", reason="needs the extra [jax-md]")

from jax_md import quantity, simulate, space  # noqa: E402

from allegro_jax.interfaces.jax_md import neighbor_list_potential  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:scatter inputs:FutureWarning")  # jax-md's lists


@pytest.fixture(scope="module")
def crystal() -> Atoms:
    """Rock salt of H and O, 64 atoms in a cube of 8.4 Å, shaken."""
    atoms = bulk("NaCl", "rocksalt", a=4.2, cubic=True).repeat(2)
    atoms.symbols = ["O" if symbol == "Cl" else "H" for symbol in atoms.symbols]
    atoms.rattle(0.1, seed=0)
    atoms.wrap()
    return atoms


def test_forces_and_energy_of_a_periodic_box(tiny_model, crystal):
    displacement, _ = space.periodic(crystal.cell.lengths())
    neighbor_fn, energy_fn = neighbor_list_potential(
        displacement, crystal.cell.lengths(), tiny_model.potential, crystal.symbols
    )
    positions = jnp.asarray(crystal.positions)
    neighbors = neighbor_fn.allocate(positions)
    energy, gradient = jax.jit(jax.value_and_grad(energy_fn))(positions, neighbors)
    direct = tiny_model(crystal)
    np.testing.assert_allclose(-gradient, direct["forces"], atol=2e-5)
    reference = sum(
        tiny_model.potential.reference_energies[tiny_model.species.index(symbol)]
        for symbol in crystal.symbols
    )
    assert float(energy) == pytest.approx(direct["energy"] - reference, abs=1e-4)


def test_fractional_coordinates_of_a_triclinic_box(tiny_model, crystal):
    sheared = crystal.copy()
    shear = np.array([[0, 0, 0], [0.8, 0, 0], [0.5, 0.4, 0]])
    sheared.set_cell(crystal.cell.array + shear, scale_atoms=True)
    box = jnp.asarray(sheared.cell.array.T)
    displacement, _ = space.periodic_general(box, fractional_coordinates=True)
    neighbor_fn, energy_fn = neighbor_list_potential(
        displacement, box, tiny_model.potential, sheared.symbols, fractional_coordinates=True
    )
    positions = jnp.asarray(sheared.get_scaled_positions())
    forces = jax.jit(quantity.force(energy_fn))(
        positions, neighbor=neighbor_fn.allocate(positions, box=box), box=box
    )
    np.testing.assert_allclose(forces, tiny_model(sheared)["forces"], atol=2e-5)


def test_molecule_in_free_space(tiny_model, water):
    displacement, _ = space.free()
    neighbor_fn, energy_fn = neighbor_list_potential(
        displacement, None, tiny_model.potential, water.symbols
    )
    positions = jnp.asarray(water.positions)
    neighbors = neighbor_fn.allocate(positions)
    forces = jax.jit(quantity.force(energy_fn))(positions, neighbor=neighbors)
    np.testing.assert_allclose(forces, tiny_model(water)["forces"], atol=2e-5)


@pytest.mark.parametrize("simulator", ["nve", "nvt_langevin", "nvt_nose_hoover"])
def test_simulators_run(tiny_model, crystal, simulator):
    displacement, shift = space.periodic(crystal.cell.lengths())
    neighbor_fn, energy_fn = neighbor_list_potential(
        displacement, crystal.cell.lengths(), tiny_model.potential, crystal.symbols
    )
    temperature, timestep = 0.025, 0.02  # eV (290 K); 0.2 fs
    make = getattr(simulate, simulator)
    arguments = () if simulator == "nve" else (temperature,)
    start, step = make(energy_fn, shift, timestep, *arguments)
    positions = jnp.asarray(crystal.positions)
    neighbors = neighbor_fn.allocate(positions)
    masses = jnp.asarray(crystal.get_masses())
    key = jax.random.key(0) if simulator != "nvt_langevin" else jax.random.PRNGKey(0)
    kwargs = {"mass": masses, "neighbor": neighbors}
    start = jax.jit(start)
    state = (
        start(key, positions, temperature, **kwargs)
        if simulator == "nve"
        else start(key, positions, **kwargs)
    )

    @jax.jit
    def total(state, neighbors):
        kinetic = quantity.kinetic_energy(momentum=state.momentum, mass=state.mass)
        return energy_fn(state.position, neighbors) + kinetic

    @jax.jit
    def run(state, neighbors):
        def body(_, carry):
            state, neighbors = carry
            neighbors = neighbors.update(state.position)
            return step(state, neighbor=neighbors), neighbors

        return jax.lax.fori_loop(0, 50, body, (state, neighbors))

    start_state, start_neighbors = state, neighbors
    state, neighbors = run(state, neighbors)
    assert not neighbors.did_buffer_overflow
    assert jnp.isfinite(state.position).all()
    assert float(jnp.abs(state.position - positions).max()) > 1e-3
    if simulator == "nve":
        before, after = total(start_state, start_neighbors), total(state, neighbors)
        assert float(after) == pytest.approx(float(before), abs=5e-3)


def test_box_below_twice_the_cutoff_is_refused(tiny_model):
    box = np.array([[7.5, 3.0, 0], [0, 7.5, 0], [0, 0, 7.5]])  # 6.96 Å between two of its faces
    displacement, _ = space.periodic_general(box)
    with pytest.raises(ValueError, match=r"6\.96 Å wide, less than twice the cutoff"):
        neighbor_list_potential(displacement, box, tiny_model.potential, "HO")
    displacement, _ = space.periodic(6.9)
    with pytest.raises(ValueError, match=r"6\.90 Å wide"):
        neighbor_list_potential(displacement, 6.9, tiny_model.potential, "HO")


def test_unknown_species_is_named(tiny_model):
    with pytest.raises(ValueError, match=r"knows .*, not Na"):
        neighbor_list_potential(space.free()[0], None, tiny_model.potential, ["Na", "O"])
