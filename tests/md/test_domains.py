"""Starts the tests of domains in processes that see eight devices, and tests what needs none."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from md.domains.grid import _least_halo, make_grid

HERE = Path(__file__).parent / "domains"


FILES = sorted(path.name for path in HERE.glob("test_*.py"))


@pytest.fixture(scope="module")
def processes() -> Iterator[dict[str, subprocess.Popen]]:
    """One for each file, side by side."""
    flags = (
        "--xla_force_host_platform_device_count=8 --xla_cpu_multi_thread_eigen=false "
        "intra_op_parallelism_threads=1"
    )
    environment = {
        **os.environ,
        "XLA_FLAGS": flags,
        "DOMAIN_TESTS": "1",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not nightly", "-p", "no:cacheprovider"]
    started = {
        name: subprocess.Popen(
            [*command, str(HERE / name)],
            env=environment,
            cwd=HERE.parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name in FILES
    }
    yield started
    for process in started.values():
        process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_on_eight_devices(processes, name):
    output, _ = processes[name].communicate(timeout=1500)
    assert processes[name].returncode == 0, output
    print(output)


PERIODIC = (True, True, True)


@pytest.mark.parametrize(
    ("heights", "expected"),
    [
        ((40.0, 40.0, 40.0), (2, 2, 2)),
        ((400.0, 40.0, 40.0), (8, 1, 1)),
        ((80.0, 80.0, 8.0), (4, 2, 1)),
        ((6.0, 6.0, 30.0), (1, 1, 5)),  # eight would be too thin
        ((4.0, 4.0, 4.0), (1, 1, 1)),
    ],
)
def test_the_chosen_grid_has_the_least_halo(heights, expected):
    largest = tuple(max(1, int(height / 5.5)) for height in heights)
    found = _least_halo(8, np.asarray(heights), largest, 5.5)
    assert sorted(found) == sorted(expected)
    assert all(n <= most for n, most in zip(found, largest, strict=True))


def test_thin_domains_are_refused_with_the_largest_grid():
    with pytest.raises(ValueError, match=r"largest grid for this box is 3 × 2 × 1"):
        make_grid((4, 1, 1), np.asarray([17.0, 12.0, 9.0]), PERIODIC, 5.5, devices=range(8))


def test_too_few_devices_are_refused():
    with pytest.raises(ValueError, match=r"2 × 2 × 2 domains need 8 devices, but there are 3"):
        make_grid((2, 2, 2), np.full(3, 50.0), PERIODIC, 5.5, devices=range(3))
