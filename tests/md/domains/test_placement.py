"""Atoms that come a few at a time, as from a checkpoint, end where all at once would."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from ase import Atoms

from md import row_files
from md.domains import allocation, placement, restart, sharding
from md.row_files import Rows
from md.structures import state_from_atoms

NUMBER, REACH = 90, 2.5


def scattered(pbc) -> Atoms:
    """Atoms beyond their cell on all sides, two kinds of them."""
    rng = np.random.default_rng(5)
    cell = np.diag([16.0, 14.0, 17.0]) + rng.uniform(0, 1.5, (3, 3))
    symbols = np.where(rng.random(NUMBER) < 0.4, "Ne", "Ar")
    points = rng.uniform(-0.4, 1.4, (NUMBER, 3)) @ cell
    momenta = rng.normal(size=(NUMBER, 3))
    return Atoms(list(symbols), points, cell=cell, pbc=pbc, momenta=momenta)


def in_domains(state, atoms, counts):
    """All at once."""
    grid = placement.grid_for(atoms, counts, REACH)
    place = atoms.positions, atoms.cell.array
    geometry = placement.cut(*place, state.pbc, grid.counts, state.positions.dtype)
    rows = allocation.rows_for(int(placement.populations(*place, geometry).max()), grid.domains)
    return placement.placed(state, atoms.positions, grid, geometry, rows), geometry, grid, rows


@pytest.mark.parametrize("pbc", [(True, True, True), (True, False, True), (False, False, False)])
@pytest.mark.parametrize("size", [1, 1000])
def test_other_domains_from_rows_of_a_checkpoint(monkeypatch, tmp_path, pbc, size):
    monkeypatch.setattr(restart, "_BLOCK", size)
    atoms = scattered(pbc)
    with jax.enable_x64(True):
        state = state_from_atoms(atoms, ("Ar", "Ne"), atoms.get_momenta(), 0, "float64")
        stored, before, _, _ = in_domains(state, atoms, (2, 2, 2))
        theirs, geometry, grid, rows = in_domains(state, atoms, (3, 1, 2))
        row_files.write(tmp_path, {name: getattr(stored, name) for name in sharding.STATE_ROWS})
        files = {name: Rows(tmp_path, name) for name in sharding.STATE_ROWS}
        bare = state.replace(**dict.fromkeys(sharding.STATE_ROWS))
        found, fullest = restart._cut(files, bare, before, grid, "float64")
        jax.tree.map(np.testing.assert_allclose, found, geometry)
        assert allocation.rows_for(fullest, grid.domains) == rows
        blocks = list(restart._blocks(files, sharding.STATE_ROWS, bare, before))
        assert sum(len(block["ids"]) for block in blocks) == NUMBER
        assert len(blocks) == -(-files["ids"].shape[0] // size)
        ours = placement.placed_by_blocks(bare, blocks, grid, found, rows, "float64")
        cell = atoms.cell.array
        ours, theirs = (
            placement.in_order(
                {name: np.asarray(getattr(one, name)) for name in sharding.STATE_ROWS},
                cell,
                geometry,
            )
            for one in (ours, theirs)
        )
    for name, values in theirs.items():
        np.testing.assert_allclose(ours[name], values, atol=1e-12, err_msg=name)
    np.testing.assert_allclose(ours["positions"], atoms.positions, atol=1e-12)
