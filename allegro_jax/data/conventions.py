"""What a user's files call their labels, in which units and with which sign."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from ase.stress import voigt_6_to_full_3x3_stress

from allegro_jax.data.frames import DataError, Frame
from allegro_jax.data.names import STRESS_SIGNS
from allegro_jax.data.units import ASE_UNITS, Units, parse_unit

# A flaw of a record.
UNCONVERGED = "the electronic steps did not converge; remove the frame or compute it again"


@dataclasses.dataclass(frozen=True)
class Record:
    """One structure as its file has it: its own names, its own units.

    Attributes:
        numbers: [n] atomic numbers.
        positions: [n, 3]. cell: [3, 3], rows are the lattice vectors. pbc: [3].
        labels: everything else that the file says of it, by name. Readers of formats with names of
            their own offer the labels under ``energy``, ``forces``, ``stress`` and ``virial`` too.
        units: of positions, cell and labels, unless the user says otherwise.
        flaw: what the file itself says against the labels: they come from a calculation that did
            not converge.
    """

    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((3, 3)))
    pbc: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(3, bool))
    labels: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    units: Units = ASE_UNITS
    flaw: str | None = None


@dataclasses.dataclass(frozen=True)
class Conventions:
    """How to read labels.

    Attributes:
        energy_key, forces_key, stress_key: names of the labels.
        virial_key: name of the virial, −V·stress; used where there is no stress.
        weight_key: name of the frame's weight in the loss; ``None``: all weigh 1.
        energy_unit, length_unit: ``None``: those of the format (eV and Å where it has none).
        forces_unit, stress_unit: ``None``: made of the two above.
        stress_sign: ``tension``: positive under tension, (1/V) dE/dε, as in ASE; or
            ``compression``: positive under compression, like a pressure.
        format: ``None``: found from the file.

    Raises:
        ValueError: a unit that is none.
    """

    energy_key: str = "energy"
    forces_key: str = "forces"
    stress_key: str = "stress"
    virial_key: str = "virial"
    weight_key: str | None = None
    energy_unit: str | None = None
    length_unit: str | None = None
    forces_unit: str | None = None
    stress_unit: str | None = None
    stress_sign: str = "tension"
    format: str | None = None

    def __post_init__(self) -> None:
        if self.stress_sign not in STRESS_SIGNS:
            raise ValueError(f"stress_sign: {self.stress_sign!r} is not one of "
                             f"{', '.join(STRESS_SIGNS)}")  # fmt: skip
        self.units_of(ASE_UNITS)

    def units_of(self, own: Units) -> Units:
        """The units of a file whose format has ``own``: what the user says comes first."""
        given = {
            quantity: parse_unit(text, quantity)
            for quantity, text in (
                ("energy", self.energy_unit),
                ("length", self.length_unit),
                ("forces", self.forces_unit),
                ("stress", self.stress_unit),
            )
            if text is not None
        }
        return dataclasses.replace(own, **given)

    def frame(self, record: Record, source: str = "", index: int = 0) -> Frame:
        """The frame of a record, in eV and Å and ASE's sign.

        Raises:
            DataError: a label has a wrong shape or is not numeric.
        """
        where = f"{source or 'structure'}, frame {index}"
        units = self.units_of(record.units)
        count = len(record.numbers)
        tensor = {
            (6,): voigt_6_to_full_3x3_stress,
            (9,): lambda value: value.reshape(3, 3),
            (3, 3): np.asarray,
        }
        scalar = {(): float, (1,): lambda value: float(value[0])}

        def label(name: str, shapes: dict[tuple[int, ...], Any]) -> Any:
            key = getattr(self, f"{name}_key")
            value = None if key is None else record.labels.get(key)
            if value is None:
                return None
            try:
                value = np.asarray(value, float)
            except (TypeError, ValueError):
                raise DataError(
                    f"{where}: {name} (key {key!r}) is not numeric: {value!r}"
                ) from None
            if value.shape not in shapes:
                expected = " or ".join(str(shape) for shape in shapes)
                raise DataError(
                    f"{where}: {name} (key {key!r}) has the shape {value.shape}, expected "
                    f"{expected}; correct the file, or give another data.{name}_key"
                )
            return shapes[value.shape](value)

        energy, forces = label("energy", scalar), label("forces", {(count, 3): np.asarray})
        stress, virial, weight = label("stress", tensor), label("virial", tensor), None
        if self.weight_key is not None:
            weight = label("weight", scalar)
        cell = np.asarray(record.cell, float) * units.length
        if stress is not None:
            sign = 1 if self.stress_sign == "tension" else -1
            stress = sign * units.of_stress * stress
        elif virial is not None:
            volume = abs(float(np.linalg.det(cell)))
            if volume < 1e-6:
                raise DataError(
                    f"{where}: virial (key {self.virial_key!r}): given for a frame without volume; "
                    "give its cell, or set data.virial_key to a name that is not there"
                )
            stress = -units.energy / volume * virial
        return Frame(
            numbers=np.asarray(record.numbers, np.int64),
            positions=np.asarray(record.positions, float) * units.length,
            cell=cell,
            pbc=np.asarray(record.pbc, bool),
            energy=None if energy is None else energy * units.energy,
            forces=None if forces is None else forces * units.of_forces,
            stress=stress,
            weight=1.0 if weight is None else weight,
            source=source,
            index=index,
        )


DEFAULT_CONVENTIONS = Conventions()
