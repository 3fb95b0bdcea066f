"""Rows that are written by parts come back, and nothing is taken for granted that is absent."""

from __future__ import annotations

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from md import row_files
from md.row_files import Rows


def in_parts(folder, values, *cuts):
    """What several processes would leave behind."""
    ends = [0, *cuts, len(values)]
    for start, stop in itertools.pairwise(ends):
        np.save(folder / f"values.{start:012d}.npy", values[start:stop])


def test_any_rows_of_several_files(tmp_path):
    values = np.random.default_rng(1).normal(size=(11, 3))
    in_parts(tmp_path, values, 4, 9)
    rows = Rows(tmp_path, "values")
    assert rows.shape == (11, 3) and rows.dtype == values.dtype
    for part in (slice(None), slice(2, 10), slice(4, 9), slice(9, 11)):
        np.testing.assert_array_equal(rows[part], values[part])
        np.testing.assert_array_equal(rows[part, slice(None)], values[part])


def test_an_array_that_is_cut_along_its_second_axis(tmp_path):
    values = np.random.default_rng(1).normal(size=(2, 11, 3))
    for start, stop in ((0, 4), (4, 11)):
        np.save(tmp_path / f"values.{start:012d}.npy", values[:, start:stop])
    rows = Rows(tmp_path, "values", axis=1)
    assert rows.shape == (2, 11, 3)
    for part in (slice(None), slice(2, 10), slice(4, 4 + 3)):
        np.testing.assert_array_equal(rows[part], values[:, part])
        np.testing.assert_array_equal(rows[slice(None), part, slice(None)], values[:, part])


def test_what_devices_have_is_what_is_read(tmp_path):
    values = jnp.arange(6, dtype=jnp.int8)
    row_files.write(tmp_path, {"species": values, "other": values + 1})
    assert Rows(tmp_path, "species").dtype == np.int8
    np.testing.assert_array_equal(Rows(tmp_path, "other")[:], values + 1)


@pytest.mark.parametrize("absent", [0, 4])
def test_a_part_that_is_absent_is_missed(tmp_path, absent):
    in_parts(tmp_path, np.arange(11), 4, 9)
    (tmp_path / f"values.{absent:012d}.npy").unlink()
    with pytest.raises(ValueError, match=f"rows of values from {absent} on are absent"):
        Rows(tmp_path, "values")


def test_a_part_that_is_cut_off_is_refused(tmp_path):
    in_parts(tmp_path, np.arange(11), 4)
    path = tmp_path / "values.000000000004.npy"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match="damaged"):
        Rows(tmp_path, "values")
