"""Units, and conventions of labels."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms

from allegro_jax.data.conventions import Conventions
from allegro_jax.data.frames import DataError
from allegro_jax.data.sources import frame_from_atoms
from allegro_jax.data.units import parse_unit

# CODATA 2014, which ASE uses
HARTREE, BOHR = 27.21138602, 0.52917721067


@pytest.mark.parametrize(
    ("text", "quantity", "value"),
    [
        ("eV", "energy", 1),
        ("Hartree", "energy", HARTREE),
        ("kcal/mol", "energy", 0.0433641),
        ("kJ / mol", "energy", 0.01036427),
        ("Bohr", "length", BOHR),
        ("nm", "length", 10),
        ("Hartree/Bohr", "forces", HARTREE / BOHR),
        ("kcal/mol/Angstrom", "forces", 0.0433641),
        ("eV/Angstrom^3", "stress", 1),
        ("eV*Ang**-3", "stress", 1),
        ("GPa", "stress", 1 / 160.21766),
        ("kbar", "stress", 1 / 1602.1766),
    ],
)
def test_units(text, quantity, value):
    assert parse_unit(text, quantity) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize(
    ("text", "quantity", "message"),
    [
        ("Bohr", "energy", "'Bohr' is no unit of energy; write for example eV"),
        ("GPa", "forces", "no unit of forces; write for example eV/Angstrom"),
        ("hartree", "energy", "no unit 'hartree'; did you mean Hartree"),
        ("", "energy", "not a unit"),
        ("eV/", "energy", "not a unit"),
        ("2 eV", "energy", "not a unit"),
    ],
)
def test_wrong_units(text, quantity, message):
    with pytest.raises(ValueError, match=message):
        parse_unit(text, quantity)


def crystal(**labels) -> Atoms:
    atoms = Atoms("CO", [[0, 0, 0], [0, 0, 2.0]], cell=[4, 5, 6], pbc=True)
    atoms.info |= {name: value for name, value in labels.items() if name != "forces"}
    if "forces" in labels:
        atoms.arrays["forces"] = labels["forces"]
    return atoms


def test_units_of_forces_and_stress_follow():
    stress = np.diag([1.0, 2.0, 3.0])
    atoms = crystal(energy=2.0, forces=np.full((2, 3), 0.5), stress=stress)
    frame = frame_from_atoms(atoms, Conventions(energy_unit="Hartree", length_unit="Bohr"))
    assert frame.energy == pytest.approx(2 * HARTREE)
    np.testing.assert_allclose(frame.positions[1], [0, 0, 2 * BOHR])
    np.testing.assert_allclose(np.diag(frame.cell), np.asarray([4, 5, 6]) * BOHR)
    np.testing.assert_allclose(frame.forces, 0.5 * HARTREE / BOHR)
    np.testing.assert_allclose(frame.stress, stress * HARTREE / BOHR**3)
    own = Conventions(energy_unit="Hartree", forces_unit="Hartree/Bohr", stress_unit="GPa")
    frame = frame_from_atoms(atoms, own)
    np.testing.assert_allclose(frame.forces, 0.5 * HARTREE / BOHR)
    np.testing.assert_allclose(frame.stress, stress / 160.21766208, rtol=1e-7)
    np.testing.assert_array_equal(frame.positions[1], [0, 0, 2])


def test_signs_of_stress_and_virial():
    stress = np.asarray([1.0, 2.0, 3.0, 0.1, 0.2, 0.3])
    full = np.asarray([[1.0, 0.3, 0.2], [0.3, 2.0, 0.1], [0.2, 0.1, 3.0]])
    np.testing.assert_array_equal(frame_from_atoms(crystal(stress=stress)).stress, full)
    pressure = Conventions(stress_sign="compression")
    np.testing.assert_array_equal(frame_from_atoms(crystal(stress=stress), pressure).stress, -full)
    # the volume is 120 Å³; the sign of stresses says nothing about virials
    for conventions in (Conventions(), pressure):
        frame = frame_from_atoms(crystal(virial=-120 * full), conventions)
        np.testing.assert_allclose(frame.stress, full)
    both = crystal(stress=stress, virial=np.zeros((3, 3)))
    np.testing.assert_array_equal(frame_from_atoms(both).stress, full)
    frame = frame_from_atoms(crystal(W=-120 * full.ravel()), Conventions(virial_key="W"))
    np.testing.assert_allclose(frame.stress, full)
    # in other units
    frame = frame_from_atoms(
        crystal(virial=-120 * full), Conventions(energy_unit="Hartree", length_unit="Bohr")
    )
    np.testing.assert_allclose(frame.stress, full * HARTREE / BOHR**3)


def test_virial_without_volume():
    molecule = Atoms("CO", [[0, 0, 0], [0, 0, 1.1]], info={"virial": np.eye(3)})
    with pytest.raises(DataError, match=r"structure, frame 0: virial .*without volume"):
        frame_from_atoms(molecule)


def test_weights():
    assert frame_from_atoms(crystal(energy=1.0, weight=0.5)).weight == 1
    weighted = Conventions(weight_key="weight")
    assert frame_from_atoms(crystal(energy=1.0, weight=0.5), weighted).weight == 0.5
    assert frame_from_atoms(crystal(energy=1.0), weighted).weight == 1
    with pytest.raises(DataError, match=r"weight \(key 'weight'\) is not numeric"):
        frame_from_atoms(crystal(weight="much"), weighted)


def test_wrong_conventions():
    with pytest.raises(ValueError, match="stress_sign: 'pressure' is not one of tension"):
        Conventions(stress_sign="pressure")
    with pytest.raises(ValueError, match="no unit of energy"):
        Conventions(energy_unit="Bohr")
