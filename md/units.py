"""Units, in one place: eV, Å, amu and K inside; fs and GPa where users read and write.

Inside the engine, time is measured in Å·√(amu/eV) ≈ 10.18 fs, so that kinetic energies p²/2m and
forces need no factors; momenta are then in √(amu·eV), as in ASE. Multiply by a unit to enter the
engine, divide by it to leave: ``0.5 * units.FEMTOSECOND``, ``pressure / units.GIGAPASCAL``.

Constants: CODATA 2022 (e and k_B are exact by definition of the SI).
"""

from __future__ import annotations

from math import sqrt

_ELEMENTARY_CHARGE = 1.602176634e-19  # C
_BOLTZMANN_SI = 1.380649e-23  # J/K
_ATOMIC_MASS_SI = 1.66053906892e-27  # kg

BOLTZMANN = _BOLTZMANN_SI / _ELEMENTARY_CHARGE
"""Boltzmann's constant, eV/K."""

FEMTOSECOND = 1e-15 / (1e-10 * sqrt(_ATOMIC_MASS_SI / _ELEMENTARY_CHARGE))
"""One femtosecond in the engine's unit of time, Å·√(amu/eV)."""

GIGAPASCAL = 1e9 * 1e-30 / _ELEMENTARY_CHARGE
"""One gigapascal in eV/Å³."""
