"""Integrators: triples of pure functions (init, begin, finish) over :class:`md.state.State`.

A time step is ``begin``, then the forces at the new positions, then ``finish``. The run loop
computes the forces between the two, so an integrator knows neither potentials nor lists nor cells,
and ``jax.vmap`` turns it into one for many replicas.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from md import summation
from md.state import State, mobile
from md.summation import TwoFloat

Scalar = Float[Array, ""] | float


class Integrator(NamedTuple):
    """One way to advance a state.

    Attributes:
        init: ``state -> state``, adds the integrator's own variables (``state.thermostat``,
            ``state.barostat``).
        begin: ``state -> state``, everything up to the new positions and cell. The forces and the
            virial are still those of the old ones.
        finish: ``state -> state``, the rest of the step, with the forces at the new positions.
            ``state.step`` is left to the caller.
        energy_exchanged: ``state -> TwoFloat``, eV: add it to potential + kinetic energy to get
            the quantity that exact dynamics would conserve.

    With a time step of zero, ``begin`` and ``finish`` change nothing.
    """

    init: Callable[[State], State]
    begin: Callable[[State], State]
    finish: Callable[[State], State]
    energy_exchanged: Callable[[State], TwoFloat]


def kick(state: State, duration: Scalar) -> State:
    """p ← p + F·duration, for atoms that are mobile."""
    kicked = state.momenta + duration * state.forces
    return state.replace(momenta=jnp.where(mobile(state)[:, None], kicked, state.momenta))


def drift(state: State, duration: Scalar) -> State:
    """r ← r + (p/m)·duration."""
    return state.replace(
        positions=state.positions + duration * state.momenta / state.masses[:, None]
    )


def without_variables(state: State) -> State:
    """A state for integrators that have no variables of their own."""
    return state.replace(thermostat=None, barostat=None)


def velocity_verlet(timestep: Scalar) -> Integrator:
    r"""Constant energy (NVE): velocity Verlet, symplectic and time-reversible, error O(Δt²).

    p ← p + ½Δt F(r);  r ← r + Δt p/m;  p ← p + ½Δt F(r)

    ======  ======================  ==================
    Symbol  Meaning                 In the code
    ======  ======================  ==================
    r, p    positions, momenta      ``state.positions``, ``state.momenta``
    F       forces −∂E/∂r           ``state.forces``
    Δt      time step               ``timestep``
    ======  ======================  ==================

    Conserved: potential + kinetic energy.
    Source: W. C. Swope et al., J. Chem. Phys. 76, 637 (1982).

    Args:
        timestep: Å·√(amu/eV) (``femtoseconds * units.FEMTOSECOND``).
    """

    def begin(state: State) -> State:
        return drift(kick(state, timestep / 2), timestep)

    def finish(state: State) -> State:
        return kick(state, timestep / 2)

    def energy_exchanged(state: State) -> TwoFloat:
        return summation.zero(state.momenta.dtype)

    return Integrator(without_variables, begin, finish, energy_exchanged)
