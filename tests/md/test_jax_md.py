"""Lists of jax-md: the same forces as our own where they are right, refused where they are not."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import bulk

from md import LennardJones
from md.evaluation import evaluate
from md.jax_md import from_jax_md
from md.neighbours import neighbour_list

pytest.importorskip("jax_md", reason="needs the extra [jax-md]")

from jax_md import partition, space

CUTOFF, SKIN = 5.5, 0.5
PERIODIC = (True, True, True)
CUBE = jnp.eye(3) * 21.2


@pytest.fixture(scope="module")
def positions():
    """256 atoms inside a cube that is wide enough for jax-md's cell list."""
    atoms = bulk("Ar", cubic=True, a=5.3).repeat(4)
    atoms.rattle(0.1, seed=0)
    atoms.wrap()
    return jnp.asarray(atoms.positions, jnp.float32)


def listed(positions, box=21.2, cells=True, form=partition.Dense, skin=SKIN, **options):
    if np.ndim(box) == 2:  # jax-md has the lattice vectors in columns
        displacement, _ = space.periodic_general(box.T, fractional_coordinates=False)
        box = box.T
    else:
        displacement, _ = space.periodic(box)
    functions = partition.neighbor_list(
        displacement, box, CUTOFF, skin, disable_cell_list=not cells, format=form, **options
    )
    return functions.allocate(positions)


@pytest.fixture(scope="module")
def cube(positions):
    return listed(positions)


def check_forces(positions, cell, pairs):
    potential = LennardJones.create(("Ar",), 0.0104, 3.4, CUTOFF)
    species = jnp.zeros(len(positions), jnp.int32)
    own = neighbour_list(True, CUTOFF).allocate(positions, cell, species)
    found, expected = (compiled(potential, positions, cell, species, p) for p in (pairs, own))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found, expected)


compiled = jax.jit(evaluate)


def test_forces_with_a_cell_list(positions, cube):
    assert cube.cell_list_fn is not None
    check_forces(positions, CUBE, from_jax_md(cube, positions, CUBE, PERIODIC, CUTOFF))


def test_forces_in_a_triclinic_cell(positions):
    """Also after atoms have moved within the skin, and out of the cell."""
    strain = jnp.array([[1, 0, 0], [0.3, 1, 0], [-0.2, 0.25, 1]])
    cell, positions = CUBE @ strain, positions @ strain
    pairs = listed(positions, cell, cells=False)
    moved = positions + 0.2 * jnp.sin(positions[:, ::-1]) / 3**0.5 + cell[0]
    check_forces(moved, cell, from_jax_md(pairs, moved, cell, PERIODIC, CUTOFF, skin=SKIN))


def test_narrow_cells_are_refused(positions, cube):
    with pytest.raises(ValueError, match=r"21\.20 Å wide, less than twice the cutoff \(11 Å\)"):
        from_jax_md(cube, positions, CUBE, PERIODIC, 11)
    free, thin = listed(positions, cells=False), CUBE.at[2].mul(0.3)
    slab = from_jax_md(free, positions, thin, (True, True, False), CUTOFF)
    assert not slab.shifts[..., 2].any()


def test_positions_outside_the_cell_are_refused(positions):
    """jax-md's cell list loses neighbours of atoms that left the cell, without raising a flag."""
    outside = positions - 1.0
    pairs = listed(outside)
    assert not pairs.did_buffer_overflow
    with pytest.raises(ValueError, match="outside the cell"):
        from_jax_md(pairs, outside, CUBE, PERIODIC, CUTOFF)


def test_overflowed_lists_are_refused(positions, cube):
    for bit, message in ((1, "neighbours"), (2, "atoms in a cell"), (4, "smaller")):
        error = dataclasses.replace(cube.error, code=jnp.uint8(bit))
        broken = dataclasses.replace(cube, error=error)
        with pytest.raises(ValueError, match=message):
            from_jax_md(broken, positions, CUBE, PERIODIC, CUTOFF)


def test_stale_lists_are_refused(positions, cube):
    moved = positions.at[7].add(jnp.array([0.0, 0.3, 0.0]))
    with pytest.raises(ValueError, match=r"0\.3 Å from where the list was made"):
        from_jax_md(cube, moved, CUBE, PERIODIC, CUTOFF, skin=SKIN)


def test_other_formats_and_shapes_are_refused(positions, cube):
    sparse = listed(positions, cells=False, form=partition.Sparse)
    with pytest.raises(ValueError, match="not Sparse"):
        from_jax_md(sparse, positions, CUBE, PERIODIC, CUTOFF)
    with pytest.raises(ValueError, match="of 256 atoms, positions of 255"):
        from_jax_md(cube, positions[1:], CUBE, PERIODIC, CUTOFF)
    skewed = CUBE.at[1, 0].set(2.0)
    with pytest.raises(ValueError, match="rectangular"):
        from_jax_md(cube, positions, skewed, PERIODIC, CUTOFF)
