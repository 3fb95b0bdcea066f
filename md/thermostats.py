"""Constant temperature: Langevin dynamics and Nosé-Hoover chains, as (init, step) pairs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from md import summation, units
from md.integrators import Integrator, Scalar, drift, kick
from md.state import State, kinetic_energy, mobile, real_atoms
from md.summation import TwoFloat


@struct.dataclass
class LangevinState:
    """Energy that the heat bath took out of the atoms so far, eV."""

    taken: TwoFloat


def langevin(timestep: Scalar, temperature: Scalar, friction: Scalar) -> Integrator:
    r"""Langevin dynamics in the BAOAB splitting, whose error in the positions nearly vanishes.

    B: p ← p + ½Δt F(r);  A: r ← r + ½Δt p/m;  O: p ← c p + √((1 − c²) m k_B T) ξ;  A;  B

    with c = exp(−γΔt).

    ======  ==================================  =======================================
    Symbol  Meaning                             In the code
    ======  ==================================  =======================================
    r, p    positions, momenta                  ``state.positions``, ``state.momenta``
    m, F    masses, forces                      ``state.masses``, ``state.forces``
    Δt      time step                           ``timestep``
    T       temperature of the bath             ``temperature``
    γ       friction                            ``friction``
    ξ       independent standard normal draws   ``noise``, from ``state.key`` and ``state.step``
    ======  ==================================  =======================================

    Conserved, but for the error of the steps: potential + kinetic energy − Σ ΔK over all O parts.
    The centre of mass takes part: 3N degrees of freedom.
    Source: B. Leimkuhler and C. Matthews, Appl. Math. Res. Express 2013, 34 (2013).

    Args:
        timestep: Å·√(amu/eV).
        temperature: K.
        friction: 1/(Å·√(amu/eV)) (``per_femtosecond / units.FEMTOSECOND``).
    """

    def init(state: State) -> State:
        return state.replace(thermostat=LangevinState(summation.zero(state.momenta.dtype)))

    def ornstein_uhlenbeck(state: State) -> State:
        keep = jnp.exp(-jnp.asarray(friction * timestep, state.momenta.dtype))
        key = jax.random.fold_in(state.key, state.step)
        noise = jax.random.normal(key, state.momenta.shape, state.momenta.dtype)
        width = jnp.sqrt((1 - keep**2) * state.masses * units.BOLTZMANN * temperature)
        kicked = keep * state.momenta + width[:, None] * noise
        momenta = jnp.where(mobile(state)[:, None], kicked, state.momenta)
        change = jnp.sum(momenta**2 - state.momenta**2, axis=1) / (2 * state.masses)
        taken = summation.add(state.thermostat.taken, -jnp.sum(change))
        return state.replace(momenta=momenta, thermostat=LangevinState(taken))

    def begin(state: State) -> State:
        state = drift(kick(state, timestep / 2), timestep / 2)
        return drift(ornstein_uhlenbeck(state), timestep / 2)

    def finish(state: State) -> State:
        return kick(state, timestep / 2)

    return Integrator(init, begin, finish, lambda state: state.thermostat.taken)


@struct.dataclass
class ChainState:
    """A Nosé-Hoover chain.

    Attributes:
        velocities: [M] rates of change of the thermostat variables η, 1/(Å·√(amu/eV)).
        work: potential energy of the chain, eV: Σ (degrees of freedom) k_B T η.
    """

    velocities: Float[Array, " chain"]
    work: TwoFloat


# weights of the fourth-order Suzuki-Yoshida splitting
_SUZUKI_YOSHIDA = (
    1 / (2 - 2 ** (1 / 3)),
    -(2 ** (1 / 3)) / (2 - 2 ** (1 / 3)),
    1 / (2 - 2 ** (1 / 3)),
)


def nose_hoover_chain(
    timestep: Scalar, temperature: Scalar, time_constant: Scalar, *, length: int = 3
) -> Integrator:
    r"""Constant temperature (NVT) by a Nosé-Hoover chain: deterministic, time-reversible.

    dr/dt = p/m;  dp/dt = F − v₁ p;  dη_k/dt = v_k;
    dv₁/dt = (2K − g k_B T)/Q₁ − v₁v₂;  dv_k/dt = (Q_{k−1} v²_{k−1} − k_B T)/Q_k − v_k v_{k+1};
    Q₁ = g k_B T τ²,  Q_k = k_B T τ²

    split as chain(½Δt) · velocity Verlet(Δt) · chain(½Δt), the chain by Suzuki and Yoshida's
    fourth-order weights.

    ======  ==============================================  ===============================
    Symbol  Meaning                                         In the code
    ======  ==============================================  ===============================
    v_k     velocities of the chain                         ``state.thermostat.velocities``
    η_k     positions of the chain; only                    ``state.thermostat.work``
            g k_B T η₁ + k_B T Σ η_k is kept
    K       kinetic energy                                  ``kinetic``
    g       degrees of freedom, 3N − 3                      ``freedom``
    T, τ    temperature, time constant                      ``temperature``, ``time_constant``
    Q_k     masses of the chain                             ``mass``
    M       length of the chain                             ``length``
    ======  ==============================================  ===============================

    Conserved: potential + kinetic energy + Σ Q_k v_k²/2 + g k_B T η₁ + k_B T Σ_{k>1} η_k.
    The total momentum must be zero.
    Source: G. J. Martyna et al., Mol. Phys. 87, 1117 (1996).

    Args:
        timestep, time_constant: Å·√(amu/eV).
        temperature: K.
        length: number of thermostats, M.
    """

    def masses(state: State) -> tuple[Float[Array, " chain"], Float[Array, " chain"]]:
        """Q_k, and the thermal energy g_k k_B T that each thermostat regulates."""
        freedom = 3 * jnp.sum(real_atoms(state.species)) - 3
        share = jnp.ones(length, state.momenta.dtype).at[0].set(freedom)
        thermal = share * units.BOLTZMANN * temperature
        return thermal * time_constant**2, thermal

    def init(state: State) -> State:
        dtype = state.momenta.dtype
        return state.replace(thermostat=ChainState(jnp.zeros(length, dtype), summation.zero(dtype)))

    def chain(state: State, duration: Scalar) -> State:
        mass, thermal = masses(state)
        kinetic = summation.rounded(kinetic_energy(state))
        v = [state.thermostat.velocities[k] for k in range(length)]
        work, scale = state.thermostat.work, jnp.ones_like(kinetic)

        def push(k: int, dt: Scalar) -> None:
            driving = 2 * kinetic * scale**2 if k == 0 else mass[k - 1] * v[k - 1] ** 2
            damping = jnp.exp(-dt / 4 * v[k + 1]) if k + 1 < length else 1.0
            v[k] = damping * (damping * v[k] + dt / 2 * (driving - thermal[k]) / mass[k])

        for weight in _SUZUKI_YOSHIDA:
            dt = weight * duration
            for k in reversed(range(length)):
                push(k, dt)
            scale = scale * jnp.exp(-dt * v[0])
            work = summation.add(work, dt * sum(thermal[k] * v[k] for k in range(length)))
            for k in range(length):
                push(k, dt)
        return state.replace(
            momenta=scale * state.momenta, thermostat=ChainState(jnp.stack(v), work)
        )

    def begin(state: State) -> State:
        return drift(kick(chain(state, timestep / 2), timestep / 2), timestep)

    def finish(state: State) -> State:
        return chain(kick(state, timestep / 2), timestep / 2)

    def energy_exchanged(state: State) -> TwoFloat:
        mass, _ = masses(state)
        kinetic = jnp.sum(mass * state.thermostat.velocities**2) / 2
        return summation.add(state.thermostat.work, kinetic)

    return Integrator(init, begin, finish, energy_exchanged)
