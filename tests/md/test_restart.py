"""A restart of everything at once: replicas, hills, observables, segments."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from ase.build import bulk

from md import LennardJones, simulate
from md.collective_variables import Distance
from md.correlations import MeanSquaredDisplacement
from md.distributions import RadialDistribution
from md.metadynamics import Metadynamics


@pytest.mark.nightly
def test_a_restart_of_everything_is_bit_identical(tmp_path):
    """Hills outgrow their room before the restart, which must not fall back to it."""

    def run(folder: str, steps: int, **options) -> None:
        simulate(
            LennardJones.create(("Ar",), 0.0104, 3.4, 5.0),
            bulk("Ar", "fcc", a=5.4) * (2, 2, 2),
            steps=steps,
            ensemble="bussi",
            temperature_K=40,
            timestep_fs=2.0,
            replicas=2,
            bias=Metadynamics((Distance(0, 1),), widths=(0.2,), height=0.001, every=2),
            observables=(
                RadialDistribution(cutoff=6.5, bins=20, every=5),
                MeanSquaredDisplacement(every=5, lags=10),
            ),
            output=tmp_path / folder,
            trajectory="h5md",
            trajectory_every=10,
            chunk_steps=30,
            progress=False,
            **options,
        )

    run("whole", 150)
    run("parts", 140)
    run("parts", 150, restart=True)
    compared = 0
    for whole in sorted((tmp_path / "whole").glob("replica-*/*")):
        parts = tmp_path / "parts" / whole.relative_to(tmp_path / "whole")
        if whole.suffix in (".csv", ".extxyz"):
            assert whole.read_bytes() == parts.read_bytes(), whole.name
            compared += 1
    assert compared == 2 * len(["log", "hills", "free_energy", "rdf", "msd", "final"])
    for replica in ("replica-000", "replica-001"):
        paths = (tmp_path / run / replica / "trajectory.h5md" for run in ("whole", "parts"))
        with h5py.File(next(paths)) as whole, h5py.File(next(paths)) as parts:
            for name in ("position", "velocity", "force", "box/edges"):
                if (series := f"particles/trajectory/{name}/value") in whole:
                    np.testing.assert_array_equal(whole[series], parts[series])
            steps = parts["particles/trajectory/position/step"]
            np.testing.assert_array_equal(steps, np.arange(0, 151, 10))
