"""How what a run carries lies on the mesh: rows of atoms with their domain, all else everywhere."""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import PartitionSpec

from md.committee import Spread
from md.domains.grid import AXES, Grid
from md.domains.lists import DomainList
from md.domains.migration import FIELDS
from md.lag_sums import LagSums
from md.program import Carry, Report
from md.state import State
from md.structures import BY_ATOM, Frame
from md.uncertainty import Kept, UncertainFrame

ROWS = PartitionSpec(AXES)
BY_NUMBER = PartitionSpec(None, AXES)
ON_ALL = PartitionSpec()

STATE_ROWS = (*FIELDS, "site_energies")
_LIST = ("indices", "sends", "ghost_species", "reference_positions")


def of_state(state: State) -> State:
    """Where the arrays of a state lie; also of one whose other variables are different."""
    everywhere = {name: ON_ALL for name in vars(state) if name not in (*STATE_ROWS, "pbc", "axes")}
    return state.replace(**everywhere, **dict.fromkeys(STATE_ROWS, ROWS))


def elsewhere(state: State, grid: Grid) -> dict[str, Any]:
    """What of a state does not belong to atoms, whole on every device."""
    return {
        name: grid.everywhere(value)
        for name, value in vars(state).items()
        if name not in (*STATE_ROWS, "pbc", "axes")
    }


def of_list(listed: DomainList) -> DomainList:
    everywhere = ("reference_cell", "geometry", "faults", "required")
    return listed.replace(**dict.fromkeys(_LIST, ROWS), **dict.fromkeys(everywhere, ON_ALL))


def of_accumulators(accumulators: Any) -> Any:
    """What belongs to atoms is by number, all else everywhere."""

    def of_node(node: Any) -> Any:
        if isinstance(node, LagSums):
            return node.mapped(lambda _: BY_NUMBER, lambda _: ON_ALL)
        return ON_ALL

    return jax.tree.map(of_node, accumulators, is_leaf=is_lag_sums)


def laid_out(accumulators: Any, grid: Grid) -> Any:
    """The same, whole on every device; what is there by number stays so."""

    def of_node(node: Any) -> Any:
        if isinstance(node, LagSums):
            return node.mapped(lambda same: same, grid.everywhere)
        return grid.everywhere(node)

    return jax.tree.map(of_node, accumulators, is_leaf=is_lag_sums)


def is_lag_sums(node: Any) -> bool:
    return isinstance(node, LagSums)


def of_carry(carry: Carry) -> Carry:
    return Carry(
        of_state(carry.state),
        of_list(carry.neighbours),
        of_accumulators(carry.accumulators),
        *(ON_ALL,) * 3,
    )


def of_frames() -> Frame:
    """Where frames lie that follow each other along a first axis."""
    fields = dict.fromkeys(Frame._fields, ON_ALL)
    return Frame(**fields | dict.fromkeys(BY_ATOM, PartitionSpec(None, AXES)))


def of_report(uncertain: bool) -> Report:
    """Of a chunk, whose frames are left to the state at its end, but for those of uncertain states.

    Args:
        uncertain: whether there may be such.
    """
    fields: dict[str, Any] = dict.fromkeys(Report._fields, ON_ALL)
    if uncertain:
        spread = Spread(ON_ALL, PartitionSpec(None, AXES))
        fields["uncertain"] = Kept(ON_ALL, UncertainFrame(of_frames(), spread, ON_ALL))
    return Report(**fields)
