"""Allegro interatomic potentials in JAX: make, train, keep and use them.

::

    import allegro_jax

    model = allegro_jax.load("model.safetensors")
    model(atoms)  # an ase.Atoms -> {"energy": eV, "forces": eV/Å, "stress": eV/Å³, "energies": eV}

Names are imported when first used, so that ``import allegro_jax`` stays instant.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from allegro_jax.jax_versions import warn_if_known_bad

if TYPE_CHECKING:
    from allegro_jax.config import AllegroConfig
    from allegro_jax.interfaces.ase import AllegroCalculator
    from allegro_jax.model_file import Model, load, save
    from allegro_jax.potential import AllegroPotential, SinglePoint

__version__ = "0.1.0"
__all__ = [
    "AllegroCalculator",
    "AllegroConfig",
    "AllegroPotential",
    "Model",
    "SinglePoint",
    "__version__",
    "load",
    "save",
]

_HOMES = {
    "AllegroCalculator": "allegro_jax.interfaces.ase",
    "AllegroConfig": "allegro_jax.config",
    "AllegroPotential": "allegro_jax.potential",
    "Model": "allegro_jax.model_file",
    "SinglePoint": "allegro_jax.potential",
    "load": "allegro_jax.model_file",
    "save": "allegro_jax.model_file",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


warn_if_known_bad()
