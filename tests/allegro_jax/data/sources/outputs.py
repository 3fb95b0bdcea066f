"""Small outputs of first-principles programs, written by hand in their layout.

Two ionic steps of one H2 molecule in a cubic cell of 6 Å. ENERGIES, POSITIONS, FORCES and STRESS
(tension positive, xx yy zz yz xz xy) are what they say, in eV and Å; the electronic steps of those
in ``unconverged`` ran into their limit.
"""

from __future__ import annotations

import numpy as np
from ase import units

CELL = 6.0
ENERGIES = (-6.5, -6.75)
POSITIONS = np.asarray([[[0, 0, 0], [0, 0, 0.75]], [[0, 0, 0.05], [0, 0, 0.85]]])
FORCES = np.asarray([[[0, 0, 0.5], [0, 0, -0.5]], [[0, 0, -0.25], [0, 0, 0.25]]])
STRESS = np.asarray([[1, 2, 3, 0.4, 0.5, 0.6], [2, 3, 4, 0.1, 0.2, 0.3]]) * 1e-3
LIMIT = 3  # of electronic steps


def outcar(unconverged: tuple[int, ...] = ()) -> str:
    """VASP's OUTCAR: stress in kB, positive under compression, as xx yy zz xy yz zx."""
    text = "".join(
        [" vasp.6.3.0\n", 2 * " POTCAR:    PAW_PBE H 15Jun2001\n", "   ions per type =   2\n"]
    )
    text += f"   NELM   = {LIMIT:6};   NELMIN=  2; NELMDL=  0\n   ISPIN  =      1    spin?\n"
    text += "   k-points           NKPTS =      1   k-points in BZ  NKDIM = 1   number of bands    "
    text += (
        "NBANDS=      1\n k-points in reciprocal lattice and weights: one\n   0.0 0.0 0.0  1.0\n"
    )
    for step in range(2):
        for electronic in range(LIMIT if step in unconverged else LIMIT - 1):
            text += f"--------- Iteration {step + 1:6}({electronic + 1:4})  ---------\n"
        if step not in unconverged:
            text += "------ aborting loop because EDIFF is reached ------\n"
        xx, yy, zz, yz, xz, xy = -STRESS[step] / units.GPa * 10
        text += f"  in kB    {xx:.8f} {yy:.8f} {zz:.8f} {xy:.8f} {yz:.8f} {xz:.8f}\n"
        text += "  direct lattice vectors        reciprocal lattice vectors\n"
        for axis in range(3):
            text += (
                " ".join(f"{CELL if axis == other else 0:.9f}" for other in range(3)) + " 0 0 0\n"
            )
        text += " POSITION                                       TOTAL-FORCE (eV/Angst)\n ---\n"
        for row in np.hstack([POSITIONS[step], FORCES[step]]):
            text += " ".join(f"{value:13.6f}" for value in row) + "\n"
        text += "  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)\n  ---\n"
        text += f"  free  energy   TOTEN  =  {ENERGIES[step] - 0.01:.8f} eV\n\n"
        text += f"  energy  without entropy= {ENERGIES[step]:.8f}  "
        text += f"energy(sigma->0) = {ENERGIES[step]:.8f}\n"
    return text


def vasprun(unconverged: tuple[int, ...] = ()) -> str:
    """VASP's vasprun.xml: scaled positions; stress in kB, positive under compression."""

    def array(name: str, rows: np.ndarray) -> str:
        lines = "".join(f"<v>{' '.join(f'{x:.10f}' for x in row)}</v>\n" for row in rows)
        return f'<varray name="{name}">\n{lines}</varray>\n'

    def structure(step: int) -> str:
        cell = f"<crystal>{array('basis', CELL * np.eye(3))}</crystal>"
        return cell + array("positions", POSITIONS[step] / CELL)

    text = '<modeling>\n<parameters>\n<i type="int" name="NELM"> 3</i>\n</parameters>\n'
    atom = "<rc><c>H </c><c> 1</c></rc>\n"
    text += f'<atominfo><array name="atoms"><set>\n{2 * atom}</set></array></atominfo>\n'
    text += '<kpoints><varray name="kpointlist"><v>0 0 0</v></varray>'
    text += '<varray name="weights"><v>1</v></varray></kpoints>\n'
    text += f'<structure name="initialpos">{structure(0)}</structure>\n'
    for step in range(2):
        energy = "<energy>\n" + "".join(
            f'<i name="{name}"> {value:.8f} </i>\n'
            for name, value in (
                ("e_fr_energy", ENERGIES[step] - 0.01),
                ("e_wo_entrp", ENERGIES[step]),
                ("e_0_energy", ENERGIES[step]),
            )
        ) + "</energy>\n"  # fmt: skip
        text += "<calculation>\n"
        for _ in range(LIMIT if step in unconverged else LIMIT - 1):
            text += f"<scstep>\n{energy}</scstep>\n"
        text += f"<structure>{structure(step)}</structure>\n{array('forces', FORCES[step])}"
        text += array("stress", -full(STRESS[step]) / units.GPa * 10) + energy + "</calculation>\n"
    return text + "</modeling>\n"


def espresso(unconverged: tuple[int, ...] = ()) -> str:
    """pw.x: Ry and Bohr, stress positive under compression; "!" only where it converged."""
    rydberg, bohr = 13.60569193, 0.52917720859  # of CODATA 2006, as in the program
    alat = CELL / bohr
    text = "     Program PWSCF v.7.2 starts\n     number of atoms/cell      =            2\n"
    text += "     number of atomic types    =            1\n"
    text += f"     celldm(1)= {alat:.9f}  celldm(2)=   0.0\n"
    text += "     crystal axes: (cart. coord. in units of alat)\n"
    for axis in range(3):
        row = " ".join(f"{float(axis == other):.6f}" for other in range(3))
        text += f"               a({axis + 1}) = ( {row} )\n"
    text += "     site n.     atom                  positions (alat units)\n"
    for place, row in enumerate(POSITIONS[0] / CELL):
        values = " ".join(f"{x:.9f}" for x in row)
        text += f"         {place + 1}           H   tau(   {place + 1}) = ( {values} )\n"
    for step in range(2):
        if step:
            text += "ATOMIC_POSITIONS (angstrom)\n"
            text += "".join(f"H {' '.join(f'{x:.9f}' for x in row)}\n" for row in POSITIONS[step])
        mark = " " if step in unconverged else "!"
        text += f"{mark}    total energy              = {ENERGIES[step] / rydberg:.10f} Ry\n\n"
        text += "     Forces acting on atoms (cartesian axes, Ry/au):\n\n"
        for place, row in enumerate(FORCES[step] * bohr / rydberg):
            values = " ".join(f"{x:.10f}" for x in row)
            text += f"     atom    {place + 1} type  1   force = {values}\n"
        text += "\n     Computing stress (Cartesian axis) and pressure\n\n"
        text += "          total   stress  (Ry/bohr**3)          (kbar)     P= 0.0\n"
        for row in -full(STRESS[step]) * bohr**3 / rydberg:
            text += " ".join(f"{x:.14f}" for x in row) + "  0.0 0.0 0.0\n"
        text += "\n"
    return text


def aims() -> str:
    """FHI-aims' molecular dynamics: eV and Å, stress of ASE's sign."""
    text = "          Invoking FHI-aims ...\n"
    text += "  | Number of atoms                   :        2\n"
    text += "  | Number of spin channels           :        1\n"
    text += "  | Number of Kohn-Sham states (occupied + empty):        1\n"
    text += "  The structure contains        2 atoms,  and a total of          2.000 electrons.\n"
    text += "  Input geometry:\n  | Unit cell:\n"
    for row in CELL * np.eye(3):
        text += f"  |   {' '.join(f'{x:14.8f}' for x in row)}\n"
    text += "  | Atomic structure:\n  |       Atom                x [A]            y [A]   z [A]\n"
    for place, row in enumerate(POSITIONS[0]):
        text += f"  |    {place + 1}: Species H {' '.join(f'{x:14.8f}' for x in row)}\n"
    text += "  Complete information for previous time-step:\n"
    for step in range(2):
        start = "Re-initialization" if step else "Initialization"
        text += f"          Begin self-consistency loop: {start}.\n\n"
        text += "          Begin self-consistency iteration #    1\n"
        text += "  Self-consistency cycle converged.\n"
        text += f"  | Total energy uncorrected      : {ENERGIES[step] + 0.01:.12f} eV\n"
        text += f"  | Electronic free energy        : {ENERGIES[step]:.12f} eV\n"
        text += "  Total atomic forces (unitary forces cleaned) [eV/Ang]:\n"
        for place, row in enumerate(FORCES[step]):
            text += f"  |   {place + 1} {' '.join(f'{x:.12E}' for x in row)}\n"
        text += "  |              Analytical stress tensor - Symmetrized              |\n"
        text += "  |  Cartesian components [eV/A**3]  |\n  |---|\n  |  x  y  z  |\n  |---|\n"
        for name, row in zip("xyz", full(STRESS[step]), strict=True):
            text += f"  |  {name}  {' '.join(f'{x:14.8f}' for x in row)}  |\n"
        text += "  Atomic structure (and velocities) as used in the preceding time step:\n"
        for row in CELL * np.eye(3):
            text += f"  lattice_vector   {' '.join(f'{x:14.8f}' for x in row)}\n"
        for row in POSITIONS[step]:
            text += f"            atom   {' '.join(f'{x:14.8f}' for x in row)}  H\n"
    return text + "          Have a nice day.\n"


def cp2k_output(converged: bool = True) -> str:
    """The printed output of CP2K for the first step: Hartree, Hartree/Bohr, GPa."""
    text = " CP2K| version string:                 CP2K version 9.1\n"
    for axis, name in enumerate("abc"):
        row = " ".join(f"{CELL if axis == other else 0:9.3f}" for other in range(3))
        text += f" CELL| Vector {name} [angstrom]: {row}    |{name}| = {CELL:9.3f}\n"
    text += " CELL| Periodicity                                                      XYZ\n"
    text += " MODULE QUICKSTEP: ATOMIC COORDINATES IN ANGSTROM\n\n"
    text += "   Atom Kind Element         X             Y             Z       Z(eff)     Mass\n\n"
    for place, row in enumerate(POSITIONS[0]):
        values = "".join(f"{x:14.6f}" for x in row)
        text += f"      {place + 1}     1 H    1 {values}     1.00     1.0079\n"
    text += "" if converged else " *** WARNING in qs_scf.F: SCF run NOT converged ***\n"
    text += " ENERGY| Total FORCE_EVAL ( QS ) energy [a.u.]:      "
    text += f"{ENERGIES[0] / units.Hartree:.12f}\n"
    text += " ATOMIC FORCES in [a.u.]\n\n # Atom   Kind   Element          X        Y        Z\n"
    for place, row in enumerate(FORCES[0] * units.Bohr / units.Hartree):
        text += f"      {place + 1}      1      H   " + " ".join(f"{x:14.10f}" for x in row) + "\n"
    text += " SUM OF ATOMIC FORCES   0.00000000  0.00000000  0.00000000  0.00000000\n"
    text += " STRESS| Analytical stress tensor [GPa]\n STRESS|          x      y      z\n"
    for name, row in zip("xyz", -full(STRESS[0]) / units.GPa, strict=True):
        text += f" STRESS|      {name}   " + " ".join(f"{x:.11E}" for x in row) + "\n"
    return text


def cp2k_trajectory() -> dict[str, str]:
    """The files of a CP2K trajectory: Å, Hartree, Hartree/Bohr; stress in bar."""
    files = dict.fromkeys(("H2-pos-1.xyz", "H2-frc-1.xyz", "H2-1.cell", "H2-1.stress"), "")
    files["H2-1.cell"] = "# Step Time [fs] Ax Ay Az Bx By Bz Cx Cy Cz Volume\n"
    files["H2-1.stress"] = "# Step Time [fs] xx [bar] xy xz yx yy yz zx zy zz\n"
    for step in range(2):
        head = f"       2\n i = {5 * step:8}, time = {2.5 * step:12.3f}, E = "
        head += f"{ENERGIES[step] / units.Hartree:20.10f}\n"
        forces = FORCES[step] * units.Bohr / units.Hartree
        for name, rows in (("pos", POSITIONS[step]), ("frc", forces)):
            files[f"H2-{name}-1.xyz"] += head + "".join(
                f"  H {' '.join(f'{x:20.10f}' for x in row)}\n" for row in rows
            )
        cell = " ".join(f"{x:.6f}" for x in (CELL * np.eye(3)).ravel())
        files["H2-1.cell"] += f"{5 * step} {2.5 * step} {cell} {CELL**3:.4f}\n"
        stress = " ".join(f"{x:.6f}" for x in (-full(STRESS[step]) / units.bar).ravel())
        files["H2-1.stress"] += f"{5 * step} {2.5 * step} {stress}\n"
    return files


def full(voigt: np.ndarray) -> np.ndarray:
    """[3, 3] of xx yy zz yz xz xy."""
    return voigt[[[0, 5, 4], [5, 1, 3], [4, 3, 2]]]
