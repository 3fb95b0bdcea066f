"""Distances, shells and angles in the frames of a file, by the observables of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from md import pair_search, tallies
from md.analysis.blocks import standard_error, with_errors
from md.analysis.recording import Recording
from md.analysis.shells import Bonds, Pair, Triple, known_as
from md.coordination import CoordinationNumbers
from md.distributions import AngularDistribution, RadialDistribution
from md.faults import Fault
from md.observable import Table
from md.species import species_indices
from md.state import State, initial_state, wrapped

_Observable = RadialDistribution | CoordinationNumbers | AngularDistribution

_GROWTHS = 20  # of buffers, for one frame; each is by a quarter at least


def accumulated(
    recording: Recording, observable: _Observable, windows: Sequence[slice], every: int
) -> list[Any]:
    """Accumulators of an observable, of all frames and then of each block of them.

    Args:
        windows: :func:`md.analysis.blocks.windows`.
        every: look at every so many frames.

    Raises:
        ValueError: if the observable has no meaning for the atoms.
    """
    with jax.enable_x64(True):
        template = _state(recording)
        empty = observable.init(template, None, recording.species)

        chosen = range(0, len(recording.numbers), every)
        if len(windows) < 2:
            return [_looked(observable, empty, recording, chosen, template)]
        parts = []
        for window in windows[1:]:
            own = [frame for frame in chosen if window.start <= frame < window.stop]
            parts.append(_looked(observable, empty, recording, own, template))
            empty = empty.replace(search=parts[-1].search)  # as much room as the last needed
        rest = [frame for frame in chosen if frame >= windows[-1].stop]
        whole = _looked(observable, empty, recording, rest, template).replace(search=None)
        for part in parts:
            whole = tallies.merged(whole, part.replace(search=None))
        return [whole, *parts]


def _state(recording: Recording) -> State:
    """The first frame."""
    source, cell = recording.source, jnp.asarray(recording.cells[0])
    positions = jnp.asarray(np.array(recording.positions[0]))
    return initial_state(
        positions=positions,
        momenta=jnp.zeros_like(positions),
        species=jnp.asarray(species_indices(source.symbols, recording.species)),
        masses=jnp.asarray(np.asarray(source.masses, float)),
        cell=cell,
        pbc=source.pbc,
        key=jax.random.key(0),
    )


@partial(jax.jit, static_argnames="observable")
def _look(
    observable: _Observable, accumulators: Any, template: State, positions: Any, cell: Any
) -> Any:
    """Accumulators with one more frame; compiled once for all trajectories of the same atoms."""
    state = wrapped(template.replace(positions=positions, cell=cell))
    return observable.update(accumulators, state, None)


def _looked(
    observable: _Observable,
    accumulators: Any,
    recording: Recording,
    frames: Sequence[int],
    template: State,
) -> Any:
    for frame in frames:
        positions = np.array(recording.positions[frame])
        cell = recording.cells[frame]
        for _ in range(_GROWTHS):
            after = _look(observable, accumulators, template, positions, cell)
            faults = Fault(int(pair_search.faults(after)))
            if not faults:
                break
            state = wrapped(
                template.replace(positions=jnp.asarray(positions), cell=jnp.asarray(cell))
            )
            accumulators = pair_search.grown(accumulators, after, state)
        else:
            raise ValueError(
                f"{recording.source.path}: frame {recording.numbers[frame]}: positions: atoms are "
                f"closer than any list of pairs can hold ({faults.name})"
            )
        accumulators = after
    return accumulators


def tables_of(observable: _Observable, accumulators: Sequence[Any], axes: Sequence[str]) -> Table:
    """The table of all frames, with errors from the blocks."""
    whole, *parts = (observable.result(one, 1.0) for one in accumulators)
    return with_errors(whole, parts, axes)


def radial(
    recording: Recording,
    windows: Sequence[slice],
    every: int,
    cutoff: float,
    bins: int,
    pairs: Sequence[Pair] | None = None,
) -> tuple[Table, Table]:
    """Radial distributions and running coordination numbers, with errors; and those of all pairs.

    Args:
        pairs: of the first table; all pairs, and the distribution of all atoms, unless given.
    """
    everything = RadialDistribution(cutoff, bins, every=1)
    found = accumulated(recording, everything, windows, every)
    wanted = dataclasses.replace(everything, pairs=pairs, total=pairs is None)
    return tables_of(wanted, found, ("r_A",)), everything.result(found[0], 1.0)


def coordination(
    recording: Recording,
    windows: Sequence[slice],
    every: int,
    bonds: Bonds,
    pairs: Sequence[Pair],
) -> tuple[Table, dict[str, np.ndarray | list[str]]]:
    """Distributions of coordination numbers, and a row for the first shell of each pair.

    Args:
        pairs: ordered, the centre first; each with a length in ``bonds``.
    """
    lengths = {pair: bonds.lengths[known_as(pair, bonds.lengths)] for pair in pairs}
    observable = CoordinationNumbers(tuple(lengths.items()), every=1)
    found = accumulated(recording, observable, windows, every)
    table = tables_of(observable, found, ("neighbours",))
    met = [name for name in table if name.startswith("share_") and not name.endswith("_error")]
    used = max((np.flatnonzero(table[name] > 0).max(initial=0) for name in met), default=0)
    table = {name: values[: used + 2] for name, values in table.items()}
    whole, *parts = (observable.means(one) for one in found)
    rows: dict[str, Any] = {name: [] for name in (
        "centre", "neighbour", "peak_A", "cutoff_A", "cutoff_from", "coordination",
        "coordination_error",
    )}  # fmt: skip
    for pair in pairs:
        key, name = known_as(pair, bonds.lengths), "-".join(pair)
        rows["centre"].append(pair[0])
        rows["neighbour"].append(pair[1])
        rows["peak_A"].append(bonds.peaks.get(key, np.nan))
        rows["cutoff_A"].append(lengths[pair])
        rows["cutoff_from"].append("given" if key in bonds.given else "first minimum of g(r)")
        rows["coordination"].append(whole[name])
        rows["coordination_error"].append(float(standard_error([part[name] for part in parts])))
    return table, rows


def angles(
    recording: Recording,
    windows: Sequence[slice],
    every: int,
    bonds: Bonds,
    triples: Sequence[Triple] | None,
    bins: int,
) -> Table:
    """Distributions of bond angles.

    Args:
        triples: centre in the middle, all bonds with a length in ``bonds``; None: all that occur.
    """
    lengths: Mapping[Pair, float] = bonds.lengths
    if triples is not None:
        needed = {known_as(pair, lengths) for a, b, c in triples for pair in ((a, b), (b, c))}
        lengths = {pair: lengths[pair] for pair in needed}
    observable = AngularDistribution(tuple(lengths.items()), bins, every=1)
    found = accumulated(recording, observable, windows, every)
    wanted = dataclasses.replace(observable, triples=triples)
    return tables_of(wanted, found, ("angle_degree",))
