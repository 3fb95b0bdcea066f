"""Integrators: pairs of pure functions (init, step) over :class:`md.state.State`.

``step`` advances a state by one time step. It asks for forces through ``interactions``, the
function that the run loop hands in: ``interactions(state, neighbours)`` returns the state with
forces, energies and virial at its positions, and a neighbour list that is right for them. An
integrator therefore knows neither potentials nor lists nor cells.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Float

from md import summation
from md.state import State
from md.summation import TwoFloat

Interactions = Callable[[State, Any], tuple[State, Any]]
Scalar = Float[Array, ""] | float


class Integrator(NamedTuple):
    """One way to advance a state.

    Attributes:
        init: ``state -> state``, adds the integrator's own variables (``state.thermostat``).
        step: ``(state, neighbours, interactions) -> (state, neighbours)``. The state's forces
            must be those at its positions; those of the result are. ``state.step`` is left to the
            caller.
        energy_exchanged: ``state -> TwoFloat``, eV: add it to potential + kinetic energy to get
            the quantity that exact dynamics would conserve.
    """

    init: Callable[[State], State]
    step: Callable[[State, Any, Interactions], tuple[State, Any]]
    energy_exchanged: Callable[[State], TwoFloat]


def kick(state: State, duration: Scalar) -> State:
    """p ← p + F·duration."""
    return state.replace(momenta=state.momenta + duration * state.forces)


def drift(state: State, duration: Scalar) -> State:
    """r ← r + (p/m)·duration."""
    return state.replace(
        positions=state.positions + duration * state.momenta / state.masses[:, None]
    )


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

    def step(state: State, neighbours: Any, interactions: Interactions) -> tuple[State, Any]:
        state = drift(kick(state, timestep / 2), timestep)
        state, neighbours = interactions(state, neighbours)
        return kick(state, timestep / 2), neighbours

    def energy_exchanged(state: State) -> TwoFloat:
        return summation.zero(state.momenta.dtype)

    return Integrator(lambda state: state, step, energy_exchanged)
