"""What can go wrong inside compiled code: one sticky bit per cause, read once per chunk."""

from __future__ import annotations

from enum import IntFlag


class Fault(IntFlag):
    """Causes, as bits of an int32 that compiled code carries.

    Those of ``GROWABLE`` are mended by growing a buffer and running the chunk again; the others
    stop a run.
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

    ATOM_CAPACITY = 128
    """A domain holds more atoms than it has rows."""
    GHOST_CAPACITY = 256
    """More atoms lie near a face of a domain than its halo has rows."""
    MIGRANT_CAPACITY = 512
    """More atoms leave a domain through one face than a message has room for."""
    DOMAIN_SHRUNK = 1024
    """A domain has become thinner than the range of the neighbour list."""
    LEFT_BEHIND = 2048
    """An atom passed a whole domain between two rebuilds of the lists."""


GROWABLE = (
    Fault.NEIGHBOUR_CAPACITY
    | Fault.BIN_CAPACITY
    | Fault.CELL_SHRUNK
    | Fault.ATOM_CAPACITY
    | Fault.GHOST_CAPACITY
    | Fault.MIGRANT_CAPACITY
)
