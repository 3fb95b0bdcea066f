"""Stages: what a run is asked to do, in the units of users, and the numbers that come of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from md import names, units
from md.ensembles import Course, Parameters
from md.groups import Group, Number, Partition, Value, partition
from md.replicated import Structure

DEFAULT_FRICTION_PER_FS = 0.01
DEFAULT_TIME_CONSTANT_STEPS = 100
DEFAULT_PRESSURE_TIME_CONSTANT_STEPS = 1000
DEFAULT_COMPRESSIBILITY_PER_GPA = 0.1


@dataclasses.dataclass(frozen=True)
class Stage:
    """One part of a run: an ensemble kept for a number of steps.

    A pair ``(start, end)`` is a linear ramp.

    Attributes:
        steps: number of time steps.
        ensemble: ``"nve"``; at constant temperature ``"langevin"`` (BAOAB), ``"nvt"`` (Nosé-Hoover
            chain) or ``"bussi"`` (stochastic velocity rescaling); at constant pressure as well
            ``"npt"`` (stochastic cell rescaling, with Bussi's thermostat) or ``"mtk"``
            (Martyna, Tobias and Klein, with Nosé-Hoover chains).
        temperature_K: of the bath, and of velocities drawn at the start: a number or a pair.
        timestep_fs: fs.
        friction_per_fs: langevin only; 0.01 unless given.
        time_constant_fs: of the other thermostats; 100 time steps unless given.
        pressure_GPa: npt and mtk: a number or a pair; or three numbers, along x, y and z (or a
            pair of those), unless the cell stays isotropic.
        pressure_time_constant_fs: of barostats; 1000 time steps unless given.
        compressibility_per_GPa: npt only: a rough guess (0.1 unless given; water has 0.45, a stiff
            solid 0.005), for the time constant to mean what it says. It changes no average.
        cell: what a barostat may change: ``"isotropic"`` (the size), ``"anisotropic"`` (the
            lengths along x, y, z), ``"full"`` (the shape too).
        strain_rate_per_fs: the cell and the atoms are deformed at this engineering rate: three
            numbers (along x, y, z), six (xx, yy, zz, yz, xz, xy; tensor components), or a
            3 × 3 matrix. Not with a barostat.
        groups: atoms that are treated apart.
        remove_drift_every, remove_rotation_every: steps between removals of the total momentum,
            or of the angular momentum about the centre of mass (only without periodic
            directions); 0 is never.
        velocities: ``"draw"``: at the start, from the Maxwell-Boltzmann distribution;
            ``"keep"`` those there are. ``None`` draws at the start of a run and keeps later.
        observe: whether the run's observables take part; not in an equilibration, for instance.
    """

    steps: int
    ensemble: str = "nve"
    temperature_K: Value | None = None
    timestep_fs: Number = 0.5
    friction_per_fs: Number | None = None
    time_constant_fs: Number | None = None
    pressure_GPa: Any = None
    pressure_time_constant_fs: Number | None = None
    compressibility_per_GPa: Number | None = None
    cell: str = "isotropic"
    strain_rate_per_fs: Any = None
    groups: tuple[Group, ...] = ()
    remove_drift_every: int = 0
    remove_rotation_every: int = 0
    velocities: str | None = None
    observe: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "timestep_fs", float(self.timestep_fs))
        object.__setattr__(self, "groups", tuple(self.groups))
        _check(self)

    @property
    def thermostatted(self) -> bool:
        return self.ensemble != "nve"

    @property
    def barostatted(self) -> bool:
        return self.ensemble in names.WITH_BAROSTAT

    @property
    def deformed(self) -> bool:
        return self.strain_rate_per_fs is not None

    @property
    def start_temperature_K(self) -> float | None:
        return None if self.temperature_K is None else _ends(self.temperature_K)[0]


def _check(stage: Stage) -> None:
    """Refuse what makes no sense, and whatever would be ignored."""
    name = stage.ensemble
    if name not in names.ENSEMBLES:
        raise ValueError(f"ensemble must be one of {', '.join(names.ENSEMBLES)}, not {name!r}")
    for field, least in (("steps", 0), ("remove_drift_every", 0), ("remove_rotation_every", 0)):
        if getattr(stage, field) < least:
            raise ValueError(f"{field} must be at least {least}, not {getattr(stage, field)}")
    if not stage.timestep_fs > 0:
        raise ValueError(f"timestep_fs must be positive, not {stage.timestep_fs}")
    if stage.velocities not in (None, "draw", "keep"):
        raise ValueError(f'velocities must be "draw" or "keep", not {stage.velocities!r}')
    useless = {
        "friction_per_fs": name != "langevin",
        "time_constant_fs": name in ("nve", "langevin"),
        "pressure_GPa": not stage.barostatted,
        "pressure_time_constant_fs": not stage.barostatted,
        "compressibility_per_GPa": name != "npt",
    }
    belongs = {
        "friction_per_fs": "langevin",
        "time_constant_fs": "nvt, bussi, npt and mtk",
        "compressibility_per_GPa": "npt",
    }
    for field, unused in useless.items():
        if unused and getattr(stage, field) is not None:
            owner = belongs.get(field, "npt and mtk")
            raise ValueError(f"{field} belongs to {owner}; {name} has no use for it")
    if stage.cell not in names.COUPLINGS:
        raise ValueError(f"cell must be one of {', '.join(names.COUPLINGS)}, not {stage.cell!r}")
    if stage.cell != "isotropic" and not stage.barostatted:
        raise ValueError(f"cell belongs to npt and mtk; {name} has no use for it")
    if stage.thermostatted and stage.temperature_K is None:
        raise ValueError(f"{name} needs a temperature (temperature_K)")
    _check_temperature("temperature_K", stage.temperature_K, name)
    if stage.ensemble == "nve" and np.ndim(stage.temperature_K or 0):
        raise ValueError("temperature_K is a ramp, but nve has no thermostat to follow it")
    if stage.friction_per_fs is not None and not stage.friction_per_fs > 0:
        raise ValueError(f"friction_per_fs must be positive, not {stage.friction_per_fs}")
    _check_time_constant("time_constant_fs", stage.time_constant_fs, stage.timestep_fs)
    _check_time_constant(
        "pressure_time_constant_fs", stage.pressure_time_constant_fs, stage.timestep_fs
    )
    if stage.barostatted:
        if stage.pressure_GPa is None:
            raise ValueError(f"{name} needs a pressure (pressure_GPa)")
        _pressures(stage)
        if stage.deformed:
            raise ValueError(f"strain_rate_per_fs would fight the barostat of {name}: drop one")
    compressibility = stage.compressibility_per_GPa
    if compressibility is not None and not compressibility > 0:
        raise ValueError(f"compressibility_per_GPa must be positive, not {compressibility}")
    if stage.deformed:
        strain_rate(stage)
    for group in stage.groups:
        _check_group(group, stage)


def _check_temperature(field: str, value: Any, name: str) -> None:
    if value is None:
        return
    for kelvin in _ends(value):
        if not 0 <= kelvin < np.inf:
            raise ValueError(f"{field} must be finite and not negative, but is {value}")
        if kelvin == 0 and name not in ("nve", "langevin"):
            raise ValueError(f"{name} needs a temperature above 0 K, not {value}")


def _check_time_constant(field: str, value: Number | None, timestep_fs: Number) -> None:
    if value is not None and not value >= 10 * timestep_fs:
        raise ValueError(
            f"{field} = {value} is too short for steps of {timestep_fs} fs: take at least 10 steps"
        )


def _check_group(group: Group, stage: Stage) -> None:
    name = stage.ensemble
    if group.friction_per_fs is not None and name != "langevin":
        raise ValueError(f"{group}: friction_per_fs belongs to langevin; {name} has no use for it")
    if group.time_constant_fs is not None and name in ("nve", "langevin"):
        raise ValueError(f"{group}: time_constant_fs: {name} has no use for it")
    if group.temperature_K is not None and name == "nve":
        raise ValueError(f"{group}: temperature_K: nve has no thermostat")
    if group.friction_per_fs is not None and not group.friction_per_fs > 0:
        raise ValueError(f"{group}: friction_per_fs must be positive")
    _check_temperature(f"{group}: temperature_K", group.temperature_K, name)
    _check_time_constant(f"{group}: time_constant_fs", group.time_constant_fs, stage.timestep_fs)
    if group.held and stage.barostatted:
        raise ValueError(f"{group}: fixed and driven atoms cannot follow the barostat of {name}")


def _ends(value: Any) -> tuple[float, float]:
    """A number or a pair, as a pair."""
    array = np.asarray(value, float)
    if array.shape not in ((), (2,)):
        raise ValueError(f"give a number or a pair (start, end), not {value!r}")
    start, end = np.broadcast_to(array, 2)
    return float(start), float(end)


def _pressures(stage: Stage) -> tuple[np.ndarray, np.ndarray]:
    """[3] GPa at the start and at the end."""
    array = np.asarray(stage.pressure_GPa, float)
    if array.shape not in ((), (2,), (3,), (2, 3)) or not np.isfinite(array).all():
        raise ValueError(
            "pressure_GPa must be a number, a pair (start, end), or three numbers (x, y, z), "
            f"not {stage.pressure_GPa!r}"
        )
    start, end = array if array.shape in ((2,), (2, 3)) else (array, array)
    start, end = np.broadcast_to(start, 3), np.broadcast_to(end, 3)
    if stage.cell == "isotropic" and (np.ptp(start) or np.ptp(end)):
        raise ValueError('pressures that differ along x, y, z need cell="anisotropic" or "full"')
    return start, end


def strain_rate(stage: Stage) -> np.ndarray:
    """[3, 3] per fs.

    Raises:
        ValueError: if it has another shape, or is not finite.
    """
    if stage.strain_rate_per_fs is None:
        return np.zeros((3, 3))
    rate = np.asarray(stage.strain_rate_per_fs, float)
    if rate.shape == (3,):
        rate = np.diag(rate)
    elif rate.shape == (6,):
        xx, yy, zz, yz, xz, xy = rate
        rate = np.asarray([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    if rate.shape != (3, 3) or not np.isfinite(rate).all():
        raise ValueError(
            "strain_rate_per_fs must be three numbers, six, or a 3 × 3 matrix, "
            f"not {stage.strain_rate_per_fs!r}"
        )
    return rate


@dataclasses.dataclass(frozen=True)
class Leg:
    """A stage with its place in a run and the atoms it acts on.

    Attributes:
        stage: what is asked.
        first: the step at which it starts.
        first_fs: the time at which it starts, fs.
        partition: atoms among groups.
        freedom: [G] kinetic degrees of freedom.
    """

    stage: Stage
    first: int
    first_fs: Number
    partition: Partition
    freedom: np.ndarray

    @property
    def last(self) -> int:
        return self.first + self.stage.steps

    def time_fs(self, step: int) -> Number:
        return self.first_fs + (step - self.first) * self.stage.timestep_fs

    def course(
        self, dtype: Any, replicas: int | None = None, ladder_K: np.ndarray | None = None
    ) -> Course:
        """The parameters along the stage, as arrays.

        Args:
            replicas: their number gives every parameter a leading axis.
            ladder_K: [R] temperatures of the replicas, instead of the stage's.
        """
        start, end = (self._parameters(which, replicas, ladder_K) for which in (0, 1))

        def array(x: Any) -> jax.Array:
            return jnp.asarray(x, dtype)

        return Course(
            jax.tree.map(array, start),
            jax.tree.map(array, end),
            jnp.asarray(self.first, jnp.int32),
            jnp.asarray(self.last, jnp.int32),
        )

    def _parameters(
        self, which: int, replicas: int | None, ladder_K: np.ndarray | None
    ) -> Parameters:
        """At the start (0) or the end (1)."""
        stage, fs = self.stage, units.FEMTOSECOND
        pressure = _pressures(stage)[which] if stage.barostatted else np.zeros(3)
        constant = stage.pressure_time_constant_fs
        if constant is None:
            constant = DEFAULT_PRESSURE_TIME_CONSTANT_STEPS * stage.timestep_fs
        compressibility = stage.compressibility_per_GPa or DEFAULT_COMPRESSIBILITY_PER_GPA
        thermal = self.partition.thermal
        parameters = Parameters(
            timestep=np.asarray(stage.timestep_fs * fs),
            temperature=np.asarray([_temperature(stage, g)[which] for g in thermal]),
            freedom=self.freedom,
            rate=np.asarray([_rate_per_fs(stage, g) for g in thermal]) / fs,
            pressure=pressure * units.GIGAPASCAL,
            pressure_rate=np.asarray(1 / constant / fs if stage.barostatted else 0.0),
            compressibility=np.asarray(compressibility / units.GIGAPASCAL),
            deformation=strain_rate(stage) / fs,
        )
        if replicas is None:
            return parameters
        parameters = jax.tree.map(
            lambda x: np.broadcast_to(x, (replicas, *np.shape(x))), parameters
        )
        if stage.thermostatted and ladder_K is not None:
            own = np.broadcast_to(ladder_K[:, None], parameters.temperature.shape)
            parameters = parameters.replace(temperature=own)
        return parameters


def _temperature(stage: Stage, group: Group | None) -> tuple[float, float]:
    value = stage.temperature_K
    if group is not None and group.temperature_K is not None:
        value = group.temperature_K
    return _ends(0.0 if value is None or not stage.thermostatted else value)


def _rate_per_fs(stage: Stage, group: Group | None) -> Number:
    """Friction, or one over the time constant."""
    if not stage.thermostatted or (group is not None and not group.thermostat):
        return 0.0

    def chosen(field: str, default: Number) -> Number:
        own = None if group is None else getattr(group, field)
        value = getattr(stage, field) if own is None else own
        return default if value is None else value

    if stage.ensemble == "langevin":
        return chosen("friction_per_fs", DEFAULT_FRICTION_PER_FS)
    return 1 / chosen("time_constant_fs", DEFAULT_TIME_CONSTANT_STEPS * stage.timestep_fs)


def legs(stages: Sequence[Stage], atoms: Structure, *, biased: bool = False) -> tuple[Leg, ...]:
    """Lay out the stages of a run one after the other.

    Args:
        biased: whether a bias potential may exchange momentum with the atoms.

    Raises:
        ValueError: where a stage does not fit the structure.
    """
    result: list[Leg] = []
    step, time_fs = 0, 0.0
    for stage in stages:
        parted = partition(atoms, stage.groups)
        if stage.barostatted and not atoms.pbc.all():
            raise ValueError(f"{stage.ensemble} needs a structure that repeats in all directions")
        if stage.deformed and not atoms.pbc.all() and np.any(strain_rate(stage)[~atoms.pbc]):
            raise ValueError("strain_rate_per_fs deforms along a direction that does not repeat")
        if stage.remove_rotation_every and atoms.pbc.any():
            raise ValueError("remove_rotation_every: a structure that repeats cannot rotate")
        if parted.held and (stage.remove_drift_every or stage.remove_rotation_every):
            raise ValueError(
                "remove_drift_every and remove_rotation_every contradict fixed or driven atoms"
            )
        freedom = _freedom(stage, parted, biased)
        if stage.thermostatted and stage.ensemble != "langevin" and freedom.sum() <= 0:
            raise ValueError(
                f"{stage.ensemble} keeps the centre of mass at rest: a single atom would not "
                "move; use langevin"
            )
        result.append(Leg(stage, step, time_fs, parted, freedom))
        step += stage.steps
        time_fs += stage.steps * stage.timestep_fs
    return tuple(result)


def _freedom(stage: Stage, parted: Partition, biased: bool) -> np.ndarray:
    """[G] kinetic degrees of freedom: three per atom, less what is conserved.

    The centre of mass is at rest unless something outside moves it; its three degrees of freedom
    are taken from the groups in proportion to their atoms, and so are those of the rotation.
    """
    atoms = parted.counts()
    total = 3.0 * atoms.sum()
    # baths that scale the velocities of one group and not of another move the centre of mass too
    baths = stage.thermostatted and (stage.ensemble == "langevin" or len(parted.thermal) > 1)
    outside = parted.held or parted.forced or biased or baths
    conserved = 0.0
    if not outside or stage.remove_drift_every:
        conserved += 3
    if stage.remove_rotation_every:
        conserved += 3 if atoms.sum() > 2 else 2
    left = max(0.0, total - conserved)
    return 3.0 * atoms * (left / total)
