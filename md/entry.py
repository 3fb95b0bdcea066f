"""How a stage begins: with the groups, velocities and integrator's variables that it asks for."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from md import observables, summation
from md.domains import sharding
from md.ensembles import Parameters
from md.program import Program
from md.state import State, maxwell_boltzmann_momenta, without_rotation


@dataclasses.dataclass(frozen=True)
class Entry:
    """The static choices of a beginning, for each of which there is one compiled program.

    Attributes:
        program, before: of the stage that begins, and of the one that ends.
        fresh: whether nothing was run before.
        draw: whether velocities are drawn.
        held: whether there are atoms that do not move freely.
        few: whether there are few groups.
        rotation: whether the rotation of velocities that are drawn is removed.
    """

    program: Program
    before: Program
    fresh: bool
    draw: bool
    held: bool
    few: bool
    rotation: bool


def entered(
    entry: Entry,
    state: State,
    temperature: Any,
    parameters: Parameters,
    old: Parameters,
    parted: tuple[Int[Array, " atoms"], Float[Array, "atoms 3"]] | None,
    geometry: Any = None,
) -> State:
    """A state made ready for a stage.

    Whatever that does to the conserved energy counts as work from outside.

    Args:
        temperature: K, of velocities that are drawn.
        parameters, old: of the stage, and of the one before.
        parted: the group of each atom, and the velocity of those that are driven; None where all
            atoms are one group.
        geometry: of the domains.
    """
    group = jnp.where(state.ids >= 0, 0, -1)
    if parted is not None:
        atom = jnp.maximum(state.ids, 0)
        group = jnp.where(state.ids >= 0, parted[0][atom], -1)
        velocity = jnp.where((state.ids >= 0)[:, None], parted[1][atom], 0)
    group = group.astype(state.group.dtype if entry.few else jnp.int32)
    conserved = None
    if not entry.fresh:
        exchanged = entry.before.integrator(old).energy_exchanged
        conserved = observables.conserved_energy(state, exchanged)
    momenta = state.momenta
    if entry.draw:
        # a key of its own, apart from those that the noise of each step is drawn from
        number = state.step + 1
        key = jax.random.fold_in(jax.random.fold_in(state.key, number), 1)
        momenta = maxwell_boltzmann_momenta(
            key,
            state.masses,
            state.species,
            temperature,
            remove_drift=not entry.held,
            ids=state.ids,
            axes=state.axes,
        )
    if parted is not None:
        driven = state.masses[:, None] * velocity
        momenta = jnp.where((group < 0)[:, None], driven, momenta)
    state = state.replace(momenta=momenta, group=group)
    if entry.draw and entry.rotation:
        origin = 0.0 if geometry is None else geometry.origin(state.cell)
        state = without_rotation(state, origin)
    integrator = entry.program.integrator(parameters)
    state = integrator.init(state)
    if conserved is not None:
        now = observables.conserved_energy(state, integrator.energy_exchanged)
        change = summation.add(now, summation.negative(conserved))
        state = state.replace(work=summation.add(state.work, change))
    return state


on_one_device = jax.jit(entered, static_argnames="entry")


@partial(jax.jit, static_argnames="entry", donate_argnames="state")
def on_domains(entry: Entry, state: State, *arguments: Any) -> State:
    """The same with a state on domains, which is written over."""
    grid, spread = entry.program.grid, sharding.of_state(state)
    assert grid is not None
    specs = spread, *(sharding.ON_ALL,) * len(arguments)
    return grid.sharded(partial(entered, entry), specs, spread)(state, *arguments)
