"""Where faces of domains should be: arithmetic on the host, without devices."""

from __future__ import annotations

import numpy as np
import pytest

from md import run_file
from md.domains.balance import apart, quantiles
from md.schedule import Schedule


def slabs_of(coordinates, faces, each=64):
    """Histogram with slabs of equal width between two faces."""
    steps = np.arange(each * (len(faces) - 1) + 1) / each
    return np.histogram(coordinates, np.interp(steps, np.arange(len(faces)), faces))[0]


@pytest.mark.parametrize("faces", [np.linspace(0, 1, 6), np.array([0, 0.05, 0.3, 0.35, 0.9, 1])])
def test_faces_are_at_the_quantiles(faces):
    coordinates = np.random.default_rng(0).beta(2, 5, 20000)
    found = quantiles(slabs_of(coordinates, faces), faces, (0.0, 1.0), 0.01)
    expected = np.quantile(coordinates, np.linspace(0, 1, 6))
    np.testing.assert_allclose(found[1:-1], expected[1:-1], atol=2e-3)
    assert (found[0], found[-1]) == (0, 1)


def test_faces_keep_the_least_distance():
    """All atoms in one place: domains there are as narrow as they may be."""
    faces = np.linspace(0, 100, 6)
    found = quantiles(slabs_of(np.full(1000, 61.0), faces), faces, (0.0, 100.0), 7.0)
    assert np.diff(found).min() > 7 - 1e-9
    assert found[1] == pytest.approx(61, abs=0.4)
    # where there is not so much room, they share it
    found = quantiles(slabs_of(np.full(1000, 61.0), faces), faces, (0.0, 100.0), 30.0)
    np.testing.assert_allclose(found, faces)


def test_faces_stay_within_bounds_and_in_order():
    random = np.random.default_rng(1)
    for _ in range(200):
        there = np.cumsum(random.uniform(1, 5, 7))
        lowest = there - np.append(0, np.diff(there) / 2)
        highest = there + np.append(np.diff(there) / 2, 0)
        least = np.diff(there).min()
        found = apart(np.sort(random.uniform(0, 30, 7)), lowest, highest, least)
        assert np.all(found >= lowest - 1e-12) and np.all(found <= highest + 1e-12)
        assert np.diff(found).min() > least - 1e-12


def test_chunks_end_where_faces_are_looked_at():
    schedule = Schedule(log_every=7, trajectory_every=0, chunk=100, balance=30)
    ends = [0]
    while ends[-1] < 100:
        ends.append(schedule.plan(ends[-1], 100).end)
    assert ends == [0, 30, 60, 90, 100]
    assert [step for step in range(-1, 100) if schedule.balances(step)] == [-1, 0, 30, 60, 90]


def test_a_run_file_takes_a_whole_number():
    assert run_file.arguments({"steps": 10, "balance": 500})["balance"] == 500
    with pytest.raises(ValueError, match="balance must be a whole number, not 'often'"):
        run_file.arguments({"steps": 10, "balance": "often"})
