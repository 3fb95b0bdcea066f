"""What the log says of a run: parts in compiled code, numbers with units on the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from md import cells, summation, totals, units
from md.ensembles import Parameters
from md.stages import Leg
from md.state import State, kinetic_energies, kinetic_energy, mobile, real_atoms
from md.summation import TwoFloat

LOG_COLUMNS = (
    "step",
    "time_fs",
    "temperature_K",
    "potential_eV",
    "kinetic_eV",
    "conserved_eV",
    "pressure_GPa",
    "volume_A3",
    "pressure_xx_GPa",
    "pressure_yy_GPa",
    "pressure_zz_GPa",
    "pressure_yz_GPa",
    "pressure_xz_GPa",
    "pressure_xy_GPa",
)
"""Columns of every log. :func:`log_columns` adds those that only some runs have."""

_VOIGT = (("xx", 0, 0), ("yy", 1, 1), ("zz", 2, 2), ("yz", 1, 2), ("xz", 0, 2), ("xy", 0, 1))


class Sample(NamedTuple):
    """Observables of one state, as compiled code can give them without losing digits. Units: eV, Å.

    Attributes:
        step: step number.
        potential: energy without the species' reference energies and without the bias.
        kinetic: kinetic energy of the mobile atoms.
        conserved: potential, kinetic, bias and exchanged energies, less the work done from outside.
        bias: energy of the bias and of added forces.
        momentum_flux: Σ p ⊗ p / m of the mobile atoms.
        virial: dE/dε.
        volume: of the cell; meaningful where all directions repeat.
        group_kinetic: [G] kinetic energy of each thermostat group.
        target: [G] temperature of each bath, K.
        target_pressure: [3] eV/Å³.
        rung: which temperature of the ladder a replica has.
    """

    step: Int[Array, "*lines"]
    potential: TwoFloat
    kinetic: TwoFloat
    conserved: TwoFloat
    bias: Float[Array, "*lines"]
    momentum_flux: Float[Array, "*lines 3 3"]
    virial: Float[Array, "*lines 3 3"]
    volume: Float[Array, "*lines"]
    group_kinetic: Float[Array, "*lines groups"]
    target: Float[Array, "*lines groups"]
    target_pressure: Float[Array, "*lines 3"]
    rung: Int[Array, "*lines"]


def potential_energy(state: State) -> TwoFloat:
    """Σ site energies, eV, without reference energies and bias."""
    sites = jnp.where(real_atoms(state.species), state.site_energies, 0)
    return totals.compensated(sites, state.axes)


def conserved_energy(state: State, energy_exchanged: Callable[[State], TwoFloat]) -> TwoFloat:
    """What exact dynamics would keep, eV: U + K + bias + what baths hold − work from outside."""
    total = summation.add(potential_energy(state), kinetic_energy(state))
    total = summation.add(total, state.bias_energy)
    total = summation.add(total, energy_exchanged(state))
    return summation.add(total, summation.negative(state.work))


def sample(
    state: State, parameters: Parameters, energy_exchanged: Callable[[State], TwoFloat]
) -> Sample:
    """Observables of a state; compiled.

    Args:
        parameters: of this state's step.
    """
    inverse_mass = jnp.where(mobile(state), 1 / state.masses, 0)
    flux = [
        [jnp.sum(state.momenta[:, a] * state.momenta[:, b] * inverse_mass) for b in range(3)]
        for a in range(3)
    ]
    return Sample(
        step=state.step,
        potential=potential_energy(state),
        kinetic=kinetic_energy(state),
        conserved=conserved_energy(state, energy_exchanged),
        bias=state.bias_energy,
        momentum_flux=totals.over_devices(jnp.stack(list(map(jnp.stack, flux))), state.axes),
        virial=state.virial,
        volume=cells.volume(state.cell),
        group_kinetic=kinetic_energies(state, parameters.freedom.shape[0]),
        target=parameters.temperature,
        target_pressure=parameters.pressure,
        rung=state.rung,
    )


UNCERTAINTY_COLUMNS = ("energy_std_meV_per_atom", "max_forces_std_eV_per_A")


def log_columns(
    legs: Sequence[Leg], *, biased: bool, replicated: bool, watched: bool = False
) -> tuple[str, ...]:
    """Columns of a run's log: those that all runs have, and what its stages call for."""
    extra = []
    if any(leg.stage.thermostatted for leg in legs):
        extra.append("target_temperature_K")
    if any(leg.stage.barostatted for leg in legs):
        extra.append("target_pressure_GPa")
    if biased or any(leg.partition.forced for leg in legs):
        extra.append("bias_eV")
    for leg in legs:
        names = [group.name for group in leg.partition.thermal if group is not None]
        extra += [f"temperature_{name}_K" for name in names if name]
    if replicated:
        extra.append("rung")
    if watched:
        extra += UNCERTAINTY_COLUMNS
    return LOG_COLUMNS + tuple(dict.fromkeys(extra))


def log_line(
    sample: Any,
    leg: Leg,
    columns: Sequence[str],
    *,
    reference_energy: float,
    periodic: bool,
    watched: Any = None,
) -> dict[str, float | int]:
    """One line of the log, from one sample on the host (numpy), in float64.

    Args:
        sample: a :class:`Sample` of numpy scalars and arrays.
        leg: the stage that the sample belongs to.
        columns: which columns the log has; what does not apply is NaN, an empty cell in the file.
        reference_energy: eV, Σ of the species' reference energies.
        periodic: whether all three directions repeat. If not, neither volume nor pressure has a
            meaning: both are NaN.
        watched: the :class:`md.uncertainty.Watch` at the sample; None if there is none.

    The temperature is 2K / (g k_B), 0 K where there are no degrees of freedom g; the pressure is
    (Σ p ⊗ p / m − dE/dε) / V, and a third of its trace.
    """
    step = int(sample.step)
    kinetic = summation.to_float(sample.kinetic)
    volume = float(sample.volume) if periodic else np.nan
    tensor = np.asarray(sample.momentum_flux, float) - np.asarray(sample.virial, float)
    pressure = (tensor + tensor.T) / 2 / volume / units.GIGAPASCAL
    line: dict[str, float | int] = {
        "step": step,
        "time_fs": leg.time_fs(step),
        "temperature_K": _kelvin(kinetic, leg.freedom.sum()),
        "potential_eV": summation.to_float(sample.potential) + reference_energy,
        "kinetic_eV": kinetic,
        "conserved_eV": summation.to_float(sample.conserved) + reference_energy,
        "pressure_GPa": float(np.trace(pressure)) / 3,
        "volume_A3": volume,
    }
    line |= {f"pressure_{name}_GPa": float(pressure[a, b]) for name, a, b in _VOIGT}
    if leg.stage.thermostatted:
        line["target_temperature_K"] = float(sample.target[0])
    if leg.stage.barostatted:
        line["target_pressure_GPa"] = float(np.mean(sample.target_pressure)) / units.GIGAPASCAL
    line["bias_eV"] = float(sample.bias)
    line["rung"] = int(sample.rung)
    for number, group in enumerate(leg.partition.thermal):
        if group is not None and group.name:
            own = float(sample.group_kinetic[number])
            line[f"temperature_{group.name}_K"] = _kelvin(own, leg.freedom[number])
    if watched is not None and int(watched.step) == step:  # not what an earlier step had
        per_atom = float(watched.energy) / len(leg.partition.group)
        line["energy_std_meV_per_atom"] = 1000 * per_atom
        line["max_forces_std_eV_per_A"] = float(watched.forces)
    return {name: line.get(name, np.nan) for name in columns}


def _kelvin(kinetic: float, freedom: float) -> float:
    return float(2 * kinetic / (freedom * units.BOLTZMANN)) if freedom else 0.0
