"""Weights that training leaves as they are."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import Any

import jax

from allegro_jax.model import parameter_name
from allegro_jax.settings import ConfigError

ALL_BUT = "all but "


def frozen_names(params: Any, patterns: Sequence[str]) -> frozenset[str]:
    """Names of the weights that patterns stand for.

    A pattern is the name of an array (``layers.0.tensor_product``) or the beginning of several
    (``layers.0``), with ``*`` for anything; ``all but NAME, NAME`` stands for the others.

    Raises:
        ConfigError: nothing matches a pattern, or nothing is left to train.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    names = [parameter_name(path) for path, _ in leaves]
    found: set[str] = set()
    for pattern in patterns:
        if pattern.startswith(ALL_BUT):
            kept = [part.strip() for part in pattern.removeprefix(ALL_BUT).split(",")]
            found |= set(names).difference(*(_matching(part, names) for part in kept))
        else:
            found |= _matching(pattern, names)
    if len(found) == len(names):
        raise ConfigError("fine_tune.frozen: nothing is left to train")
    return frozenset(found)


def hold(frozen: frozenset[str], before: Any, after: Any) -> Any:
    """``after``, but for the frozen weights, which are those of ``before``."""
    if not frozen:
        return after
    return jax.tree_util.tree_map_with_path(
        lambda path, old, new: old if parameter_name(path) in frozen else new, before, after
    )


def _matching(pattern: str, names: Sequence[str]) -> set[str]:
    matched = {
        name
        for name in names
        if fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"{pattern}.*")
    }
    if not matched:
        parts = (name.split(".") for name in names)
        groups = [".".join(part[: 2 if part[0] == "layers" else 1]) for part in parts]
        raise ConfigError(
            f"fine_tune.frozen: the model has no {pattern!r}; it has "
            f"{', '.join(dict.fromkeys(groups))}"
        )
    return matched
