"""What a run is asked for: checked, completed, and refused in words where it makes no sense."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from ase import Atoms

from md import replicas as copies
from md import structures
from md.groups import Group
from md.local_potential import LocalPotential
from md.observable import Observable, UserObservable
from md.replicated import Replicated, Structure, unit_of
from md.stages import Leg, Stage


def stages_of(
    stages: Stage | Sequence[Stage] | None, words: dict[str, Any], groups: Sequence[Group]
) -> list[Stage]:
    """The stages asked for, either way; groups of the run where a stage has none."""
    if stages is None:
        if "steps" not in words:
            raise ValueError(
                "say what to do: steps=... (and the other words of md.Stage), or stages"
            )
        unknown = sorted(set(words) - {field.name for field in dataclasses.fields(Stage)})
        if unknown:
            raise TypeError(f"simulate() has no argument {unknown[0]!r}")
        chosen = [Stage(**words)]
    elif words:
        raise ValueError(f"{', '.join(sorted(words))}: say this within each of the stages")
    else:
        chosen = [stages] if isinstance(stages, Stage) else list(stages)
    if not chosen:
        raise ValueError("stages is empty: give at least one")
    return [
        stage if stage.groups else dataclasses.replace(stage, groups=tuple(groups))
        for stage in chosen
    ]


def templates_of(
    structure: Structure | Sequence[Atoms], replicas: int | None
) -> tuple[Structure, ...]:
    """The structure of each replica, checked."""
    if replicas is not None and replicas < 1:
        raise ValueError(f"replicas must be at least 1, not {replicas}")
    if isinstance(structure, (Atoms, Replicated)):
        templates = (structure,) * (replicas or 1)
    else:
        templates = tuple(structure)
        if len(templates) != replicas:
            raise ValueError(f"{len(templates)} structures need replicas={len(templates)}")
    first = unit_of(templates[0])
    for number, template in enumerate(map(unit_of, templates)):
        structures.validate(template)
        if list(template.numbers) != list(first.numbers) or any(template.pbc != first.pbc):
            raise ValueError(
                f"the structure of replica {number} has other elements or periodic directions "
                "than that of replica 0: they must agree, in the same order"
            )
    return templates


def ladder_of(
    replicas: int | None, temperatures_K: Any, exchange_every: int, course: Sequence[Leg]
) -> np.ndarray | None:
    """The temperatures of the replicas, where they have their own."""
    if exchange_every < 0:
        raise ValueError(f"exchange_every must be at least 0, not {exchange_every}")
    if temperatures_K is None:
        if exchange_every:
            raise ValueError("exchange_every needs replica_temperatures_K, which are exchanged")
        return None
    if replicas is None:
        raise ValueError("replica_temperatures_K needs replicas, their number")
    if exchange_every and not any(leg.stage.thermostatted for leg in course):
        raise ValueError("exchange_every needs an ensemble with a temperature, not nve")
    for leg in course:
        groups = leg.partition.thermal
        if any(group is not None and group.temperature_K is not None for group in groups):
            raise ValueError(
                "replica_temperatures_K and groups with a temperature_K of their own exclude each "
                "other"
            )
    return copies.ladder(temperatures_K, replicas)


def check_velocities(course: Sequence[Leg], ladder_K: np.ndarray | None) -> None:
    """Velocities can be drawn only where a temperature is known."""
    for number, leg in enumerate(course):
        stage = leg.stage
        draws = stage.velocities == "draw" or (stage.velocities is None and number == 0)
        if draws and stage.temperature_K is None and ladder_K is None:
            raise ValueError('give temperature_K to draw velocities, or velocities="keep"')


def check_lags(observables: Sequence[Observable], course: Sequence[Leg]) -> None:
    """Times between looks must mean the same in all stages."""
    timesteps = {leg.stage.timestep_fs for leg in course if leg.stage.observe}
    lagging = [observable.name for observable in observables if hasattr(observable, "lags")]
    if lagging and len(timesteps) > 1:
        raise ValueError(
            f"{lagging[0]} needs stages of one timestep_fs, not {sorted(timesteps)}: say "
            "observe=False in the others"
        )


def check_domains(replicas: Any, bias: Any, observables: Sequence[Observable]) -> None:
    """What domains cannot do is refused, not left out."""
    asked = {
        "replicas": replicas is not None,
        "a bias": bias is not None,
    }
    for what, wanted in asked.items():
        if wanted:
            raise ValueError(f"domains do not go with {what}: leave out one of the two")
    for observable in observables:
        if isinstance(observable, UserObservable) and not observable.additive:
            raise ValueError(
                f"{observable.name}: on domains a function sees the atoms of one domain: say "
                "additive=True if its values are sums over atoms, or leave out one of the two"
            )
        if not getattr(observable, "on_domains", False):
            raise ValueError(
                f"domains do not go with the observable {observable.name}, which does not say that "
                "it works on_domains (see md.observable): leave out one of the two"
            )


def check_balance(balance: int, grid: Any) -> None:
    """Faces can only shift where there are some."""
    if balance and grid is None:
        raise ValueError("balance shifts the faces of domains: give domains too, or leave it out")


def too_hot(
    course: Sequence[Leg], templates: Sequence[Structure], ladder_K: np.ndarray | None
) -> float:
    """K: ten times the largest temperature in sight, but at least 10,000."""
    known = [1000.0, *(unit_of(template).get_temperature() for template in templates)]
    known += [] if ladder_K is None else list(ladder_K)
    for leg in course:
        asked = [leg.stage.temperature_K, *(g.temperature_K for g in leg.stage.groups)]
        known += [float(np.max(value)) for value in asked if value is not None]
    return 10 * max(known)


def default_chunk(potential: LocalPotential, atoms: Structure) -> int:
    """Steps per chunk: about as much work for any size, but never dependent on the machine."""
    work = 500_000 if getattr(potential, "pairwise", False) else 20_000
    return int(np.clip(work // len(atoms), 20, 2000))


def distance_table(shortest_distances: Any, species: tuple[str, ...], precision: str) -> Any:
    if shortest_distances is None:
        return None
    table = np.nan_to_num(np.asarray(shortest_distances, float), nan=0.0)
    if table.shape != (len(species),) * 2:
        raise ValueError(
            f"shortest_distances must be a table of {len(species)} × {len(species)} species"
        )
    return jnp.asarray(table, precision)
