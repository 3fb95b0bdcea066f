"""Versions of jax that compute wrong numbers, recognised without importing jax."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib import metadata

# Kept in step with setup.cfg.
KNOWN_BAD: Mapping[str, str] = {
    "0.10.2": "jitted functions return wrong rows on CPU (jax issue 39103)",
    "0.11.0": "wrong results on a GPU (jax issue 40633)",
    "0.11.1": "wrong results on a GPU (jax issue 40633)",
}


def warn_if_known_bad() -> None:
    """Warn when the installed jax or jaxlib is known to compute wrong numbers."""
    for package in ("jax", "jaxlib"):
        version = metadata.version(package)
        # "0.10.2.post1" and "0.10.2+local" are builds of the same release
        release = ".".join(version.partition("+")[0].split(".")[:3])
        if release in KNOWN_BAD:
            warnings.warn(
                f"{package} {version} COMPUTES WRONG NUMBERS: {KNOWN_BAD[release]}. Do not trust "
                "any energy or force from this installation. Install another version: "
                'pip install --upgrade "jax!=0.10.2,!=0.11.0,!=0.11.1"',
                RuntimeWarning,
                stacklevel=3,
            )
