"""Units of labelled structures: names, products and quotients of them, as numbers in eV and Å."""

from __future__ import annotations

import dataclasses
import difflib
import re

from ase import units

# name -> (value in eV and Å, power of energy, power of length)
_NAMES: dict[str, tuple[float, int, int]] = {
    "eV": (1.0, 1, 0),
    "meV": (1e-3, 1, 0),
    "Hartree": (units.Hartree, 1, 0),
    "Ha": (units.Hartree, 1, 0),
    "mHa": (1e-3 * units.Hartree, 1, 0),
    "Rydberg": (units.Rydberg, 1, 0),
    "Ry": (units.Rydberg, 1, 0),
    "kcal": (units.kcal, 1, 0),
    "kJ": (units.kJ, 1, 0),
    "J": (units.J, 1, 0),
    "mol": (units.mol, 0, 0),
    "Angstrom": (1.0, 0, 1),
    "Ang": (1.0, 0, 1),
    "Å": (1.0, 0, 1),
    "Bohr": (units.Bohr, 0, 1),
    "nm": (units.nm, 0, 1),
    "pm": (1e-3 * units.nm, 0, 1),
    "m": (units.m, 0, 1),
    "Pa": (units.Pascal, 1, -3),
    "MPa": (1e6 * units.Pascal, 1, -3),
    "GPa": (units.GPa, 1, -3),
    "bar": (units.bar, 1, -3),
    "kbar": (1e3 * units.bar, 1, -3),
}
_DIMENSIONS = {"energy": (1, 0), "length": (0, 1), "forces": (1, -1), "stress": (1, -3)}
_EXAMPLES = {
    "energy": "eV, Hartree or kcal/mol",
    "length": "Angstrom, Bohr or nm",
    "forces": "eV/Angstrom or Hartree/Bohr",
    "stress": "eV/Angstrom^3, GPa or kbar",
}


def parse_unit(text: str, quantity: str) -> float:
    """The value of a unit in eV and Å.

    Args:
        text: a name (``"Hartree"``), or names with powers joined by ``*`` and ``/``
            (``"kcal/mol/Angstrom"``, ``"eV/Angstrom^3"``).
        quantity: ``energy``, ``length``, ``forces`` or ``stress``; the unit must be one of it.

    Raises:
        ValueError: a name that is not known, or the unit of something else.
    """
    value, dimension = 1.0, [0, 0]
    for operator, name, power in _factors(text, quantity):
        if name not in _NAMES:
            # names differ in case alone (mPa, MPa): none is taken for another
            near = {known.lower(): known for known in _NAMES}
            found = difflib.get_close_matches(name.lower(), near, n=1)
            hint = f"did you mean {near[found[0]]}?" if found else f"known are {', '.join(_NAMES)}"
            raise ValueError(f"{text!r}: no unit {name!r}; {hint}")
        exponent = int(power or 1) * (-1 if operator == "/" else 1)
        factor, *powers = _NAMES[name]
        value *= factor**exponent
        dimension = [one + exponent * other for one, other in zip(dimension, powers, strict=True)]
    if tuple(dimension) != _DIMENSIONS[quantity]:
        raise ValueError(f"{text!r} is no unit of {quantity}; write for example "
                         f"{_EXAMPLES[quantity]}")  # fmt: skip
    return value


def _factors(text: str, quantity: str) -> list[tuple[str, str, str | None]]:
    pattern = r"\s*([*/])\s*([^\W\d_]+)(?:(?:\^|\*\*)?(-?\d+))?"
    found, end = [], 0
    for match in re.finditer(pattern, "*" + text):
        if match.start() != end:
            break
        found.append(match.groups())
        end = match.end()
    if not found or ("*" + text)[end:].strip():
        raise ValueError(f"{text!r}: not a unit; write for example {_EXAMPLES[quantity]}")
    return found


@dataclasses.dataclass(frozen=True)
class Units:
    """What the numbers of a file are to be multiplied by.

    Attributes:
        energy: eV per unit. length: Å per unit.
        forces: eV/Å per unit; ``None`` where it follows from energy and length.
        stress: eV/Å³ per unit; ``None`` likewise.
    """

    energy: float = 1.0
    length: float = 1.0
    forces: float | None = None
    stress: float | None = None

    @property
    def of_forces(self) -> float:
        return self.energy / self.length if self.forces is None else self.forces

    @property
    def of_stress(self) -> float:
        return self.energy / self.length**3 if self.stress is None else self.stress


ASE_UNITS = Units()
KCAL_MOL = Units(energy=parse_unit("kcal/mol", "energy"))
HARTREE = Units(energy=units.Hartree)
HARTREE_BOHR = Units(energy=units.Hartree, length=units.Bohr)
