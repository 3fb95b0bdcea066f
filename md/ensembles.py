"""The ensembles that a run can be asked for by name."""

from __future__ import annotations

import dataclasses
from typing import Any

from flax import struct

from md import units
from md.integrators import Integrator, velocity_verlet
from md.thermostats import langevin, nose_hoover_chain

NAMES = ("nve", "langevin", "nvt")


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """A validated choice of ensemble, in the units of users.

    Attributes:
        name: ``"nve"`` (velocity Verlet), ``"langevin"`` (BAOAB) or ``"nvt"`` (Nosé-Hoover chain).
        temperature_K: of the bath; None in nve.
        friction_per_fs: Langevin only.
        time_constant_fs: nvt only.
    """

    name: str
    temperature_K: float | None = None
    friction_per_fs: float | None = None
    time_constant_fs: float | None = None

    def freedom(self, atoms: int) -> int:
        """Kinetic degrees of freedom: without the centre of mass, unless the bath moves it too."""
        return 3 * atoms if self.name == "langevin" else max(0, 3 * atoms - 3)

    def parameters(self, timestep_fs: float) -> Parameters:
        """The numbers that compiled code takes, in the engine's units."""

        def or_zero(value: float | None) -> float:
            return 0.0 if value is None else value

        return Parameters(
            timestep=timestep_fs * units.FEMTOSECOND,
            temperature=or_zero(self.temperature_K),
            friction=or_zero(self.friction_per_fs) / units.FEMTOSECOND,
            time_constant=or_zero(self.time_constant_fs) * units.FEMTOSECOND,
        )


@struct.dataclass
class Parameters:
    """Traced numbers of an integrator, in the engine's units; 0 where an ensemble has none."""

    timestep: Any
    temperature: Any
    friction: Any
    time_constant: Any


def choose(
    name: str,
    temperature_K: float | int | None,
    friction_per_fs: float | int | None,
    time_constant_fs: float | int | None,
    timestep_fs: float,
    atoms: int,
) -> Ensemble:
    """Check a request and fill in defaults: friction 0.01/fs; time constant 100 time steps.

    Raises:
        ValueError: for an unknown name, a missing or impossible value, or one that would be
            ignored.
    """
    if name not in NAMES:
        raise ValueError(f"ensemble must be one of {', '.join(NAMES)}, not {name!r}")
    if not timestep_fs > 0:
        raise ValueError(f"timestep_fs must be positive, not {timestep_fs}")
    if friction_per_fs is not None and name != "langevin":
        raise ValueError(f"friction_per_fs belongs to langevin; {name} has no use for it")
    if time_constant_fs is not None and name != "nvt":
        raise ValueError(f"time_constant_fs belongs to nvt; {name} has no use for it")
    if name == "nve":
        return Ensemble(name)
    if temperature_K is None:
        raise ValueError(f"{name} needs a temperature (temperature_K)")
    if not temperature_K >= 0:
        raise ValueError(f"temperature_K must not be negative, but is {temperature_K}")
    if name == "langevin":
        friction = 0.01 if friction_per_fs is None else friction_per_fs
        if not friction > 0:
            raise ValueError(f"friction_per_fs must be positive, not {friction}")
        return Ensemble(name, float(temperature_K), friction_per_fs=float(friction))
    if not temperature_K > 0:
        raise ValueError(f"nvt needs a temperature above 0 K, not {temperature_K}")
    if atoms < 2:
        raise ValueError(
            "nvt keeps the centre of mass at rest: a single atom would not move; use langevin"
        )
    constant = 100 * timestep_fs if time_constant_fs is None else time_constant_fs
    if not constant >= 10 * timestep_fs:
        raise ValueError(
            f"time_constant_fs = {constant} is too short for steps of {timestep_fs} fs: "
            "take at least 10 steps"
        )
    return Ensemble(name, float(temperature_K), time_constant_fs=float(constant))


def integrator(name: str, parameters: Parameters) -> Integrator:
    """The integrator of an ensemble."""
    p = parameters
    if name == "langevin":
        return langevin(p.timestep, p.temperature, p.friction)
    if name == "nvt":
        return nose_hoover_chain(p.timestep, p.temperature, p.time_constant)
    return velocity_verlet(p.timestep)
