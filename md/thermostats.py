"""Constant temperature: Langevin dynamics, stochastic velocity rescaling and Nosé-Hoover chains.

Each thermostat acts on the groups of ``State.group`` separately: its temperature, its rate and its
degrees of freedom are arrays with one number per group. A rate of 0 leaves a group alone. Scaling
the velocities of one group out of several does not conserve the total momentum, so that such a
group then has all its 3N degrees of freedom; one group of all atoms, at rest, has 3N − 3.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from md import summation, totals, units
from md.integrators import Integrator, Scalar, drift, kick
from md.state import State, kinetic_energies, mobile, normal_noise
from md.summation import TwoFloat

PerGroup = Float[Array, " groups"]

# Folded into the step's key, so that no two uses of noise share their numbers.
_BUSSI_NOISE = 11


@struct.dataclass
class HeatBath:
    """Energy that the heat bath took out of the atoms so far, eV."""

    taken: TwoFloat


def no_heat(state: State) -> HeatBath:
    """A bath that has taken nothing yet."""
    return HeatBath(summation.zero(state.momenta.dtype))


def of_atoms(values: PerGroup, group: Int[Array, " atoms"]) -> Float[Array, "atoms 1"]:
    """The value of each atom's group; any group's for atoms without one."""
    return values[jnp.maximum(group, 0)][:, None]


def scaled_momenta(state: State, scale: PerGroup) -> State:
    """p ← scale · p, group by group; the momenta of atoms without a group stay."""
    scaled = of_atoms(scale, state.group) * state.momenta
    return state.replace(momenta=jnp.where(mobile(state)[:, None], scaled, state.momenta))


def langevin(timestep: Scalar, temperature: PerGroup, rate: PerGroup) -> Integrator:
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
    γ       friction                            ``rate``
    ξ       independent standard normal draws   ``noise``, from ``state.key`` and ``state.step``
    ======  ==================================  =======================================

    Conserved, but for the error of the steps: potential + kinetic energy − Σ ΔK over all O parts.
    The centre of mass takes part: 3N degrees of freedom.
    Source: B. Leimkuhler and C. Matthews, Appl. Math. Res. Express 2013, 34 (2013).

    Args:
        timestep: Å·√(amu/eV).
        temperature: [G] K.
        rate: [G] 1/(Å·√(amu/eV)) (``per_femtosecond / units.FEMTOSECOND``).
    """

    def init(state: State) -> State:
        return state.replace(thermostat=no_heat(state), barostat=None)

    def ornstein_uhlenbeck(state: State) -> State:
        key = jax.random.fold_in(state.key, state.step)
        noise = normal_noise(key, state.ids, state.momenta.dtype)
        keep = jnp.exp(-rate * timestep)
        variance = -jnp.expm1(-2 * rate * timestep) * units.BOLTZMANN * temperature
        width = jnp.sqrt(of_atoms(variance, state.group) * state.masses[:, None])
        shaken = of_atoms(keep, state.group) * state.momenta + width * noise
        momenta = jnp.where(mobile(state)[:, None], shaken, state.momenta)
        products = (momenta - state.momenta) * (momenta + state.momenta)
        gained = totals.compensated(jnp.sum(products, axis=1) / (2 * state.masses), state.axes)
        taken = summation.add(state.thermostat.taken, -summation.rounded(gained))
        return state.replace(momenta=momenta, thermostat=HeatBath(taken))

    def begin(state: State) -> State:
        state = drift(kick(state, timestep / 2), timestep / 2)
        return drift(ornstein_uhlenbeck(state), timestep / 2)

    def finish(state: State) -> State:
        return kick(state, timestep / 2)

    return Integrator(init, begin, finish, lambda state: state.thermostat.taken)


def bussi(timestep: Scalar, temperature: PerGroup, freedom: PerGroup, rate: PerGroup) -> Integrator:
    r"""Constant temperature by stochastic velocity rescaling (Bussi, Donadio and Parrinello).

    The splitting is that of :func:`langevin`, with :func:`rescale_velocities` in the middle: the
    positions are sampled nearly without error.

    Conserved, but for the error of the steps: potential + kinetic energy − Σ ΔK over all
    rescalings. The total momentum must be zero where ``freedom`` says so.

    Args:
        timestep: Å·√(amu/eV).
        temperature: [G] K.
        freedom: [G] kinetic degrees of freedom.
        rate: [G] one over the time constant, 1/(Å·√(amu/eV)).
    """

    def init(state: State) -> State:
        return state.replace(thermostat=no_heat(state), barostat=None)

    def begin(state: State) -> State:
        state = drift(kick(state, timestep / 2), timestep / 2)
        state = rescale_velocities(state, timestep, temperature, freedom, rate)
        return drift(state, timestep / 2)

    def finish(state: State) -> State:
        return kick(state, timestep / 2)

    return Integrator(init, begin, finish, lambda state: state.thermostat.taken)


def rescale_velocities(
    state: State, duration: Scalar, temperature: PerGroup, freedom: PerGroup, rate: PerGroup
) -> State:
    r"""p ← α p, with α drawn so that the kinetic energy relaxes to its canonical distribution.

    The exact solution, after a time Δt, of dK = (K̄ − K) dt/τ + 2√(K K̄/g) dW/√τ: with c² = e^(−Δt/τ)
    and q² = (1 − c²) k_B T / 2K,

    α² = (c + q R)² + q² S,  and α has the sign of c + q R

    ======  ==================================================  =================================
    Symbol  Meaning                                             In the code
    ======  ==================================================  =================================
    K       kinetic energy of a group                           ``kinetic``
    K̄       its mean, g k_B T/2
    g       degrees of freedom                                  ``freedom``
    T, τ    temperature, time constant                          ``temperature``, 1/``rate``
    R       standard normal draw                                ``parallel``
    S       sum of g − 1 squared normal draws, which is twice   ``across``
            a gamma draw of shape (g − 1)/2, for any g ≥ 1
    ======  ==================================================  =================================

    What the atoms lose is added to ``state.thermostat.taken``.

    Source: G. Bussi, D. Donadio and M. Parrinello, J. Chem. Phys. 126, 014101 (2007), eq. A7; sign
    of α: G. Bussi and M. Parrinello, Comput. Phys. Commun. 179, 26 (2008).
    """
    dtype, groups = state.momenta.dtype, temperature.shape[0]
    key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), _BUSSI_NOISE)
    normal_key, gamma_key = jax.random.split(key)
    parallel = jax.random.normal(normal_key, (groups,), dtype)
    shape = jnp.maximum(freedom - 1, 0) / 2
    gamma = jax.random.gamma(gamma_key, jnp.where(shape > 0, shape, 1), dtype=dtype)
    across = jnp.where(shape > 0, 2 * gamma, 0)

    kinetic = kinetic_energies(state, groups)
    moving = (kinetic > 0) & (freedom > 0)  # nothing can be scaled where nothing moves
    keep = jnp.exp(-rate * duration / 2)
    renewed = -jnp.expm1(-rate * duration) * units.BOLTZMANN * temperature / 2
    q = jnp.sqrt(jnp.where(moving, renewed / jnp.where(moving, kinetic, 1), 0))
    along = keep + q * parallel
    scale = jnp.where(along < 0, -1, 1) * jnp.sqrt(along**2 + q**2 * across)
    scale = jnp.where(moving, scale, 1).astype(dtype)
    taken = jnp.sum((1 - scale) * (1 + scale) * kinetic)
    bath = HeatBath(summation.add(state.thermostat.taken, taken))
    return scaled_momenta(state, scale).replace(thermostat=bath)


@struct.dataclass
class Chains:
    """Nosé-Hoover chains, one for each of C things to be thermostatted.

    Attributes:
        momenta: [C, M] p_η/√Q, √eV: normal with variance k_B T in equilibrium, so that they keep
            their meaning while the temperature is ramped.
        work: potential energy of all chains, eV: Σ (degrees of freedom) k_B T η.
    """

    momenta: Float[Array, "chains length"]
    work: TwoFloat

    def energy(self) -> TwoFloat:
        """Kinetic and potential energy of the chains, eV."""
        return summation.add(self.work, jnp.sum(self.momenta**2) / 2)


def chains_at_rest(number: int, length: int, dtype: jnp.dtype) -> Chains:
    return Chains(jnp.zeros((number, length), dtype), summation.zero(dtype))


# weights of the fourth-order Suzuki-Yoshida splitting
_SUZUKI_YOSHIDA = (
    1 / (2 - 2 ** (1 / 3)),
    -(2 ** (1 / 3)) / (2 - 2 ** (1 / 3)),
    1 / (2 - 2 ** (1 / 3)),
)


def advance_chains(
    chains: Chains,
    duration: Scalar,
    twice_kinetic: Float[Array, " chains"],
    temperature: Float[Array, " chains"],
    freedom: Float[Array, " chains"],
    rate: Float[Array, " chains"],
) -> tuple[Chains, Float[Array, " chains"]]:
    r"""Move Nosé-Hoover chains on, and find by what they scale the momenta that they regulate.

    dη_k/dt = v_k;  Q₁ dv₁/dt = 2K − g k_B T − Q₁ v₁v₂;
    Q_k dv_k/dt = Q_{k−1} v²_{k−1} − k_B T − Q_k v_k v_{k+1};  dp/dt = −v₁ p

    with Q₁ = g k_B T τ² and Q_k = k_B T τ², split by Suzuki and Yoshida's fourth-order weights.

    ======  ==============================================  =======================================
    Symbol  Meaning                                         In the code
    ======  ==============================================  =======================================
    v_k     velocities of the chain                         ``chains.momenta`` · ``inverse_root``
    η_k     positions of the chain; only                    ``chains.work``
            g k_B T η₁ + k_B T Σ η_k is kept
    2K      twice the kinetic energy that is regulated      ``twice_kinetic``
    g       its degrees of freedom                          ``freedom``
    T, τ    temperature, time constant                      ``temperature``, 1/``rate``
    Q_k     masses of the chain                             ``inverse_root`` = 1/√Q_k
    ======  ==============================================  =======================================

    Source: G. J. Martyna et al., Mol. Phys. 87, 1117 (1996).

    Returns:
        The chains, and the factor for the momenta of each.
    """
    length = chains.momenta.shape[1]
    share = jnp.ones((freedom.shape[0], length), chains.momenta.dtype).at[:, 0].set(freedom)
    thermal = share * units.BOLTZMANN * temperature[:, None]
    # A chain without mass (no temperature, no atoms) or without a rate stands still.
    inverse_root = jnp.where(
        thermal > 0, rate[:, None] / jnp.sqrt(jnp.where(thermal > 0, thermal, 1)), 0
    )
    w = [chains.momenta[:, k] for k in range(length)]
    work, scale = chains.work, jnp.ones_like(twice_kinetic)

    def velocity(k: int) -> Array:
        return w[k] * inverse_root[:, k]

    def push(k: int, dt: Scalar) -> None:
        driving = twice_kinetic * scale**2 if k == 0 else w[k - 1] ** 2
        force = (driving - thermal[:, k]) * inverse_root[:, k]
        damping = jnp.exp(-dt / 4 * velocity(k + 1)) if k + 1 < length else 1.0
        w[k] = damping * (damping * w[k] + dt / 2 * force)

    for weight in _SUZUKI_YOSHIDA:
        dt = weight * duration
        for k in reversed(range(length)):
            push(k, dt)
        scale = scale * jnp.exp(-dt * velocity(0))
        work = summation.add(
            work, dt * sum(jnp.sum(thermal[:, k] * velocity(k)) for k in range(length))
        )
        for k in range(length):
            push(k, dt)
    return Chains(jnp.stack(w, axis=1), work), scale


def nose_hoover_chain(
    timestep: Scalar,
    temperature: PerGroup,
    freedom: PerGroup,
    rate: PerGroup,
    *,
    length: int = 3,
) -> Integrator:
    r"""Constant temperature (NVT) by Nosé-Hoover chains: deterministic, time-reversible.

    Split as chain(½Δt) · velocity Verlet(Δt) · chain(½Δt), where chain is :func:`advance_chains`.

    Conserved: potential + kinetic energy + Σ Q_k v_k²/2 + g k_B T η₁ + k_B T Σ_{k>1} η_k, and with
    a ramped temperature the same with the heat ∫ g k_B T dη.
    The total momentum must be zero where ``freedom`` says so.
    Source: G. J. Martyna et al., Mol. Phys. 87, 1117 (1996).

    Args:
        timestep: Å·√(amu/eV).
        temperature: [G] K.
        freedom: [G] kinetic degrees of freedom.
        rate: [G] one over the time constant τ, 1/(Å·√(amu/eV)).
        length: number of thermostats in a chain, M.
    """

    def init(state: State) -> State:
        chains = chains_at_rest(temperature.shape[0], length, state.momenta.dtype)
        return state.replace(thermostat=chains, barostat=None)

    def chain(state: State) -> State:
        return thermostatted(state, timestep / 2, temperature, freedom, rate)

    def begin(state: State) -> State:
        return drift(kick(chain(state), timestep / 2), timestep)

    def finish(state: State) -> State:
        return chain(kick(state, timestep / 2))

    return Integrator(init, begin, finish, lambda state: state.thermostat.energy())


def thermostatted(
    state: State, duration: Scalar, temperature: PerGroup, freedom: PerGroup, rate: PerGroup
) -> State:
    """The state after its Nosé-Hoover chains have acted on it for a while."""
    kinetic = kinetic_energies(state, temperature.shape[0])
    chains, scale = advance_chains(
        state.thermostat, duration, 2 * kinetic, temperature, freedom, rate
    )
    return scaled_momenta(state, scale).replace(thermostat=chains)
