"""Atoms that domains make of a unit are those that ASE makes of it."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from md import LennardJones, Replicated, plan_memory, simulate
from md.domains import crystal, placement
from md.domains.grid import Grid
from md.structures import state_from_atoms

POTENTIAL = LennardJones.create(["Ar", "Kr"], [[0.01] * 2] * 2, [[3.4] * 2] * 2, 6.0)


def units() -> dict[str, Atoms]:
    rng = np.random.default_rng(5)
    skewed = Atoms(
        "Ar3Kr2",
        # some lie outside their cell
        scaled_positions=rng.uniform(-1.5, 1.5, (5, 3)),
        cell=[[6, 0, 0], [1.5, 7, 0], [-1, 2, 8]],
        pbc=True,
    )
    skewed.set_momenta(rng.normal(size=(5, 3)))
    skewed.set_masses([40, 41, 40, 84, 83])
    slab = bulk("Ar", "fcc", 5.3, cubic=True) * (1, 1, 3)
    slab.center(vacuum=5, axis=2)
    slab.pbc = (True, True, False)
    cubic = bulk("Kr", "fcc", 5.5, cubic=True)
    for unit in (cubic, slab):
        unit.positions += [0.1, 0.2, 0.3]  # off faces, where rounding would decide
    return {"cubic": cubic, "skewed": skewed, "slab": slab}


@pytest.mark.parametrize(
    ("kind", "repeats", "counts"),
    [
        ("cubic", (4, 6, 5), (2, 2, 2)),
        ("skewed", (7, 5, 3), (3, 2, 1)),
        ("slab", (6, 4, 1), (2, 1, 2)),
    ],
)
def test_all_rows_are_those_of_ase(kind, repeats, counts):
    structure = Replicated(units()[kind], repeats)
    atoms = structure.atoms()
    assert len(structure) == len(atoms)
    np.testing.assert_allclose(structure.cell.array, atoms.cell.array)
    with jax.enable_x64(True):
        grid = placement.grid_for(structure, counts, 1.0)
        whole = state_from_atoms(atoms, ("Ar", "Kr"), atoms.get_momenta(), 0, "float64")
        geometry = placement.cut(
            structure.unit.positions, atoms.cell.array, whole.pbc, grid.counts, "float64"
        )
        along = crystal.places(structure, geometry)
        populations = placement.populations(atoms.positions, atoms.cell.array, geometry)
        np.testing.assert_array_equal(crystal.populations(along), populations)
        rows = int(populations.max()) + 3
        unit = state_from_atoms(
            structure.unit, ("Ar", "Kr"), structure.unit.get_momenta(), 0, "float64"
        ).replace(cell=whole.cell)
        ours = crystal.placed(unit, structure, grid, geometry, along, rows)
        theirs = placement.placed(whole, atoms.positions, grid, geometry, rows)

        def sorted_by_id(state):
            names = ("ids", "positions", "images", "momenta", "species", "group", "masses")
            fields = Grid.fetched({name: getattr(state, name) for name in names})
            return placement.in_order(fields, atoms.cell.array, geometry)

        expected = sorted_by_id(theirs)
        for name, values in sorted_by_id(ours).items():
            np.testing.assert_allclose(values, expected[name], atol=1e-12, err_msg=name)
            assert getattr(ours, name).dtype == getattr(theirs, name).dtype
        # no atom is in the wrong domain
        for name in ("ids", "species"):
            blocks = [np.asarray(getattr(s, name)).reshape(-1, rows) for s in (ours, theirs)]
            np.testing.assert_array_equal(*(np.sort(block, axis=1) for block in blocks))


def test_a_run_is_that_of_all_its_atoms(tmp_path):
    words = {
        "domains": (2, 2, 1),
        "ensemble": "nvt",
        "steps": 20,
        "temperature_K": 80,
        "timestep_fs": 2,
        "dtype": "float64",
        "progress": False,
        "output": tmp_path,
    }
    structure = Replicated(bulk("Ar", "fcc", 5.4, cubic=True), (4, 4, 4))
    made = simulate(POTENTIAL, structure, **words)
    whole = simulate(POTENTIAL, structure.atoms(), **words | {"output": None, "steps": 30})
    # the checkpoint of one is that of the other
    made = simulate(POTENTIAL, structure.atoms(), **words | {"steps": 30}, restart=True)
    np.testing.assert_allclose(made.atoms.positions, whole.atoms.positions, atol=1e-9)
    np.testing.assert_allclose(made.log["potential_eV"], whole.log["potential_eV"], atol=1e-9)


def test_the_plan_counts_what_the_run_takes():
    structure = Replicated(bulk("Ar", "fcc", 5.4, cubic=True), (6, 4, 4))
    words = {"domains": (2, 1, 1), "steps": 2, "temperature_K": 80, "progress": False}
    plan = plan_memory(POTENTIAL, structure, **words)
    run = simulate(POTENTIAL, structure, **words)
    arrays = [jax.random.key_data(run.state.key), *jax.tree.leaves(run.state.replace(key=None))]
    held = sum(x.addressable_shards[0].data.nbytes for x in arrays)
    assert 0 <= plan.state - held < 2000  # settings of the run
    listed = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(run.neighbours))
    assert abs(plan.neighbour_list - listed) < 2000
    assert plan.rows == run.neighbours.capacities.atoms
    assert plan.total > plan.state + plan.neighbour_list
    assert f"{len(structure)} atoms on 2x1x1 domains" in str(plan)
