"""Where compiled programs are kept, and what XLA may say of them."""

from __future__ import annotations

import os

import jax
import pytest

from allegro_jax import compilation_cache


@pytest.mark.parametrize(("before", "after"), [(None, "3"), ("1", "3"), ("0", "0"), ("2", "2")])
def test_warnings_of_processor_preferences_are_kept_away(monkeypatch, tmp_path, before, after):
    """JAX leaves a 1 in the environment of the programs it starts; anything else is a wish."""
    if before is None:
        monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    else:
        monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", before)
    monkeypatch.setenv(compilation_cache.VARIABLE, str(tmp_path))
    set_to = {}
    monkeypatch.setattr(jax.config, "update", set_to.__setitem__)
    compilation_cache.enable()
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == after
    assert set_to["jax_compilation_cache_dir"].startswith(str(tmp_path))


def test_no_cache_where_it_is_switched_off(monkeypatch):
    monkeypatch.setenv(compilation_cache.VARIABLE, "")
    monkeypatch.setattr(jax.config, "update", pytest.fail)
    compilation_cache.enable()
    assert compilation_cache.cache_folder() is None
