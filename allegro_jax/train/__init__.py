"""Training: ``train(load_config("config.yaml"))`` writes a model file.

Names are imported when first used: reading a configuration needs neither JAX nor orbax.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from allegro_jax.train.config import TrainingConfig, load_config
    from allegro_jax.train.loop import train

__all__ = ["TrainingConfig", "load_config", "train"]

_HOMES = {
    "TrainingConfig": "allegro_jax.train.config",
    "load_config": "allegro_jax.train.config",
    "train": "allegro_jax.train.loop",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
