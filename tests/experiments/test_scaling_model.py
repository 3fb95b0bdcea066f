"""The model of a step's time says what can be worked out by hand."""

from __future__ import annotations

from math import prod
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "experiments" / "scaling"


@pytest.fixture
def model(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import step_time

    return step_time


def test_one_gpu_only_computes(model):
    exchange = model.Exchange(density=0.06)
    cluster = model.Cluster((2, 2, 2), model.Link(3e11, 1e-5), model.Link(25e9, 2e-5))
    compute = model.Compute(per_atom=1e-8, overhead=1e-4, rebuild_per_atom=5e-7, rebuild_every=10)
    found = model.step_time(1, 1e6, compute, exchange, cluster)
    assert found.exchange == found.reductions == 0
    assert found.total == pytest.approx(1e6 * 1e-8 + 1e-4 + 1e6 * 5e-7 / 10)
    assert model.weak_efficiency(1, 1e6, compute, exchange, cluster) == 1
    assert model.strong_efficiency(1, 1e6, compute, exchange, cluster) == 1


def test_eight_gpus_of_one_node(model):
    # a box of 40 Å in domains of 20 Å; a halo of 5 Å at 0.1 atoms/Å³
    exchange = model.Exchange(density=0.1, reach=5.0, slack=1.0, reductions=2)
    cluster = model.Cluster((2, 2, 2), model.Link(1e9, 1e-6), model.Link(1.0, 1.0))
    found = model.step_time(8, 0.1 * 40**3, model.Compute(1e-6), exchange, cluster)
    rows = [0.1 * 5 * 20 * 20, 0.1 * 5 * 30 * 20, 0.1 * 5 * 30 * 30]
    assert 2 * sum(rows) == pytest.approx(0.1 * (30**3 - 20**3))  # the shell
    messages = sum(4 * (1e-6 + 12 * n / 1e9) for n in rows)
    assert found.compute == pytest.approx(800e-6)
    assert found.exchange == pytest.approx(messages)
    assert found.reductions == pytest.approx(2 * 3 * 1e-6)
    assert found.rebuild == pytest.approx((messages + 12 * 1e-6) / 20)


def test_axes_longer_than_a_node_cross_the_network(model):
    exchange = model.Exchange(density=0.1, reach=5.0, slack=1.0, reductions=1)
    inside, between = model.Link(1e9, 0.0), model.Link(1e7, 1e-3)
    pairs = model.Cluster((1, 1, 2), inside, between)  # of a grid of 1 × 1 × 2 and of 1 × 2 × 2
    compute = model.Compute(1e-6)
    assert model.step_time(2, 6400, compute, exchange, pairs).exchange == pytest.approx(
        4 * 12 * 0.1 * 5 * 50 * 50 / 1e9
    )
    found = model.step_time(4, 6400, compute, exchange, pairs)
    assert found.exchange == pytest.approx(
        4 * (1e-3 + 12 * 0.1 * 5 * 50 * 20 / 1e7) + 4 * 12 * 0.1 * 5 * 50 * 30 / 1e9
    )
    assert found.reductions == pytest.approx(2 * 1e-3)


def test_grids(model):
    for gpus, expected in ((1, (1, 1, 1)), (8, (2, 2, 2)), (128, (4, 4, 8)), (5120, (16, 16, 20))):
        assert model.grid_of(gpus) == expected
        assert prod(expected) == gpus
    assert model.thinnest(8, 0.1 * 40**3, model.Exchange(density=0.1)) == pytest.approx(20)


def test_efficiencies(model):
    exchange = model.Exchange(density=0.06)
    fast = model.Cluster((2, 2, 2), model.Link(1e30, 0.0), model.Link(1e30, 0.0))
    compute = model.Compute(1e-8)
    assert model.weak_efficiency(128, 1e5, compute, exchange, fast) == pytest.approx(1)
    assert model.strong_efficiency(128, 1e8, compute, exchange, fast) == pytest.approx(1)
    # an overhead as long as the computing of one share
    slow = model.Compute(1e-8, overhead=1e-3)
    assert model.strong_efficiency(128, 128e5, slow, exchange, fast) == pytest.approx(
        (0.128 + 1e-3) / (128 * 2e-3)
    )
