r"""Constant pressure: stochastic cell rescaling, and the equations of Martyna, Tobias and Klein.

Both strain the cell and everything in it (:mod:`md.strains`): isotropically, along the Cartesian
axes, or fully. The three are projections of the same equations, and sample the same distribution
of the degrees of freedom that they leave: exp(−(H + P V)/k_B T) over positions, momenta and the
cells that strains reach, in the invariant measure V dε. For an ideal gas of g kinetic degrees of
freedom that is V^(g/3) exp(−P V/k_B T) dV. (Three different pressures belong to no such function
of the cell; the mean stress still goes where it is sent.)
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from md import cells, summation, totals, units
from md.cells import lattice_vector
from md.integrators import Integrator, Scalar, drift, kick
from md.state import State, mobile
from md.strains import (
    FREEDOM,
    Coupling,
    Matrix,
    mean_exponential,
    mean_growth,
    projected,
    strained,
)
from md.summation import TwoFloat
from md.thermostats import (
    Chains,
    PerGroup,
    advance_chains,
    chains_at_rest,
    no_heat,
    rescale_velocities,
    thermostatted,
)

Pressure = Float[Array, " 3"]

# Folded into the step's key, so that no two uses of noise share their numbers.
_CELL_NOISE = 12


def twice_kinetic_tensor(state: State) -> Matrix:
    """Σ p ⊗ p/m over the mobile atoms, eV."""
    momenta = jnp.where(mobile(state)[:, None], state.momenta, 0)
    own = jnp.einsum(
        "ni,nj->ij", momenta, momenta / state.masses[:, None], precision=jax.lax.Precision.HIGHEST
    )
    return totals.over_devices(own, state.axes)


def thermal_energy(temperature: PerGroup, freedom: PerGroup, rate: PerGroup) -> Float[Array, ""]:
    """k_B T of the bath that the cell is coupled to: that of the thermostats, by their freedom."""
    weight = jnp.where(rate > 0, freedom, 0)
    total = jnp.sum(weight)
    mean = jnp.sum(weight * temperature) / jnp.where(total > 0, total, 1)
    return units.BOLTZMANN * mean


def _require_periodic(state: State) -> None:
    if not all(state.pbc):
        raise ValueError(
            f"a barostat needs a cell that repeats in all directions, but pbc is {state.pbc}: "
            "set pbc to True, or choose an ensemble of constant volume"
        )


@struct.dataclass
class RescaledCell:
    """What stochastic cell rescaling remembers.

    Attributes:
        taken: eV, the energy that all strains so far took out of potential and kinetic energy.
        strain: ε of the last step.
        virial: eV, before it.
    """

    taken: TwoFloat
    strain: Matrix
    virial: Matrix


def stochastic_cell_rescaling(
    timestep: Scalar,
    temperature: PerGroup,
    freedom: PerGroup,
    rate: PerGroup,
    pressure: Pressure,
    pressure_rate: Scalar,
    compressibility: Scalar,
    coupling: Coupling,
) -> Integrator:
    r"""Constant pressure by stochastic cell rescaling, with stochastic velocity rescaling (NPT).

    A first-order, overdamped motion of the cell that samples the isothermal-isobaric ensemble: each
    step strains positions, cell and momenta, r → r e^ε, h → h e^ε, p → p e^(−ε), by

    ε = β/3τ (Π − P) Δt + √(2 k_B T β Δt / 3Vτ) Ξ,  Π = (Σ p⊗p/m − dE/dε)/V,

    projected to what ``coupling`` allows. Isotropically, ln V changes by
    β/τ (tr Π/3 − P) Δt + √(2 k_B T β Δt/Vτ) R, as in the source.

    ======  ==============================================  ========================================
    Symbol  Meaning                                         In the code
    ======  ==============================================  ========================================
    ε       strain of a step                                ``strain``
    Π       pressure tensor                                 ``internal`` = V Π
    P       pressure wanted, along the Cartesian axes       ``pressure``
    β       estimate of the isothermal compressibility;     ``compressibility``
            only the pace depends on it
    τ       time constant of the volume                     1/``pressure_rate``
    Ξ       symmetric; variance 1 on the diagonal, ½ off    ``noise``, from the state's key and step
            it, so that any rotation of it is as likely
    V, T    volume, temperature of the bath
    ======  ==============================================  ========================================

    The mobility β/3Vτ changes with the volume; the drift that this adds in Itô's calculus cancels
    that of the measure V dε, which is why none is left in ε.

    A step is ½ kick, ½ drift, velocities (:func:`md.thermostats.rescale_velocities`), cell,
    ½ drift, forces, ½ kick. The pressure is that of the momenta at hand and of the last virial.

    Conserved, but for the error of the steps: potential + kinetic energy, less what velocity
    rescaling and strains added. Of the latter, the kinetic part is exact and the potential part the
    trapezoidal rule over the virials before and after the step.

    Sources: M. Bernetti and G. Bussi, J. Chem. Phys. 153, 114107 (2020) (isotropic); V. Del Tatto,
    P. Raiteri, M. Bernetti and G. Bussi, Appl. Sci. 12, 1139 (2022) (anisotropic, full).

    Args:
        timestep: Å·√(amu/eV).
        temperature: [G] K.
        freedom: [G] kinetic degrees of freedom.
        rate: [G] one over the time constant of the thermostat, 1/(Å·√(amu/eV)).
        pressure: [3] eV/Å³; only their mean counts if isotropic.
        pressure_rate: 1/(Å·√(amu/eV)).
        compressibility: Å³/eV.
        coupling: see above; static.

    Raises:
        ValueError: if a direction does not repeat.
    """

    def init(state: State) -> State:
        _require_periodic(state)
        nothing = jnp.zeros_like(state.cell)
        cell = RescaledCell(summation.zero(state.cell.dtype), nothing, nothing)
        return state.replace(thermostat=no_heat(state), barostat=cell)

    def drawn_strain(state: State) -> Matrix:
        volume = cells.volume(state.cell)
        internal = twice_kinetic_tensor(state) - state.virial
        excess = internal / volume - jnp.diag(pressure)
        key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), _CELL_NOISE)
        noise = projected(jax.random.normal(key, (3, 3), state.cell.dtype), "full")
        pace = compressibility * pressure_rate * timestep / 3
        width = jnp.sqrt(2 * thermal_energy(temperature, freedom, rate) * pace / volume)
        return projected(pace * excess + width * noise, coupling)

    def rescale_cell(state: State) -> State:
        strain = drawn_strain(state)
        momenta = strained(state.momenta, -strain, coupling)
        momenta = jnp.where(mobile(state)[:, None], momenta, state.momenta)
        products = (momenta - state.momenta) * (momenta + state.momenta)
        gained = totals.compensated(jnp.sum(products, axis=1) / (2 * state.masses), state.axes)
        taken = summation.add(state.barostat.taken, -summation.rounded(gained))
        return state.replace(
            positions=strained(state.positions, strain, coupling),
            cell=strained(state.cell, strain, coupling),
            momenta=momenta,
            barostat=RescaledCell(taken, strain, state.virial),
        )

    def begin(state: State) -> State:
        state = drift(kick(state, timestep / 2), timestep / 2)
        state = rescale_velocities(state, timestep, temperature, freedom, rate)
        return drift(rescale_cell(state), timestep / 2)

    def finish(state: State) -> State:
        before = state.barostat
        gained = jnp.sum((before.virial + state.virial) / 2 * before.strain)
        taken = summation.add(before.taken, -gained)
        return kick(state.replace(barostat=before.replace(taken=taken)), timestep / 2)

    def energy_exchanged(state: State) -> TwoFloat:
        return summation.add(state.thermostat.taken, state.barostat.taken)

    return Integrator(init, begin, finish, energy_exchanged)


@struct.dataclass
class Piston:
    """The cell as a particle.

    Attributes:
        momenta: [3, 3] symmetric, p_g/√W in √eV: of mean square k_B T per degree of freedom.
        chains: the Nosé-Hoover chain of the cell.
        work: eV, done on the surroundings: ∫ P dV.
    """

    momenta: Matrix
    chains: Chains
    work: TwoFloat


def martyna_tobias_klein(
    timestep: Scalar,
    temperature: PerGroup,
    freedom: PerGroup,
    rate: PerGroup,
    pressure: Pressure,
    pressure_rate: Scalar,
    coupling: Coupling,
    *,
    length: int = 3,
) -> Integrator:
    r"""Constant temperature and pressure (NPT) by the equations of Martyna, Tobias and Klein.

    dr/dt = p/m + r v;  dp/dt = F − p v − (tr v/g) p − (thermostat);  dh/dt = h v;
    W dv/dt = Σ p⊗p/m − dE/dε − V P + (2K/g) 1 − (thermostat of the cell)

    with W = (g + 3) k_B T τ²/3, and v and the force on it projected to what ``coupling`` allows
    (isotropically v = 1 d(ln V)/3dt).

    ======  ==============================================  ========================================
    Symbol  Meaning                                         In the code
    ======  ==============================================  ========================================
    r, p    positions, momenta                              ``state.positions``, ``state.momenta``
    h       cell, rows are the lattice vectors              ``state.cell``
    v       strain rate, symmetric                          ``piston.momenta`` · ``inverse_root``
    W       mass of the cell                                ``inverse_root`` = 1/√W
    2K, g   twice the kinetic energy, degrees of freedom    ``twice_kinetic``, ``total_freedom``
    P       pressure wanted, along the Cartesian axes       ``pressure``
    τ       time constant of the cell and of its chain      1/``pressure_rate``
    ======  ==============================================  ========================================

    Split symmetrically as in the second source: chains(½Δt), push of the cell(½Δt), push of the
    atoms(½Δt), motion(Δt), forces, and back. Pushes and motion are exact solutions with all else
    constant: deterministic and time-reversible, error O(Δt²). Chains are those of
    :func:`md.thermostats.advance_chains`, one for each group of atoms and one for the cell.

    Conserved: potential + kinetic energy + ½ W tr v² + P V (from its initial value; ∫ P dV where P
    changes) + energies of the chains. The total momentum must be zero where ``freedom`` says so.

    Sources: G. J. Martyna, D. J. Tobias and M. L. Klein, J. Chem. Phys. 101, 4177 (1994);
    M. E. Tuckerman et al., J. Phys. A 39, 5629 (2006).

    Args:
        timestep: Å·√(amu/eV).
        temperature: [G] K.
        freedom: [G] kinetic degrees of freedom.
        rate: [G] one over the time constant of the thermostat, 1/(Å·√(amu/eV)).
        pressure: [3] eV/Å³; only their mean counts if isotropic.
        pressure_rate: 1/(Å·√(amu/eV)).
        coupling: see :mod:`md.barostats`; static.
        length: number of thermostats in a chain.

    Raises:
        ValueError: if a direction does not repeat.
    """
    total_freedom = jnp.sum(freedom)
    thermal = thermal_energy(temperature, freedom, rate)
    mass_rate = (total_freedom + 3) * thermal / 3  # W = mass_rate · τ²
    inverse_root = jnp.where(
        mass_rate > 0, pressure_rate / jnp.sqrt(jnp.where(mass_rate > 0, mass_rate, 1)), 0
    )

    def init(state: State) -> State:
        _require_periodic(state)
        dtype = state.cell.dtype
        piston = Piston(
            jnp.zeros_like(state.cell), chains_at_rest(1, length, dtype), summation.zero(dtype)
        )
        atoms = chains_at_rest(temperature.shape[0], length, dtype)
        return state.replace(thermostat=atoms, barostat=piston)

    def chains(state: State) -> State:
        state = thermostatted(state, timestep / 2, temperature, freedom, rate)
        piston = state.barostat
        advanced, scale = advance_chains(
            piston.chains,
            timestep / 2,
            jnp.sum(piston.momenta**2)[None],
            (thermal / units.BOLTZMANN)[None],
            jnp.full_like(thermal, FREEDOM[coupling])[None],
            jnp.asarray(pressure_rate)[None],
        )
        piston = piston.replace(momenta=scale[0] * piston.momenta, chains=advanced)
        return state.replace(barostat=piston)

    def push_cell(state: State) -> State:
        piston, one = state.barostat, jnp.eye(3, dtype=state.cell.dtype)
        twice_kinetic = twice_kinetic_tensor(state)
        force = twice_kinetic - state.virial + jnp.trace(twice_kinetic) / total_freedom * one
        force = projected(force - cells.volume(state.cell) * jnp.diag(pressure), coupling)
        momenta = piston.momenta + timestep / 2 * inverse_root * force
        return state.replace(barostat=piston.replace(momenta=momenta))

    def strain(state: State, duration: Scalar) -> Matrix:
        return duration * inverse_root * state.barostat.momenta

    def push_atoms(state: State) -> State:
        damping, one = strain(state, timestep / 2), jnp.eye(3, dtype=state.cell.dtype)
        damping = -(damping + jnp.trace(damping) / total_freedom * one)
        mean = mean_exponential(damping, coupling)
        kicked = strained(state.momenta, damping, coupling)
        kicked = kicked + timestep / 2 * lattice_vector(state.forces, mean)
        momenta = jnp.where(mobile(state)[:, None], kicked, state.momenta)
        return state.replace(momenta=momenta)

    def move(state: State) -> State:
        moved, piston = strain(state, timestep), state.barostat
        velocities = state.momenta / state.masses[:, None]
        mean = mean_exponential(moved, coupling)
        positions = strained(state.positions, moved, coupling)
        # P : v ∫ V dt, with V growing exponentially at the rate tr v
        swept = cells.volume(state.cell) * mean_growth(jnp.trace(moved))
        work = summation.add(piston.work, swept * jnp.sum(pressure * jnp.diagonal(moved)))
        return state.replace(
            positions=positions + timestep * lattice_vector(velocities, mean),
            cell=strained(state.cell, moved, coupling),
            barostat=piston.replace(work=work),
        )

    def begin(state: State) -> State:
        return move(push_atoms(push_cell(chains(state))))

    def finish(state: State) -> State:
        return chains(push_cell(push_atoms(state)))

    def energy_exchanged(state: State) -> TwoFloat:
        piston = state.barostat
        cell = summation.add(piston.work, jnp.sum(piston.momenta**2) / 2)
        energy = summation.add(state.thermostat.energy(), piston.chains.energy())
        return summation.add(energy, cell)

    return Integrator(init, begin, finish, energy_exchanged)
