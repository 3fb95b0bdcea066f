"""How far the members of a committee are apart along a run: what is logged, flagged, or stops it.

Inside the compiled loop, at every step that is a multiple of ``every``, each member is evaluated
with the neighbour list that is there anyway. What is told of it is

    s = max_i σ_i over the mobile atoms i,  and σ_E / N        (see :mod:`md.committee`)

Where s passes a threshold, the potential extrapolates: the frame is kept, to be labelled and
trained on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from md import committee, totals
from md.domains import lists
from md.domains.lists import DomainList
from md.evaluation import Evaluation
from md.names import UNCERTAINTY_ACTIONS
from md.state import State, mobile
from md.structures import Frame


@dataclasses.dataclass(frozen=True)
class Uncertainty:
    """When to look at the spread of a committee, and what to do about it.

    Attributes:
        every: steps between two looks.
        threshold: eV/Å, of the largest spread of the forces on a mobile atom. None: it is logged
            and nothing else.
        action: where the threshold is passed, ``"flag"`` keeps the frame in ``uncertain.extxyz``;
            ``"stop"`` also ends the run.
        spacing: least number of steps between two frames that are kept.
        most: largest number of frames that are kept, of each replica.

    Raises:
        ValueError: for values that make no sense.
    """

    every: int = 20
    threshold: float | int | None = None
    action: str = "flag"
    spacing: int = 100
    most: int = 1000

    def __post_init__(self) -> None:
        for name in ("every", "spacing", "most"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.action not in UNCERTAINTY_ACTIONS:
            known = ", ".join(UNCERTAINTY_ACTIONS)
            raise ValueError(f"action must be one of {known}, not {self.action!r}")
        if self.threshold is None:
            if self.action == "stop":
                raise ValueError('action "stop" needs a threshold (eV/Å)')
        elif not self.threshold > 0:
            raise ValueError(f"threshold must be positive, not {self.threshold}")

    @property
    def stops(self) -> bool:
        return self.action == "stop"

    def check(self, potential: Any) -> None:
        """Refuse a potential that has no members."""
        if committee.members_of(potential) < 2:
            raise ValueError(
                "uncertainty needs a committee, whose members can differ: this potential is a "
                "single one (train with `committee: 4`, or combine some by md.Committee.create)"
            )

    def room(self, steps: int) -> int:
        """How many frames can be kept within so many steps; 0 without a threshold."""
        if self.threshold is None:
            return 0
        if self.stops:
            return 1
        return min(self.most, (steps - 1) // max(self.every, self.spacing) + 1)


class UncertainFrame(NamedTuple):
    """A frame of an uncertain state.

    Attributes:
        frame: with the energy, forces and virial of the committee alone.
        spread: of all atoms, in the rows of the frame.
        atom: the mobile one whose forces are the least certain.
    """

    frame: Frame
    spread: committee.Spread
    atom: Int[Array, "*frames"]


class Kept(NamedTuple):
    """The frames that were kept since a chunk began: a buffer, of which ``count`` are filled."""

    count: Int[Array, "*replicas"]
    frames: UncertainFrame


class Watch(NamedTuple):
    """What is known of the spread.

    Attributes:
        energy: σ_E, eV, of all atoms together, at the latest look.
        forces: the largest σ_i of a mobile atom, eV/Å, at the latest look.
        atom: which one.
        step: of the latest look; −1 before the first.
        passed: whether the threshold was passed at the latest look.
        frames: how many frames were kept since the run began.
        kept_at: the step of the last of them.
        kept: within a chunk, where frames are kept at all; None otherwise.
    """

    energy: Float[Array, "*replicas"]
    forces: Float[Array, "*replicas"]
    atom: Int[Array, "*replicas"]
    step: Int[Array, "*replicas"]
    passed: Bool[Array, "*replicas"]
    frames: Int[Array, "*replicas"]
    kept_at: Int[Array, "*replicas"]
    kept: Kept | None = None


def no_watch(dtype: Any) -> Watch:
    """Before the first look."""
    unknown, none = jnp.asarray(jnp.nan, dtype), jnp.asarray(-1, jnp.int32)
    return Watch(unknown, unknown, none, none, jnp.asarray(False), jnp.zeros_like(none), none)


def opened(watch: Watch, frame: Callable[[State], Frame], state: State, room: int) -> Watch:
    """A watch as a chunk begins: with an empty buffer.

    Args:
        frame: what is kept of a state.
        room: how many frames the buffer has, see :meth:`Uncertainty.room`.
    """
    kept = None
    if room:
        one = jax.eval_shape(frame, state)
        like = UncertainFrame(one, committee.Spread(watch.energy, state.masses), watch.atom)
        blank = jax.tree.map(lambda leaf: jnp.zeros((room, *leaf.shape), leaf.dtype), like)
        kept = Kept(jnp.zeros_like(watch.frames), blank)
    return watch._replace(kept=kept)


def look(
    settings: Uncertainty,
    potential: committee.Committee,
    frame: Callable[[State], Frame],
    watch: Watch,
    state: State,
    neighbours: Any,
    *,
    block_size: int | None,
    deterministic: bool,
) -> Watch:
    """Look at the spread of a committee at one state, of one replica; compiled.

    The energy, forces and virial of a frame that is kept are those of the potential alone: they
    are to be compared with a label, which knows of no bias.
    """
    how = {"block_size": block_size, "deterministic": deterministic}
    members = _members(potential, state, neighbours, **how)
    spread = committee.spread(members.site_energies, members.forces, state.axes)
    watched = jnp.where(mobile(state), spread.forces, 0)
    atom = totals.of_the_largest(watched, state.ids, state.axes)
    new = watch._replace(
        energy=spread.energy,
        forces=totals.largest(watched, state.axes),
        atom=atom.astype(jnp.int32),
        step=state.step.astype(jnp.int32),
    )
    if settings.threshold is None:
        return new
    new = new._replace(passed=new.forces > settings.threshold)
    apart = (watch.frames == 0) | (new.step - watch.kept_at >= settings.spacing)
    keep = new.passed & (settings.stops | (apart & (watch.frames < settings.most)))
    mean = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), members)
    found = UncertainFrame(
        frame(
            state.replace(forces=mean.forces, site_energies=mean.site_energies, virial=mean.virial)
        ),
        spread,
        new.atom,
    )
    assert watch.kept is not None
    room = watch.kept.frames.spread.energy.shape[0]
    slot = jnp.where(keep, watch.kept.count, room)  # beyond the end: dropped
    frames = jax.tree.map(
        lambda buffer, leaf: buffer.at[slot].set(leaf, mode="drop"), watch.kept.frames, found
    )
    return new._replace(
        frames=watch.frames + keep,
        kept_at=jnp.where(keep, new.step, watch.kept_at),
        kept=Kept(watch.kept.count + keep, frames),
    )


def _members(
    potential: committee.Committee, state: State, neighbours: Any, **how: Any
) -> Evaluation:
    """What each member gives of the atoms of this device, with a leading axis of members."""
    if isinstance(neighbours, DomainList):
        # one after another, as on one device: positions go out for each, and forces come home
        return jax.lax.map(
            lambda member: lists.evaluate(member, state, neighbours, **how), potential.each
        )
    place = state.positions, state.cell, state.species
    return committee.evaluate_members(potential, *place, neighbours, **how)


class Passed(NamedTuple):
    """Where and when a committee's spread passed the threshold.

    Attributes:
        step: of the run.
        replica: its number; 0 without replicas.
        atom: the one whose forces are the least certain, from 0.
        forces_std: σ_i of that atom, eV/Å.
    """

    step: int
    replica: int
    atom: int
    forces_std: float


def stopped(settings: Uncertainty | None, watch: Watch | None) -> Passed | None:
    """Where and when the spread ended a run, which it may not have done; on the host."""
    if settings is None or watch is None or not settings.stops or not np.any(watch.passed):
        return None
    replica = int(np.argmax(np.atleast_1d(watch.passed)))
    step, atom, forces = (np.atleast_1d(x)[replica] for x in (watch.step, watch.atom, watch.forces))
    return Passed(int(step), replica, int(atom), float(forces))
