"""The ensembles that a run can be asked for by name, and the numbers that steer them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Int

from md import barostats, thermostats
from md.integrators import Integrator, velocity_verlet


@struct.dataclass
class Parameters:
    """What steers an integrator: traced numbers in the engine's units (:mod:`md.units`).

    Thermostats act on groups of atoms (``State.group``), G in all. With replicas, every array has
    a further leading axis.

    Attributes:
        timestep: time.
        temperature: [G] K; 0 without a thermostat.
        freedom: [G] kinetic degrees of freedom.
        rate: [G] friction of Langevin dynamics, or one over the time constant of the others; 0 for
            a group that the thermostat leaves alone.
        pressure: [3] eV/Å³, along the Cartesian axes; all the same unless anisotropic.
        pressure_rate: one over the barostat's time constant.
        compressibility: Å³/eV, an estimate that sets the pace of stochastic cell rescaling.
        deformation: [3, 3] engineering strain rate: r → r (1 + rate · t).
    """

    timestep: Any
    temperature: Any
    freedom: Any
    rate: Any
    pressure: Any
    pressure_rate: Any
    compressibility: Any
    deformation: Any


@struct.dataclass
class Course:
    """Parameters along a stage: linear in the step number, from ``start`` to ``end``.

    Attributes:
        start, end: parameters at the steps ``first`` and ``last``.
    """

    start: Parameters
    end: Parameters
    first: Int[Array, ""]
    last: Int[Array, ""]

    def at(self, step: Int[Array, ""]) -> Parameters:
        """The parameters of a step."""
        length = jnp.maximum(self.last - self.first, 1)
        done = jnp.clip(step - self.first, 0, length)

        def between(start: Any, end: Any) -> Any:
            return start + (end - start) * (done / length).astype(start.dtype)

        return jax.tree.map(between, self.start, self.end)

    def standing_still(self) -> Course:
        """The same with a time step of zero."""

        def still(parameters: Parameters) -> Parameters:
            return parameters.replace(timestep=jnp.zeros_like(parameters.timestep))

        return self.replace(start=still(self.start), end=still(self.end))


def integrator(name: str, coupling: str, parameters: Parameters) -> Integrator:
    """The integrator of an ensemble.

    Args:
        name: one of ``md.names.ENSEMBLES``: ``"nve"`` (velocity Verlet), ``"langevin"`` (BAOAB),
            ``"nvt"`` (Nosé-Hoover chain), ``"bussi"`` (stochastic velocity rescaling), ``"npt"``
            (stochastic cell rescaling), ``"mtk"`` (Martyna, Tobias and Klein).
        coupling: one of ``md.names.COUPLINGS``, what a barostat may change about the cell: its
            size, the lengths along the axes, or everything.
        parameters: of one step, of one replica.
    """
    p = parameters
    if name == "langevin":
        return thermostats.langevin(p.timestep, p.temperature, p.rate)
    if name == "nvt":
        return thermostats.nose_hoover_chain(p.timestep, p.temperature, p.freedom, p.rate)
    if name == "bussi":
        return thermostats.bussi(p.timestep, p.temperature, p.freedom, p.rate)
    if name == "npt":
        return barostats.stochastic_cell_rescaling(
            p.timestep,
            p.temperature,
            p.freedom,
            p.rate,
            p.pressure,
            p.pressure_rate,
            p.compressibility,
            coupling,
        )
    if name == "mtk":
        return barostats.martyna_tobias_klein(
            p.timestep, p.temperature, p.freedom, p.rate, p.pressure, p.pressure_rate, coupling
        )
    return velocity_verlet(p.timestep)
