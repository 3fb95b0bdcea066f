"""What can go wrong inside compiled code: one sticky bit per cause, read once per chunk."""

from __future__ import annotations

from enum import IntFlag


class Fault(IntFlag):
    """Causes, as bits of an int32 that compiled code carries.

    The first three are mended by growing a buffer and running the chunk again (``GROWABLE``); the
    others stop a run.
    """

    NEIGHBOUR_CAPACITY = 1
    """An atom has more neighbours than the list has slots."""
    BIN_CAPACITY = 2
    """A bin of the cell list holds more atoms than it has room for."""
    CELL_SHRUNK = 4
    """The cell has become so small that the stencil of bins no longer spans the cutoff."""

    SHIFT_RANGE = 8
    """An atom strayed over 127 cells from its neighbour's copy: more than a shift can hold."""
    NOT_FINITE = 16
    """A position, momentum, force or energy is infinite or not a number."""
    TOO_HOT = 32
    """The temperature passed the limit of the run."""
    TOO_FAST = 64
    """An atom moved by more than the cutoff in one step: it is lost to its neighbours."""


GROWABLE = Fault.NEIGHBOUR_CAPACITY | Fault.BIN_CAPACITY | Fault.CELL_SHRUNK
