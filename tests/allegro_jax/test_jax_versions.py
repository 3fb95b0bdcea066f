"""Known-bad versions of jax are excluded from installation and announced at import."""

from __future__ import annotations

import configparser
import importlib
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import allegro_jax
from allegro_jax import jax_versions

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("version", ["0.10.2", "0.11.0", "0.11.1", "0.10.2.post1", "0.11.1+cuda"])
@pytest.mark.parametrize("package", ["jax", "jaxlib"])
def test_import_under_a_known_bad_version_warns(monkeypatch, package, version):
    versions = {"jax": "0.10.1", "jaxlib": "0.10.1", package: version}
    monkeypatch.setattr(jax_versions.metadata, "version", versions.__getitem__)
    with pytest.warns(RuntimeWarning, match=f"^{package} .* COMPUTES WRONG NUMBERS.*pip install"):
        importlib.reload(allegro_jax)


@pytest.mark.parametrize("version", ["0.10.1", "0.11.2", "0.11.10", "0.12.0"])
def test_other_versions_are_silent(monkeypatch, version):
    monkeypatch.setattr(jax_versions.metadata, "version", lambda _: version)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jax_versions.warn_if_known_bad()


def test_installation_excludes_the_same_versions():
    metadata = configparser.ConfigParser()
    metadata.read(ROOT / "setup.cfg")
    requirements = metadata["options"]["install_requires"].split("\n")
    for package in ("jax", "jaxlib"):
        (bounds,) = (line for line in requirements if line.split(" ")[0] == package)
        excluded = {part.strip()[2:] for part in bounds.split(",") if "!=" in part}
        assert excluded == set(jax_versions.KNOWN_BAD)


def test_import_loads_nothing_heavy():
    code = (
        "import allegro_jax.cli, sys; print(sorted({'jax', 'numpy', 'ase'} & sys.modules.keys()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_public_names_exist():
    for name in allegro_jax.__all__:
        assert getattr(allegro_jax, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = allegro_jax.nothing
