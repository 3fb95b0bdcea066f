"""Observables: what is accumulated along a run inside the compiled loop, and read once at the end.

An observable is a frozen, hashable dataclass of settings, with four functions around a pytree of
accumulators: ``init`` makes it, ``update`` adds one state to it in compiled code, ``result`` turns
it into a table. The run loop calls ``update`` at every step that is a multiple of ``every``, keeps
the accumulators in its checkpoints, and writes the table as ``NAME.csv``.

Accumulators may hold a :class:`md.pair_search.PairSearch`: the loop stops a chunk at
``pair_search.faults(accumulators)``, and makes room with ``pair_search.grown``.

On domains (:mod:`md.domains`) ``init`` is given the state of all devices, and ``update`` what one
device holds: its own atoms, rows without one having species −1, and the list of their neighbours,
which refers to ghosts too (:func:`md.pair_search.pairs_of`). Accumulators must come out the same on
all devices, by the sums of :mod:`md.totals`. An observable that does so has an attribute
``on_domains`` that is true; others are refused there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from md import tallies, totals
from md.pair_search import Listed
from md.state import State
from md.summation import TwoFloat

Table = dict[str, np.ndarray]


@runtime_checkable
class Observable(Protocol):
    """Something measured along a run.

    Attributes:
        name: of the table, and of its file without the suffix.
        every: steps between two looks.
    """

    @property
    def name(self) -> str: ...

    @property
    def every(self) -> int: ...

    def init(self, state: State, neighbours: Listed, species: tuple[str, ...]) -> Any:
        """Accumulators of nothing yet; on the host.

        They depend on the state through shapes, static choices and the sizes of searches alone.

        Args:
            state: where the run starts.
            neighbours: the run's list, perhaps not yet filled; its reach counts.
            species: chemical symbols that the state's species indices refer to.

        Raises:
            ValueError: where the observable has no meaning for such a system; one readable line.
        """
        ...

    def update(self, accumulators: Any, state: State, neighbours: Listed) -> Any:
        """Accumulators with one more state; compiled."""
        ...

    def result(self, accumulators: Any, timestep_fs: float) -> Table:
        """Columns of equal length, with units in their names; on the host, in float64."""
        ...


def check_settings(name: str, every: int) -> None:
    """Refuse a name that is no file name, or a stride that is none."""
    if not name or not name.replace("-", "_").replace("_", "a").isalnum():
        raise ValueError(
            f"the name of an observable names its file: letters, digits, - and _, not {name!r}"
        )
    if every < 1:
        raise ValueError(f"{name}: every must be at least 1 step, not {every}")


RESERVED = ("log", "hills", "free_energy")
"""Names of tables that a run writes of its own."""


def check_names(observables: Sequence[Observable]) -> None:
    """Refuse two observables that would write the same file, or that of something else."""
    names = [observable.name for observable in observables]
    for name in names:
        if name in RESERVED:
            raise ValueError(f"an observable cannot be called {name!r}: the run writes such a file")
        if names.count(name) > 1:
            raise ValueError(f"two observables are called {name!r}: give one of them another name")


@struct.dataclass
class Moments:
    """Sums of samples x and of their squares, both counted from the first sample.

    Attributes:
        samples: how many there were.
        first: [rows, columns] the first sample.
        deviations, squares: Σ (x − first) and Σ (x − first)².
        columns: static; names of the columns.
    """

    samples: Int[Array, ""]
    first: Float[Array, "rows columns"]
    deviations: TwoFloat
    squares: TwoFloat
    columns: tuple[str, ...] = struct.field(pytree_node=False)


@dataclasses.dataclass(frozen=True)
class UserObservable:
    """Mean and variance of whatever a function computes from a state.

    Attributes:
        function: ``(state, neighbours) -> array``, or a mapping from names to arrays of equal
            size; a plain JAX function. Units are the engine's (:mod:`md.units`).
        every: steps between two looks.
        name: of the table, which has columns ``NAME_mean`` and ``NAME_variance`` for each array
            (unnamed ones are called ``value``), one row per entry of the flattened arrays. The
            variance is that of single samples, with n − 1 in the denominator: the samples of a
            trajectory are correlated, so it does not tell the error of the mean by itself.
        additive: whether values are sums over atoms, so that those of parts of a system may be
            added. On domains, where the function is called for the atoms of each (rows without an
            atom have species −1), no other can be used.
    """

    function: Callable[[State, Listed], Any]
    every: int = 10
    name: str = "observable"
    additive: bool = False

    @property
    def on_domains(self) -> bool:
        return self.additive

    def __post_init__(self) -> None:
        check_settings(self.name, self.every)

    def init(self, state: State, neighbours: Listed, species: tuple[str, ...]) -> Moments:
        shapes = jax.eval_shape(self._named, state, neighbours)
        sizes = {name: int(np.prod(leaf.shape)) for name, leaf in shapes.items()}
        if not sizes:
            raise ValueError(f"{self.name}: the function returns nothing")
        if len(set(sizes.values())) > 1:
            raise ValueError(
                f"{self.name}: the arrays of one table must have equal sizes, but are {sizes}: "
                "make one observable of each"
            )
        shape, dtype = (next(iter(sizes.values())), len(sizes)), state.positions.dtype
        nothing = tallies.empty_sum(shape, dtype)
        return Moments(jnp.int32(0), nothing.high, nothing, nothing, tuple(sizes))

    def update(self, accumulators: Moments, state: State, neighbours: Listed) -> Moments:
        named = self._named(state, neighbours)
        values = jnp.stack([named[name].reshape(-1) for name in accumulators.columns], axis=1)
        if values.shape != accumulators.first.shape:
            raise ValueError(f"{self.name}: on domains there can be no row for each atom: sum them")
        values = totals.over_devices(values.astype(accumulators.first.dtype), state.axes)
        first = jnp.where(accumulators.samples == 0, values, accumulators.first)
        deviation = values - first
        return accumulators.replace(
            samples=accumulators.samples + 1,
            first=first,
            deviations=tallies.accumulate(accumulators.deviations, deviation),
            squares=tallies.accumulate(accumulators.squares, deviation**2),
        )

    def result(self, accumulators: Moments, timestep_fs: float) -> Table:
        samples = int(accumulators.samples)
        deviation = tallies.total(accumulators.deviations)
        squares = tallies.total(accumulators.squares)
        with np.errstate(divide="ignore", invalid="ignore"):  # too few samples: not a number
            mean = np.asarray(accumulators.first, np.float64) + deviation / np.float64(samples)
            variance = (squares - deviation**2 / np.float64(samples)) / np.float64(samples - 1)
        table: Table = {}
        for column, name in enumerate(accumulators.columns):
            table[f"{name}_mean"] = mean[:, column]
            table[f"{name}_variance"] = np.maximum(variance[:, column], 0)
        return table

    def _named(self, state: State, neighbours: Listed) -> dict[str, Array]:
        values = self.function(state.replace(axes=()), neighbours)  # of this device
        named = dict(values) if isinstance(values, Mapping) else {"value": values}
        return {str(name): jnp.asarray(value) for name, value in named.items()}
