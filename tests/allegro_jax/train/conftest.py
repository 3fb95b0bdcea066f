"""What tests of training share."""

from __future__ import annotations

import jax
import pytest


@pytest.fixture(scope="module")
def compiled_programs(tmp_path_factory):
    """Runs of the same shapes share compiled programs, as they do on the command line."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update(names[0], str(tmp_path_factory.mktemp("cache")))
    jax.config.update(names[1], 0.0)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
