"""These tests need eight devices: tests/md/test_domains.py starts them in processes that have."""

from __future__ import annotations

import os

import jax
import pytest


@pytest.fixture(autouse=True, scope="session")
def eight_devices() -> None:
    if os.environ.get("DOMAIN_TESTS") != "1":
        pytest.skip("run by tests/md/test_domains.py, in processes with eight devices")
    assert len(jax.devices()) == 8
