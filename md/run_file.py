"""Runs described in YAML: stages, groups, observables, bias, and all that ``md.simulate`` takes.

A file holds the words of :func:`md.simulate`; without ``stages``, those of a single
:class:`md.Stage` too::

    log_every: 50
    stages:
      - {ensemble: langevin, temperature_K: [300, 1500], timestep_fs: 1, steps: 20000}
      - {ensemble: npt, temperature_K: [1500, 300], pressure_GPa: 0, timestep_fs: 1, steps: 50000}
    groups:
      - {atoms: "0:64", fixed: true}
    observables:
      - {kind: rdf, cutoff: 8.0, every: 50}
    bias:
      - kind: wall
        variable: {kind: distance, first: 0, second: 5}
        limit: 6.0
        stiffness: 2.0
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from md import collective_variables, metadynamics, restraints
from md.coordination import CoordinationNumbers
from md.correlations import MeanSquaredDisplacement, VelocityAutocorrelation
from md.distributions import AngularDistribution, RadialDistribution
from md.groups import Group
from md.stages import Stage
from md.trajectory import TrajectorySettings
from md.uncertainty import Uncertainty

Kinds = Mapping[str, Callable[..., Any]]

OBSERVABLES: Kinds = {
    "rdf": RadialDistribution,
    "adf": AngularDistribution,
    "msd": MeanSquaredDisplacement,
    "vacf": VelocityAutocorrelation,
    "coordination-numbers": CoordinationNumbers,
}
VARIABLES: Kinds = {
    "distance": collective_variables.Distance,
    "angle": collective_variables.Angle,
    "torsion": collective_variables.Torsion,
    "coordination": collective_variables.Coordination,
    "volume": collective_variables.Volume,
    "coordinate": collective_variables.Coordinate,
}
BIASES: Kinds = {
    "restraint": restraints.Restraint,
    "wall": restraints.VariableWall,
    "position-restraint": restraints.PositionRestraint,
    "plane-wall": restraints.PlaneWall,
    "sphere-wall": restraints.SphereWall,
    "metadynamics": metadynamics.Metadynamics,
}


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Keyword arguments of :func:`md.simulate` from a file.

    Raises:
        ValueError: for what cannot be understood; one line that names the file and the place.
    """
    with open(path, encoding="utf-8") as file:
        try:
            content = yaml.safe_load(file)
        except yaml.YAMLError as error:
            raise ValueError(f"{path}: not a YAML file: {' '.join(str(error).split())}") from None
    try:
        return arguments(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def arguments(content: Any) -> dict[str, Any]:
    """Keyword arguments of :func:`md.simulate` from a mapping, as a file would hold it.

    Raises:
        ValueError: for what cannot be understood.
    """
    if not isinstance(content, dict):
        raise ValueError("a run is a mapping of words to values, such as 'steps: 1000'")
    words = dict(content)
    _check_words(words)
    if "groups" in words:
        words["groups"] = _groups(words["groups"], "groups")
    if "stages" in words:
        words["stages"] = [
            _stage(stage, f"stages, entry {number}")
            for number, stage in enumerate(_list(words["stages"], "stages"), 1)
        ]
    for name, kinds in (("observables", OBSERVABLES), ("bias", BIASES)):
        if name in words:
            words[name] = [
                _described(entry, kinds, f"{name}, entry {number}")
                for number, entry in enumerate(_list(words[name], name), 1)
            ]
    if isinstance(words.get("trajectory"), dict):
        words["trajectory"] = _made(TrajectorySettings, words["trajectory"], "trajectory")
    if "uncertainty" in words:
        words["uncertainty"] = _made(Uncertainty, words["uncertainty"], "uncertainty")
    return words


def _check_words(words: dict[str, Any]) -> None:
    from md.run import simulate  # it needs all that this module's users may not

    taken = inspect.signature(simulate).parameters
    known = {n for n, p in taken.items() if p.kind is p.KEYWORD_ONLY} | {"stages"}
    stage = set(inspect.signature(Stage).parameters)
    _check_kinds(simulate, words)
    _check_kinds(Stage, words)
    for word in words:
        if word not in known | stage:
            raise ValueError(f"unknown word {word!r}; known are {', '.join(sorted(known | stage))}")
        if "stages" in words and word in stage - known:
            raise ValueError(f"{word}: say this within each of the stages")


def _stage(content: Any, where: str) -> Stage:
    content = _mapping(content, where)
    if "groups" in content:
        content["groups"] = _groups(content["groups"], f"{where}, groups")
    return _made(Stage, content, where)


def _groups(content: Any, where: str) -> tuple[Group, ...]:
    return tuple(
        _made(Group, _mapping(group, f"{where}, entry {number}"), f"{where}, entry {number}")
        for number, group in enumerate(_list(content, where), 1)
    )


def _described(content: Any, kinds: Kinds, where: str) -> Any:
    """An object from a mapping that names its kind."""
    content = _mapping(content, where)
    kind = content.pop("kind", None)
    if kind not in kinds:
        raise ValueError(f"{where}: kind must be one of {', '.join(kinds)}, not {kind!r}")
    if "variable" in content:
        content["variable"] = _described(content["variable"], VARIABLES, f"{where}, variable")
    if "variables" in content:
        content["variables"] = [
            _described(variable, VARIABLES, f"{where}, variables, entry {number}")
            for number, variable in enumerate(_list(content["variables"], where), 1)
        ]
    return _made(kinds[kind], content, where)


def _made(make: Callable[..., Any], content: Any, where: str) -> Any:
    words = {name: _frozen(value) for name, value in _mapping(content, where).items()}
    try:
        inspect.signature(make).bind(**words)
        _check_kinds(make, words)
        return make(**words)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error


# what annotations of words call a kind of value, and what YAML makes of such values
_KINDS = {"int": int, "float": (int, float), "Number": (int, float), "bool": bool, "str": str}
_CALLED = {"int": "a whole number", "bool": "true or false", "str": "a word"}


def _check_kinds(make: Callable[..., Any], words: Mapping[str, Any]) -> None:
    """Refuse values of another kind than the signature says, where it says something simple."""
    for name, parameter in inspect.signature(make).parameters.items():
        kinds = [kind for kind in str(parameter.annotation).split(" | ") if kind != "None"]
        if name not in words or not kinds or any(kind not in _KINDS for kind in kinds):
            continue
        value = words[name]
        fits = any(isinstance(value, _KINDS[kind]) for kind in kinds)
        if isinstance(value, bool):
            fits = "bool" in kinds
        if not fits and not (value is None and "None" in str(parameter.annotation)):
            called = " or ".join(dict.fromkeys(_CALLED.get(kind, "a number") for kind in kinds))
            raise ValueError(f"{name} must be {called}, not {value!r}")


def _frozen(value: Any) -> Any:
    """Lists as tuples, which can be hashed."""
    return tuple(_frozen(entry) for entry in value) if isinstance(value, list) else value


def _list(content: Any, where: str) -> list[Any]:
    if not isinstance(content, list):
        raise ValueError(f"{where}: write a list (lines that start with '-')")
    return content


def _mapping(content: Any, where: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"{where}: write a mapping of words to values, not {content!r}")
    return dict(content)
