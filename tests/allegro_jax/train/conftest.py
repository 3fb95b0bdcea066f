"""What tests of training share. Nearly all of their time goes into compiling."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jax
import pytest


@pytest.fixture(scope="session")
def folder_of_programs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("programs")


@pytest.fixture(scope="module", autouse=True)
def programs(folder_of_programs) -> Iterator[None]:
    """Programs are compiled in haste, for they run for a moment, and once for all tests."""
    settings = {
        "jax_disable_most_optimizations": True,
        "jax_compilation_cache_dir": str(folder_of_programs),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: jax.config.values[name] for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
