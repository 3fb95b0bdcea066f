"""Ways downhill, of atoms and cell together: FIRE and L-BFGS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from md import summation
from md.summation import TwoFloat


class Displacement(NamedTuple):
    """Coordinates that are minimised over, or forces along them.

    Attributes:
        atoms: [N, 3] u, Å.
        strain: [3, 3] L η, Å; symmetric (:mod:`md.minimise`).
    """

    atoms: Float[Array, "atoms 3"]
    strain: Float[Array, "3 3"]


class Method(NamedTuple):
    """A way downhill.

    Attributes:
        init: ``(displacement) -> memory``.
        step: ``(memory, displacement, forces, enthalpy, limit) -> (memory, displacement)``, where
            ``limit`` shortens a step to what one step may be.
    """

    init: Callable[[Displacement], Any]
    step: Callable[..., tuple[Any, Displacement]]


class Enthalpy(NamedTuple):
    """E + pV, eV, and how far rounding may have put it wrong."""

    value: TwoFloat
    uncertainty: Float[Array, ""]


# -- arithmetic of displacements ------------------------------------------------------------------


def scaled(factor: Any, a: Displacement) -> Displacement:
    return jax.tree.map(lambda x: factor * x, a)


def plus(a: Displacement, b: Displacement) -> Displacement:
    return jax.tree.map(jnp.add, a, b)


def minus(a: Displacement, b: Displacement) -> Displacement:
    return jax.tree.map(jnp.subtract, a, b)


def dot(a: Displacement, b: Displacement) -> Float[Array, ""]:
    return jnp.sum(a.atoms * b.atoms) + jnp.sum(a.strain * b.strain)


def select(condition: Bool[Array, ""], a: Any, b: Any) -> Any:
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


# -- FIRE -----------------------------------------------------------------------------------------


class FireMemory(NamedTuple):
    """Attributes: velocity, time step, mixing α, and steps since the path last went uphill."""

    velocity: Displacement
    timestep: Float[Array, ""]
    mixing: Float[Array, ""]
    calm: Int[Array, ""]


def _fire() -> Method:
    """FIRE: dynamics of unit masses, steered downhill, and stopped whenever it goes uphill.

    E. Bitzek et al., Phys. Rev. Lett. 97, 170201 (2006), with its constants; on stopping, half of
    the last step is taken back (J. Guénolé et al., Comput. Mater. Sci. 175, 109584 (2020)). Times
    are in Å·√(amu/eV) with masses of 1 amu.
    """
    first, longest, mixing = 0.1, 1.0, 0.1
    longer, shorter, calmer, patience = 1.1, 0.5, 0.99, 5

    def init(zero: Displacement) -> FireMemory:
        dtype = zero.atoms.dtype
        return FireMemory(zero, jnp.asarray(first, dtype), jnp.asarray(mixing, dtype), jnp.int32(0))

    def step(
        memory: FireMemory, here: Displacement, forces: Displacement, _: Enthalpy, limit: Any
    ) -> tuple[FireMemory, Displacement]:
        velocity, timestep, alpha, calm = memory
        uphill = dot(forces, velocity) < 0
        ratio = jnp.sqrt(dot(velocity, velocity) / jnp.maximum(dot(forces, forces), 1e-30))
        steered = plus(scaled(1 - alpha, velocity), scaled(alpha * ratio, forces))
        here = plus(here, scaled(jnp.where(uphill, -timestep / 2, 0), velocity))

        eager = ~uphill & (calm > patience)
        grown = jnp.minimum(timestep * longer, longest)
        timestep = jnp.where(uphill, timestep * shorter, jnp.where(eager, grown, timestep))
        alpha = jnp.where(uphill, mixing, jnp.where(eager, alpha * calmer, alpha))
        calm = jnp.where(uphill, 0, calm + 1)
        velocity = select(uphill, scaled(0, velocity), steered)
        velocity = plus(velocity, scaled(timestep, forces))
        move = limit(scaled(timestep, velocity))
        return FireMemory(velocity, timestep, alpha, calm), plus(here, move)

    return Method(init, step)


# -- L-BFGS ---------------------------------------------------------------------------------------


class BfgsMemory(NamedTuple):
    """Attributes: optax's memory; the best point, its forces and enthalpy; the trust in steps."""

    pairs: Any
    best: Displacement
    forces: Displacement
    enthalpy: TwoFloat
    trust: Float[Array, ""]


def _lbfgs() -> Method:
    """L-BFGS with short steps in place of a line search: one evaluation a step.

    The direction is that of J. Nocedal, Math. Comput. 35, 773 (1980). Where the curvature along the
    last step was negative, the memory starts afresh with a step along the forces, twice as long as
    the last of its kind. A step that raises the enthalpy is taken back, and shorter ones follow.
    """
    stiffness = 70.0  # eV/Å², of the first step after a fresh start
    newton = optax.scale_by_lbfgs(memory_size=20)

    def init(zero: Displacement) -> BfgsMemory:
        nothing = jnp.zeros((), zero.atoms.dtype)
        unknown = TwoFloat(jnp.full_like(nothing, jnp.inf), nothing)
        return BfgsMemory(newton.init(zero), zero, zero, unknown, nothing + 0.5)

    def step(
        memory: BfgsMemory, here: Displacement, forces: Displacement, found: Enthalpy, limit: Any
    ) -> tuple[BfgsMemory, Displacement]:
        change = summation.add(found.value, summation.negative(memory.enthalpy))
        rose = summation.rounded(change) > found.uncertainty  # false where nothing was known yet
        here, forces, value = select(
            rose,
            (memory.best, memory.forces, memory.enthalpy),
            (here, forces, found.value),
        )
        curvature = dot(minus(memory.forces, forces), minus(here, memory.best))
        pairs = select(~(curvature > 0), newton.init(here), memory.pairs)
        fresh = pairs.count == 0
        uphill, pairs = newton.update(scaled(-1, forces), pairs, here)
        uphill = jax.tree.map(lambda x, like: x.astype(like.dtype), uphill, forces)
        longer = jnp.minimum(2 * memory.trust, jnp.where(fresh, 1e6, 1))
        trust = jnp.where(rose, jnp.minimum(memory.trust, 1) / 4, longer)

        steepest = scaled(trust / stiffness, forces)
        wrong = fresh | ~(dot(uphill, forces) < 0)
        move = limit(select(wrong, steepest, scaled(-1, uphill)), jnp.minimum(trust, 1))
        return BfgsMemory(pairs, here, forces, value, trust), plus(here, move)

    return Method(init, step)


METHODS = {"fire": _fire(), "lbfgs": _lbfgs()}
