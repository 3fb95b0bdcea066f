"""Radial and angular distributions against brute force, ASE and crystals known by heart."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, make_supercell
from ase.neighborlist import neighbor_list as reference_list

from md import pair_search, tallies
from md.bins import Capacities, Reach, Required
from md.distributions import AngularDistribution, RadialDistribution
from md.faults import Fault
from md.neighbours import NeighbourList, neighbour_list
from md.structures import state_from_atoms


def start(atoms, species, *, reach=2.0, dtype="float64"):
    """A state, and the unfilled list of a potential that reaches so far."""
    state = state_from_atoms(atoms, species, np.zeros((len(atoms), 3)), 0, dtype)
    n, zero = len(atoms), jnp.int32(0)
    listed = NeighbourList(
        indices=jnp.full((n, 4), n),
        shifts=jnp.zeros((n, 4, 3), jnp.int8),
        reference_positions=state.positions,
        reference_cell=state.cell,
        faults=zero,
        required=Required(zero, zero),
        reach=Reach(state.pbc, reach),
        capacities=Capacities(4, (1, 1, 1), (1, 1, 1), n),
    )
    return state, listed


def measured(observable, atoms, species, **options):
    """The table of an observable after one look."""
    with jax.enable_x64(True):
        state, listed = start(atoms, species, **options)
        accumulators = observable.init(state, listed, species)
        accumulators = jax.jit(observable.update)(accumulators, state, listed)
        assert int(pair_search.faults(accumulators)) == 0
        return observable.result(accumulators, 1.0)


@pytest.fixture(scope="module")
def mixture():
    """A small oblique cell of two species, some of them outside it."""
    rng = np.random.default_rng(1)
    cell = np.array([[5.0, 0, 0], [1.5, 5.5, 0], [-1.0, 2.0, 6.0]])
    return Atoms("Li4O6", positions=rng.uniform(-1, 2, (10, 3)) @ cell, cell=cell, pbc=True)


def test_radial_distribution_beyond_half_the_cell_against_brute_force(mixture):
    cutoff, bins = 7.0, 35
    table = measured(RadialDistribution(cutoff, bins), mixture, ("Li", "O"))
    i, j, distance = reference_list("ijd", mixture, cutoff)
    symbols = np.asarray(mixture.get_chemical_symbols())
    edges = np.linspace(0, cutoff, bins + 1)
    np.testing.assert_allclose(table["r_A"], edges[:-1] + cutoff / bins / 2)
    for a, b in (("Li", "Li"), ("Li", "O"), ("O", "O")):
        chosen = distance[(symbols[i] == a) & (symbols[j] == b)]
        counts = np.histogram(chosen, edges)[0]
        atoms_a, atoms_b = np.sum(symbols == a), np.sum(symbols == b)
        shells = 4 / 3 * np.pi * np.diff(edges**3)
        expected = counts * mixture.get_volume() / (atoms_a * atoms_b * shells)
        np.testing.assert_allclose(table[f"g_{a}_{b}"], expected, rtol=1e-12)
        np.testing.assert_allclose(table[f"n_{a}_{b}"], np.cumsum(counts) / atoms_a, rtol=1e-12)


def test_ideal_gas_has_no_structure():
    """Mean of many random configurations: 1 − 1/N, within four standard errors."""
    n, looks, side = 50, 200, 10.0
    observable = RadialDistribution(5, 5)
    rng = np.random.default_rng(3)
    atoms = Atoms(f"Ar{n}", positions=rng.uniform(0, side, (n, 3)), cell=[side] * 3, pbc=True)
    with jax.enable_x64(True):
        state, listed = start(atoms, ("Ar",), reach=6.0)
        accumulators = observable.init(state, listed, ("Ar",))
        assert accumulators.search is None  # the run's own list reaches far enough
        functions = neighbour_list(True, 6.0, 0.3, slack=2.0)
        listed = functions.allocate(state.positions, state.cell, state.species)
        places = rng.uniform(0, side, (looks, n, 3))

        @jax.jit
        def run(accumulators, listed, places):
            def look(carry, positions):
                accumulators, listed = carry
                moved = state.replace(positions=positions)
                listed = functions.update(listed, positions, state.cell, state.species)
                return (observable.update(accumulators, moved, listed), listed), None

            return jax.lax.scan(look, (accumulators, listed), places)[0]

        accumulators, listed = run(accumulators, listed, places)
        assert not listed.did_overflow
        table = observable.result(accumulators, 1.0)
    pairs = np.diff(table["n_Ar_Ar"], prepend=0) * n * looks / 2
    sigma = 1 / np.sqrt(pairs)
    assert (np.abs(table["g_Ar_Ar"] - (1 - 1 / n)) < 4 * sigma).all()
    assert int(accumulators.samples) == looks


def test_without_three_periodic_directions_there_is_no_density(mixture):
    mixture = mixture.copy()
    mixture.pbc = (True, True, False)
    table = measured(RadialDistribution(3.0, 10), mixture, ("Li", "O"))
    assert [name for name in table if name.startswith("g_")] == []
    distance = reference_list("d", mixture, 3.0)
    total = 4 * (table["n_Li_Li"] + 2 * table["n_Li_O"])[-1] + 6 * table["n_O_O"][-1]
    assert total == pytest.approx(len(distance))


def test_a_denser_state_sets_a_fault_and_grows():
    """Nothing is counted wrongly in silence when a structure contracts."""
    rng = np.random.default_rng(4)
    loose = Atoms("Ar40", positions=rng.uniform(0, 20, (40, 3)), cell=[20] * 3, pbc=True)
    observable = RadialDistribution(5.0, 10)
    with jax.enable_x64(True):
        state, listed = start(loose, ("Ar",))
        before = observable.init(state, listed, ("Ar",))
        dense = state.replace(positions=state.positions * 0.4)
        update = jax.jit(observable.update)
        after = update(before, dense, listed)
        assert Fault(int(pair_search.faults(after))) & Fault.NEIGHBOUR_CAPACITY
        grown = pair_search.grown(before, after, dense)
        again = update(grown, dense, listed)
        if int(pair_search.faults(again)):  # full bins hid how many neighbours there are
            grown = pair_search.grown(grown, again, dense)
            again = update(grown, dense, listed)
        assert int(pair_search.faults(again)) == 0
        table = observable.result(again, 1.0)
    contracted = Atoms(loose, positions=loose.positions * 0.4)
    assert table["n_Ar_Ar"][-1] * 40 == pytest.approx(len(reference_list("d", contracted, 5.0)))


def peaks(table, column):
    """Share of all angles in each bin that holds any."""
    share = table[column] * np.diff(table["angle_degree"])[0]
    return {
        float(a): round(float(s), 6)
        for a, s in zip(table["angle_degree"], share, strict=True)
        if s > 0
    }


def test_angles_of_a_crystal():
    fcc = measured(AngularDistribution(3.2, 36), bulk("Cu", "fcc", a=4.0), ("Cu",))
    expected = {62.5: 24 / 66, 92.5: 12 / 66, 122.5: 24 / 66, 177.5: 6 / 66}
    found = peaks(fcc, "p_Cu_Cu_Cu_per_degree")
    assert sum(found.values()) == pytest.approx(1, abs=1e-5)
    # 60°, 90° and 120° lie on edges of bins: either side will do
    for (angle, share), near in zip(sorted(expected.items()), sorted(found), strict=True):
        assert found[near] == pytest.approx(share, abs=1e-6)
        assert abs(near - angle) <= 5


def test_bonds_between_named_pairs_only():
    """In rock salt each ion has six of the other kind: 12 right angles and 3 straight ones."""
    atoms = make_supercell(bulk("NaCl", "rocksalt", a=5.6), 2 * np.eye(3))
    observable = AngularDistribution({"Na-Cl": 3.0}, 45)
    table = measured(observable, atoms, ("Cl", "Na", "K"))
    assert set(table) == {"angle_degree", "p_Cl_Na_Cl_per_degree", "p_Na_Cl_Na_per_degree"}
    assert peaks(table, "p_Na_Cl_Na_per_degree") == {90.0: 0.8, 178.0: 0.2}


@pytest.mark.parametrize(
    ("observable", "message"),
    [
        (lambda: RadialDistribution(-1.0), "cutoff must be positive"),
        (lambda: RadialDistribution(5.0, every=0), "every must be at least 1"),
        (lambda: RadialDistribution(5.0, name="../rdf"), "letters, digits"),
        (lambda: AngularDistribution({("Na", "Cl"): 0.0}), "cutoffs must be positive"),
        (lambda: AngularDistribution(3.0, triples=("O-O",)), "3 symbols are needed"),
    ],
)
def test_settings_without_a_meaning_are_refused(observable, message):
    with pytest.raises(ValueError, match=message):
        observable()


def test_species_that_the_potential_does_not_know_are_refused(mixture):
    state, listed = start(mixture, ("Li", "O"), dtype="float32")
    with pytest.raises(ValueError, match="there is no F among"):
        RadialDistribution(5.0, pairs=(("Li", "F"),)).init(state, listed, ("Li", "O"))


def test_counts_and_sums_go_on_where_float32_stops():
    tally = tallies.empty_tally((2,))
    for _ in range(9):
        tally = tallies.count(tally, jnp.asarray([2**29 + 1, 3]))
    np.testing.assert_array_equal(tallies.counts(tally), [9 * (2**29 + 1), 27])
    sums = tallies.empty_sum((2,), jnp.float32)
    sums = tallies.accumulate(sums, jnp.asarray([2.0**25, 0.5]))
    for _ in range(3):
        sums = tallies.accumulate(sums, jnp.asarray([1.0, 0.25]))
    np.testing.assert_array_equal(tallies.total(sums), [2**25 + 3, 1.25])
