"""What a compiled chunk of a run is made of: its static choices, constants, carry and report."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from md import ensembles, names, replicas
from md.alarms import Alarm, Closest, Limits
from md.domains.grid import Grid
from md.domains.lists import DomainList
from md.ensembles import Course, Parameters
from md.integrators import Integrator
from md.neighbours import NeighbourList
from md.observable import Observable
from md.observables import Sample
from md.replicas import Exchanges
from md.state import State
from md.structures import Frame
from md.uncertainty import Kept, Uncertainty, Watch


@dataclasses.dataclass(frozen=True)
class Program:
    """What a compiled chunk depends on besides the shapes of its arguments.

    Attributes:
        ensemble, cell: names, see :mod:`md.ensembles`.
        trajectory: whether frames are kept.
        block_size: atoms evaluated at once; None lets :mod:`md.evaluation` choose.
        deterministic: whether forces are summed in fixed point (:mod:`md.evaluation`).
        driven, deformed: whether atoms are driven, or the cell is deformed.
        drift_every, rotation_every: steps between removals; 0 is never.
        observables: what is accumulated.
        replicated: whether everything has a leading axis of replicas.
        exchange_every: steps between exchanges of replicas; 0 is never.
        uncertainty: how a committee's spread is watched; None: not at all.
        uncertain_frames: how many uncertain frames a chunk has room for.
        grid: the domains that atoms are spread over; None on one device without domains.
    """

    ensemble: str
    cell: str
    trajectory: bool
    block_size: int | None = None
    deterministic: bool = False
    driven: bool = False
    deformed: bool = False
    drift_every: int = 0
    rotation_every: int = 0
    observables: tuple[Observable, ...] = ()
    replicated: bool = False
    exchange_every: int = 0
    uncertainty: Uncertainty | None = None
    uncertain_frames: int = 0
    grid: Grid | None = None

    def integrator(self, parameters: Parameters) -> Integrator:
        return ensembles.integrator(self.ensemble, self.cell, parameters)

    def parameters(self, course: Course, state: State) -> Parameters:
        """Those of a state's step; of each replica."""
        parameters = course.at(jnp.ravel(state.step)[0])
        return replicas.on_ladder(parameters, state.rung) if self.replicated else parameters

    @property
    def needs_virial(self) -> bool:
        """Whether something looks at the virial of every step, not just that of samples."""
        return self.deformed or self.ensemble in names.WITH_BAROSTAT or len(self.observables) > 0

    def per_replica(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return jax.vmap(function) if self.replicated else function


@struct.dataclass
class System:
    """What acts on the atoms and stays the same: the traced constants of a run.

    Attributes:
        potential: a :class:`md.local_potential.LocalPotential`.
        bias: a :class:`md.bias.Bias`, or None.
        force: [G, 3] eV/Å, added to the forces on the atoms of each thermostat group; or None.
        limits: beyond which a run counts as exploded.
        shortest_distances: [T, T] Å; pairs below it are reported. Or None.
    """

    potential: Any
    bias: Any
    force: Float[Array, "groups 3"] | None
    limits: Limits
    shortest_distances: Float[Array, "T T"] | None


class Carry(NamedTuple):
    """What a chunk starts from and ends with.

    Attributes:
        state, neighbours: with a leading axis if there are replicas.
        accumulators: of each observable.
        exchanges: statistics of replica exchange; None without it.
        watch: the spread of a committee; None where it is not watched.
        begun: on domains, whether the next step has been begun: its forces wait for a list with
            more room. None without domains, where a chunk whose lists overflow is dropped.
    """

    state: State
    neighbours: NeighbourList | DomainList
    accumulators: tuple[Any, ...]
    exchanges: Exchanges | None
    watch: Watch | None = None
    begun: Bool[Array, ""] | None = None


class Report(NamedTuple):
    """What a chunk hands to the host besides the new carry.

    Attributes:
        alarm: what went wrong; faults of lists are told by the lists themselves.
        samples: observables after each segment, leading axes [frames, segments].
        frames: after each row of segments, leading axis [frames]; None without a trajectory.
        closest: closest pair at each sample; None without a table of shortest distances.
        watched: what was known of a committee's spread at each sample; None if not watched.
        uncertain: frames at which the spread passed the threshold; None where none are kept.
    """

    alarm: Alarm
    samples: Sample
    frames: Frame | None
    closest: Closest | None
    watched: Watch | None
    uncertain: Kept | None
