"""What is measured along a run: parts in compiled code, numbers with units on the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from md import cells, summation, units
from md.state import State, kinetic_energy, real_atoms
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
)


class Sample(NamedTuple):
    """Observables of one state, as compiled code can give them without losing digits. Units: eV, Å.

    Attributes:
        step: step number.
        potential: energy without the species' reference energies.
        kinetic: kinetic energy.
        exchanged: energy given to the thermostat.
        virial: dE/dε.
        volume: of the cell; meaningful where all directions repeat.
    """

    step: Int[Array, "*lines"]
    potential: TwoFloat
    kinetic: TwoFloat
    exchanged: TwoFloat
    virial: Float[Array, "*lines 3 3"]
    volume: Float[Array, "*lines"]


def sample(state: State, energy_exchanged: Callable[[State], TwoFloat]) -> Sample:
    """Observables of a state; compiled."""
    site_energies = jnp.where(real_atoms(state.species), state.site_energies, 0)
    return Sample(
        step=state.step,
        potential=summation.compensated_sum(site_energies),
        kinetic=kinetic_energy(state),
        exchanged=energy_exchanged(state),
        virial=state.virial,
        volume=cells.volume(state.cell),
    )


def log_line(
    sample: Any, *, timestep_fs: float, freedom: int, reference_energy: float, periodic: bool
) -> dict[str, float | int]:
    """The columns of one line of the log, from one sample on the host (numpy), in float64.

    Args:
        sample: a :class:`Sample` of numpy scalars and arrays.
        timestep_fs: fs.
        freedom: kinetic degrees of freedom, for the temperature 2K / (freedom k_B); 0 gives 0 K.
        reference_energy: eV, Σ of the species' reference energies.
        periodic: whether all three directions repeat. If not, neither volume nor pressure has a
            meaning: both are NaN, empty cells in the file.

    The pressure is (2K − tr dE/dε) / 3V, the kinetic part included.
    """
    potential = summation.to_float(sample.potential) + reference_energy
    kinetic = summation.to_float(sample.kinetic)
    exchanged = summation.to_float(sample.exchanged)
    volume = float(sample.volume) if periodic else np.nan
    pressure = (2 * kinetic - float(np.trace(sample.virial))) / (3 * volume)
    return {
        "step": int(sample.step),
        "time_fs": int(sample.step) * timestep_fs,
        "temperature_K": 2 * kinetic / (freedom * units.BOLTZMANN) if freedom else 0.0,
        "potential_eV": potential,
        "kinetic_eV": kinetic,
        "conserved_eV": potential + kinetic + exchanged,
        "pressure_GPa": pressure / units.GIGAPASCAL,
        "volume_A3": volume,
    }
