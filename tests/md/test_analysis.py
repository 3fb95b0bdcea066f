"""Analysis of trajectories: against other packages, cases known by heart, files of all kinds."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import ase.io
import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from allegro_jax.cli import main
from md import units
from md.analysis import analyse
from md.analysis.blocks import windows
from md.analysis.motion import products, squared_displacements
from md.analysis.shells import first_shell
from md.trajectory import TrajectorySettings, open_trajectory

REFERENCE = Path(__file__).parents[1] / "reference" / "analysis.npz"
PAIRS = ("Li-Li", "Li-O", "O-O")


@pytest.fixture(scope="module")
def reference():
    return dict(np.load(REFERENCE))


def frames_of(reference, *, cells=None, velocities=True, wrap=False):
    """The fixed trajectory as ase.Atoms."""
    frames = []
    for number, positions in enumerate(reference["positions"]):
        lengths = reference["lengths"] if cells is None else cells[number]
        atoms = Atoms(reference["symbols"].tolist(), positions, cell=lengths, pbc=True)
        if velocities:
            atoms.set_velocities(reference["velocities"][number] / units.FEMTOSECOND)
        if wrap:
            atoms.wrap(eps=0)
        frames.append(atoms)
    return frames


@pytest.fixture(scope="module")
def folder(reference, tmp_path_factory):
    """The fixed trajectory in many files."""
    folder = tmp_path_factory.mktemp("files")
    ase.io.write(folder / "wrapped.extxyz", frames_of(reference, wrap=True, velocities=False))
    ase.io.write(folder / "first.extxyz", frames_of(reference, velocities=False)[0])
    timed = frames_of(reference)
    for number, atoms in enumerate(timed):
        atoms.info.update(step=10 * number, time_fs=20.0 * number)
        atoms.calc = results(atoms)
    ase.io.write(folder / "timed.traj", timed)
    for form in ("extxyz", "h5md"):
        precision = 17 if form == "extxyz" else "float64"
        settings = TrajectorySettings(form, velocities=True, precision=precision)
        run = folder / form
        run.mkdir()
        trajectory = open_trajectory(run, settings)
        trajectory.write(timed)
        trajectory.finish()
        trajectory.close()
    return folder


def results(atoms):
    return SinglePointCalculator(atoms, energy=0.0, forces=np.zeros((len(atoms), 3)))


# -- against other packages ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fixed(folder, reference):
    """The analysis that the references are for."""
    return analyse(
        folder / "timed.traj",
        cutoff=float(reference["rdf_range"]),
        bins=len(reference["rdf_Li_O"]),
        bond_lengths=float(reference["bond"]),
        angle_bins=len(reference["angles"]),
        remove_drift=False,
        msd_lag_fs=1180,
        vacf_lag_fs=200,
    )


def test_radial_distributions_against_mdanalysis(fixed, reference):
    table, atoms = fixed.tables["rdf"], {"Li": 20, "O": 12}
    for pair in PAIRS:
        a, b = pair.split("-")
        # theirs is normalised by the N − 1 other atoms of a species, ours by N
        share = (atoms[a] - 1) / atoms[a] if a == b else 1
        expected = reference[f"rdf_{a}_{b}"] * share
        np.testing.assert_allclose(table[f"g_{a}_{b}"], expected, rtol=1e-6, atol=1e-9)
    total = sum(
        weight * table[f"g_{pair.replace('-', '_')}"]
        for pair, weight in zip(PAIRS, (20 * 20, 2 * 20 * 12, 12 * 12), strict=True)
    )
    np.testing.assert_allclose(table["g_total"], total / 32**2, rtol=1e-12)


def test_numbers_of_pairs_against_freud(fixed, reference):
    counts = np.diff(fixed.tables["rdf"]["n_Li_O"], prepend=0) * 20 * 60
    np.testing.assert_allclose(counts, reference["freud_Li_O"], atol=1e-6)


def test_radial_distribution_of_a_changing_cell_against_mdanalysis(reference, tmp_path):
    """Each frame with its own cell, and the mean volume."""
    frames = frames_of(reference, cells=reference["varied"])
    ase.io.write(tmp_path / "varied.traj", frames)
    table = analyse(
        tmp_path / "varied.traj",
        rdf=True,
        cutoff=float(reference["rdf_range"]),
        bins=len(reference["varied_Li_O"]),
    ).tables["rdf"]
    np.testing.assert_allclose(table["g_Li_O"], reference["varied_Li_O"], rtol=1e-6, atol=1e-9)


def test_angles_and_neighbours_against_mdanalysis_and_freud(fixed, reference):
    counts = reference["angles"]
    expected = counts / (counts.sum() * 180 / len(counts))
    np.testing.assert_allclose(fixed.tables["adf"]["p_O_Li_O_per_degree"], expected, rtol=1e-6)
    share = fixed.tables["coordination"]["share_Li_O"]
    met = reference["neighbours"] / reference["neighbours"].sum()
    np.testing.assert_allclose(share, met[: len(share)], rtol=1e-6)
    assert met[len(share) :].sum() == 0
    (row,) = [
        row for row in fixed.summary["shells"] if (row["centre"], row["neighbour"]) == ("Li", "O")
    ]
    assert row["coordination"] == pytest.approx(np.sum(met * np.arange(len(met))), rel=1e-9)
    assert row["cutoff_from"] == "given"


def test_motion_against_other_packages(fixed, reference):
    for symbol in ("Li", "O"):
        found = fixed.tables["msd"][f"msd_{symbol}_A2"]
        np.testing.assert_allclose(found, reference[f"msd_{symbol}"], rtol=1e-6, atol=1e-6)
        found = fixed.tables["vacf"][f"vacf_{symbol}_A2_per_fs2"]
        expected = reference[f"vacf_{symbol}"]
        np.testing.assert_allclose(found, expected[: len(found)], atol=1e-6 * expected[0])
    time = fixed.tables["msd"]["time_fs"]
    np.testing.assert_allclose(time, 20.0 * np.arange(60))


def test_mdanalysis_itself(reference, fixed):
    """The stored numbers are what the package says, where it is installed."""
    mda = pytest.importorskip("MDAnalysis", reason="MDAnalysis is not installed")
    from MDAnalysis.analysis.rdf import InterRDF

    universe = mda.Universe.empty(32, trajectory=True)
    universe.add_TopologyAttr("names", reference["symbols"])
    dimensions = np.tile([*reference["lengths"], 90, 90, 90], (60, 1)).astype(np.float32)
    universe.load_new(reference["positions"].astype(np.float32), dimensions=dimensions)
    groups = [universe.select_atoms(f"name {symbol}") for symbol in ("Li", "O")]
    rdf = InterRDF(*groups, nbins=45, range=(0.0, 4.5)).run().results.rdf
    np.testing.assert_allclose(fixed.tables["rdf"]["g_Li_O"], rdf, rtol=1e-6, atol=1e-9)


# -- files -----------------------------------------------------------------------------------------


def same(found, expected, names=("msd", "vacf", "dos"), rtol=1e-9):
    for name in names:
        for column, values in expected.tables[name].items():
            scale = np.nanmax(np.abs(values))
            np.testing.assert_allclose(
                found.tables[name][column], values, rtol=rtol, atol=rtol * scale, err_msg=column
            )


@pytest.mark.parametrize("name", ["extxyz", "h5md", "extxyz/trajectory.extxyz"])
def test_formats_and_run_folders_give_the_same(folder, fixed, name):
    words = {"remove_drift": False, "msd_lag_fs": 1180, "vacf_lag_fs": 200}
    found = analyse(folder / name, msd=True, vacf=True, dos=True, **words)
    same(found, fixed, rtol=1e-7)
    assert found.left_out == {}


def test_wrapped_positions_are_unwrapped(folder, fixed):
    found = analyse(
        folder / "wrapped.extxyz", msd=True, timestep_fs=20, remove_drift=False, msd_lag_fs=1180
    )
    same(found, fixed, names=("msd", "diffusion")[:1], rtol=1e-6)


def test_h5md_of_others(reference, folder, fixed, tmp_path):
    """In nm and ps, fixed box, scalar time, images, and types without elements."""
    lengths = reference["lengths"]
    image = np.floor(reference["positions"] / lengths)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        particles = file.create_group("particles/fluid")
        box = particles.create_group("box")
        box.attrs["boundary"] = np.bytes_("periodic")
        box["edges"] = lengths / 10
        box["edges"].attrs["unit"] = "nm"
        for name, values, unit in (
            ("position", (reference["positions"] - image * lengths) / 10, "nm"),
            ("velocity", reference["velocities"] * 100, "nm ps-1"),
            ("image", image.astype(int), None),
        ):
            group = particles.create_group(name)
            group["value"] = values
            if unit:
                group["value"].attrs["unit"] = unit
            group["step"], group["time"] = 10, 0.02
            group["time"].attrs["unit"] = "ps"
        particles["species"] = np.where(reference["symbols"] == "Li", 1, 2)
    with pytest.raises(ValueError, match=r"species: .* types 1, 2 are: give --species"):
        analyse(tmp_path / "other.h5")
    found = analyse(
        tmp_path / "other.h5",
        msd=True,
        vacf=True,
        dos=True,
        species={1: "Li", 2: "O"},
        remove_drift=False,
        msd_lag_fs=1180,
        vacf_lag_fs=200,
    )
    same(found, fixed, rtol=1e-6)


def test_h5md_of_mdanalysis(reference, folder, fixed, tmp_path):
    """Which holds no elements, and times in ps."""
    mda = pytest.importorskip("MDAnalysis", reason="MDAnalysis is not installed")
    universe = mda.Universe.empty(32, trajectory=True, velocities=True)
    dimensions = np.tile([*reference["lengths"], 90, 90, 90], (60, 1)).astype(np.float32)
    universe.load_new(
        reference["positions"].astype(np.float32),
        velocities=(1000 * reference["velocities"]).astype(np.float32),
        dimensions=dimensions,
        dt=0.02,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        named = {"lengthunit": "Angstrom", "timeunit": "ps", "velocityunit": "Angstrom/ps"}
        with mda.Writer(str(tmp_path / "theirs.h5md"), 32, **named) as writer:
            for _ in universe.trajectory:
                writer.write(universe)
    with pytest.raises(ValueError, match=r"species: absent: .*--structure FILE"):
        analyse(tmp_path / "theirs.h5md")
    words = {"msd": True, "vacf": True, "dos": True, "remove_drift": False}
    words |= {"msd_lag_fs": 1180, "vacf_lag_fs": 200}
    found = analyse(tmp_path / "theirs.h5md", structure_file=folder / "first.extxyz", **words)
    same(found, fixed, rtol=1e-5)


def test_lammps_dumps(reference, folder, fixed, tmp_path):
    """Types instead of elements, velocities in Å/ps."""
    lines = []
    for number, positions in enumerate(reference["positions"]):
        lines += ["ITEM: TIMESTEP", f"{10 * number}", "ITEM: NUMBER OF ATOMS", "32"]
        lines += ["ITEM: BOX BOUNDS pp pp pp", *(f"0 {side}" for side in reference["lengths"])]
        lines += ["ITEM: ATOMS id type xu yu zu vx vy vz"]
        velocities = 1000 * reference["velocities"][number]
        for atom, (r, v) in enumerate(zip(positions, velocities, strict=True)):
            kind = 1 if reference["symbols"][atom] == "Li" else 2
            lines.append(" ".join(map(repr, [atom + 1, kind, *r.tolist(), *v.tolist()])))
    (tmp_path / "run.lammpstrj").write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=r"without a column element: .*--species 1=Li"):
        analyse(tmp_path / "run.lammpstrj")
    words = {"msd": True, "vacf": True, "dos": True, "timestep_fs": 20, "remove_drift": False}
    words |= {"msd_lag_fs": 1180, "vacf_lag_fs": 200}
    found = analyse(tmp_path / "run.lammpstrj", species={1: "Li", 2: "O"}, **words)
    same(found, fixed, rtol=1e-6)
    found = analyse(tmp_path / "run.lammpstrj", structure_file=folder / "first.extxyz", **words)
    same(found, fixed, rtol=1e-6)


def test_a_run_that_is_still_going_on(reference, tmp_path):
    """Its closed segments, one after the other."""
    trajectory = open_trajectory(tmp_path, TrajectorySettings("h5md", precision="float64"))
    frames = frames_of(reference)[:30]
    for number, atoms in enumerate(frames):
        atoms.info.update(step=number, time_fs=20.0 * number)
        atoms.calc = results(atoms)
    for start, stop in ((0, 12), (12, 24), (24, 30)):
        trajectory.write(frames[start:stop])
        if stop < 30:
            trajectory.commit()
    found = analyse(tmp_path, msd=True, start=5, remove_drift=False, blocks=1)
    trajectory.close()
    assert found.summary["frames"] == 19 and found.summary["last_frame"] == 23
    path = reference["positions"][5:24, reference["symbols"] == "Li"]
    expected = np.mean(np.sum((path[4:] - path[:-4]) ** 2, axis=2))
    assert found.tables["msd"]["msd_Li_A2"][4] == pytest.approx(expected, rel=1e-9)


def test_all_but_some(folder):
    words = {"rdf": False, "adf": False, "coordination": False, "vacf": False}
    found = analyse(folder / "timed.traj", **words)
    assert set(found.tables) == {"msd", "diffusion", "dos"} and found.left_out == {}


def test_selected_frames(folder):
    whole = analyse(folder / "timed.traj", msd=True, every=2, start=10, stop=50)
    assert whole.summary["frames"] == 20 and whole.tables["msd"]["time_fs"][1] == 40
    timed = analyse(folder / "timed.traj", msd=True, every=2, start="0.2ps", stop="980fs")
    same(timed, whole, names=("msd",))


# -- cases known by heart --------------------------------------------------------------------------


@pytest.mark.slow
def test_crystal(tmp_path):
    """fcc: 12 neighbours at a/√2, 18 up to the second shell, angles of 60, 90, 120 and 180°."""
    copper = bulk("Cu", "fcc", a=3.6, cubic=True)
    copper.write(tmp_path / "copper.extxyz")
    found = analyse(tmp_path / "copper.extxyz", cutoff=6.0, bins=300)
    (row,) = found.summary["shells"]
    assert row["coordination"] == 12 and row["coordination_error"] is None
    assert row["peak_A"] == pytest.approx(3.6 / np.sqrt(2), abs=0.02)
    assert 2.7 < row["cutoff_A"] < 3.5
    at = np.argmin(np.abs(found.tables["rdf"]["r_A"] - 3.9))
    assert found.tables["rdf"]["n_Cu_Cu"][at] == 18
    angles = found.tables["adf"]
    seen = angles["angle_degree"][angles["p_Cu_Cu_Cu_per_degree"] > 0]
    expected = np.array([60, 90, 120, 180])
    assert {int(np.argmin(np.abs(expected - angle))) for angle in seen} == {0, 1, 2, 3}
    assert all(np.min(np.abs(expected - angle)) <= 0.51 for angle in seen)
    assert set(found.left_out) == {"msd", "vacf", "dos"}
    assert "single frame" in found.left_out["msd"]


@pytest.mark.slow
def test_ideal_gas(tmp_path):
    """g = 1 − 1/N beyond half the cell too, and its error is what Poisson says."""
    rng, atoms, side, looks = np.random.default_rng(1), 30, 6.0, 80
    gas = [
        Atoms(f"Ar{atoms}", rng.uniform(0, side, (atoms, 3)), cell=[side] * 3, pbc=True)
        for _ in range(looks)
    ]
    ase.io.write(tmp_path / "gas.traj", gas)
    table = analyse(tmp_path / "gas.traj", rdf=True, cutoff=5.0, bins=5, blocks=20).tables["rdf"]
    pairs = np.diff(table["n_Ar_Ar"], prepend=0) * atoms * looks / 2
    error = table["g_Ar_Ar"] / np.sqrt(pairs)
    assert (np.abs(table["g_Ar_Ar"] - (1 - 1 / atoms))[:3] < 4 * error[:3]).all()
    # 20 blocks know an error to a sixth; beyond half the cell, images go together
    np.testing.assert_allclose(table["g_Ar_Ar_error"][:3], error[:3], rtol=0.6)


def walk(path, frames, sigma, pbc=(True, True, True), seed=2):
    """Atoms that walk at random in a small oblique cell, wrapped into it."""
    rng = np.random.default_rng(seed)
    cell = np.array([[5.0, 0, 0], [1.0, 6.0, 0], [0, -1.5, 7.0]])
    steps = rng.normal(0, sigma, (frames, 60, 3))
    places = rng.uniform(0, 1, (60, 3)) @ cell + np.cumsum(steps, axis=0)
    atoms = [Atoms("Li30O30", place, cell=cell, pbc=pbc) for place in places]
    for one in atoms:
        one.wrap()
    ase.io.write(path, atoms)
    return places


def test_random_walk(tmp_path):
    """⟨r²⟩ = 3 σ² n: D = σ² / 2 per step, within the error, which is right by itself."""
    sigma, step_fs = 0.25, 50.0
    walk(tmp_path / "walk.traj", 1500, sigma)
    found = analyse(
        tmp_path / "walk.traj",
        msd=True,
        timestep_fs=step_fs,
        blocks=10,
        fit_fs=(50, 500),
        remove_drift=False,
    )
    for row in found.summary["diffusion"]:
        exact = sigma**2 / 2 / (step_fs / 1000)
        assert abs(row["D_A2_per_ps"] - exact) < 4 * row["D_A2_per_ps_error"]
        assert 0.005 < row["D_A2_per_ps_error"] / exact < 0.05
        assert row["D_cm2_per_s"] == pytest.approx(1e-4 * row["D_A2_per_ps"])
        assert row["exponent"] == pytest.approx(1, abs=0.05) and row["blocks"] == 10


def test_errors_of_diffusion_are_as_large_as_they_say(tmp_path):
    """Of independent walks, D scatters by the standard error that each of them states."""
    coefficients, errors = [], []
    for seed in range(12):
        walk(tmp_path / "walk.traj", 200, 0.3, seed=seed)
        found = analyse(tmp_path / "walk.traj", msd=True, timestep_fs=100, fit_fs=(100, 1000))
        coefficients += [row["D_A2_per_ps"] for row in found.summary["diffusion"]]
        errors += [row["D_A2_per_ps_error"] for row in found.summary["diffusion"]]
    assert np.std(coefficients, ddof=1) == pytest.approx(
        np.sqrt(np.mean(np.square(errors))), rel=0.4
    )


def test_motion_in_a_plane(tmp_path):
    """In a slab atoms diffuse in two dimensions only, unless told otherwise."""
    places = walk(tmp_path / "slab.traj", 120, 0.25, pbc=(True, True, False))
    words = {"msd": True, "timestep_fs": 10, "remove_drift": False}
    plane = analyse(tmp_path / "slab.traj", **words)
    moved = (places[3:] - places[:-3])[:, :30]
    expected = np.mean(np.sum(moved[:, :, :2] ** 2, axis=2))
    assert plane.tables["msd"]["msd_Li_A2"][3] == pytest.approx(expected, rel=1e-9)
    slope = np.polyfit(*(plane.tables["msd"][name][5:12] for name in ("time_fs", "msd_Li_A2")), 1)
    assert plane.tables["diffusion"]["D_A2_per_ps"][0] == pytest.approx(
        1000 * slope[0] / 4, rel=0.1
    )
    along = analyse(tmp_path / "slab.traj", axes="z", **words)
    expected = np.mean(moved[:, :, 2] ** 2)
    assert along.tables["msd"]["msd_Li_A2"][3] == pytest.approx(expected, rel=1e-9)


def test_a_cell_that_moves_is_no_diffusion(tmp_path):
    """Atoms at rest in a cell that breathes, wrapped or not: no motion beyond that of the cell."""
    fractions = np.random.default_rng(3).uniform(0, 1, (8, 3))
    for name, turns in (("wrapped", 0), ("far", 50)):
        frames = []
        for scale in 1 + 0.01 * np.sin(np.arange(40)):
            cell = 10 * scale * np.eye(3)
            frames.append(Atoms("Li8", (fractions + turns) @ cell, cell=cell, pbc=True))
        ase.io.write(tmp_path / f"{name}.traj", frames)
        for continuous in (False, True):
            found = analyse(
                tmp_path / f"{name}.traj", msd=True, timestep_fs=10, continuous=continuous
            )
            assert (found.tables["msd"]["msd_Li_A2"] < 0.2).all()
            assert any("the cell changes" in note for note in found.summary["notes"])


def test_ballistic_motion_and_drift(tmp_path):
    """⟨r²⟩ = v² t², exactly; seen from the centre of mass, drift does not count."""
    velocity = np.array([[0.01, 0.005, 0], [-0.01, 0.005, 0]])
    frames = [Atoms("Ar2", [[0, 0, 0], [5, 5, 5]] + 10 * t * velocity) for t in range(30)]
    ase.io.write(tmp_path / "free.traj", frames)
    for remove, squared in ((True, 1e-4), (False, 1.25e-4)):
        table = analyse(
            tmp_path / "free.traj", msd=True, timestep_fs=10, remove_drift=remove
        ).tables["msd"]
        expected = squared * table["time_fs"] ** 2
        np.testing.assert_allclose(table["msd_Ar_A2"], expected, rtol=1e-9, atol=1e-12)


def test_oscillators(tmp_path):
    """Velocities at 10 and 25 THz: cosines, and lines where they belong."""
    time_fs, rng = np.arange(1200) * 4.0, np.random.default_rng(4)
    phase = rng.uniform(0, 2 * np.pi, (8, 3))
    line = np.repeat([10.0, 25.0], 4)[:, None]
    frames = []
    for time in time_fs:
        atoms = Atoms("Li4O4", np.zeros((8, 3)))
        atoms.set_velocities(0.01 * np.cos(2e-3 * np.pi * line * time + phase) / units.FEMTOSECOND)
        atoms.info["time_fs"] = time
        frames.append(atoms)
    ase.io.write(tmp_path / "lines.traj", frames)
    found = analyse(tmp_path / "lines.traj", vacf=True, dos=True, remove_drift=False, blocks=4)
    vacf, dos = found.tables["vacf"], found.tables["dos"]
    assert found.summary["settings"]["dos"]["highest_frequency_THz"] == 125
    for symbol, frequency in (("Li", 10.0), ("O", 25.0)):
        expected = np.cos(2e-3 * np.pi * frequency * vacf["time_fs"])
        np.testing.assert_allclose(vacf[f"correlation_{symbol}"], expected, atol=0.03)
        peak = np.argmax(dos[f"vdos_{symbol}_per_THz"])
        assert dos["frequency_THz"][peak] == pytest.approx(frequency, abs=0.3)
        assert dos["wavenumber_per_cm"][peak] == pytest.approx(frequency * 33.356, abs=10)
        area = np.trapezoid(dos[f"vdos_{symbol}_per_THz"], dos["frequency_THz"])
        assert area == pytest.approx(1, rel=1e-6)


def test_green_and_kubo(tmp_path):
    """Velocities that forget exponentially: D = ⟨v²⟩ τ / 3."""
    step, tau, rng = 5.0, 50.0, np.random.default_rng(5)
    keep = np.exp(-step / tau)
    velocity = rng.normal(0, 0.01, (100, 3))
    frames = []
    for _ in range(800):
        atoms = Atoms("Li100", np.zeros((100, 3)), velocities=velocity / units.FEMTOSECOND)
        frames.append(atoms)
        velocity = keep * velocity + rng.normal(0, 0.01, (100, 3)) * np.sqrt(1 - keep**2)
    ase.io.write(tmp_path / "forget.traj", frames)
    found = analyse(
        tmp_path / "forget.traj", vacf=True, timestep_fs=step, remove_drift=False, vacf_lag_fs=300
    )
    (row,) = found.summary["diffusion"]
    exact = 1000 * 0.01**2 * tau * (1 - np.exp(-300 / tau))
    assert abs(row["D_A2_per_ps"] - exact) < 4 * row["D_A2_per_ps_error"] + 0.01 * exact
    assert row["method"] == "Green-Kubo"


def test_fourier_sums_against_direct_ones():
    series = np.cumsum(np.random.default_rng(7).normal(size=(37, 5)), axis=0) + 1000
    direct = [
        np.sum(np.mean((series[lag:] - series[: 37 - lag]) ** 2, axis=0)) for lag in range(37)
    ]
    np.testing.assert_allclose(squared_displacements(series), direct, rtol=1e-9)
    direct = [np.sum(np.mean(series[lag:] * series[: 37 - lag], axis=0)) for lag in range(37)]
    np.testing.assert_allclose(products(series), direct, rtol=1e-9)


def test_first_shells():
    r = (np.arange(200) + 0.5) * 0.05
    liquid = 1 + 2 * np.exp(-(((r - 3) / 0.3) ** 2)) - 0.6 * np.exp(-(((r - 4.2) / 0.4) ** 2))
    liquid = np.where(r < 2, 0, liquid)
    shell = first_shell(r, liquid)
    assert shell.peak_A == pytest.approx(3, abs=0.1)
    assert shell.minimum_A == pytest.approx(4.2, abs=0.15)
    gap = np.exp(-(((r - 2) / 0.1) ** 2)) + np.exp(-(((r - 4) / 0.1) ** 2))
    gap[gap < 1e-9] = 0
    assert first_shell(r, gap).minimum_A == pytest.approx(3, abs=0.15)
    assert first_shell(r, np.zeros(200)) is None
    assert first_shell(r, r) is None  # never falls


def test_blocks():
    assert windows(23, 5)[1:] == [slice(4 * b, 4 * b + 4) for b in range(5)]
    assert windows(3, 5) == [slice(0, 3), slice(0, 1), slice(1, 2), slice(2, 3)]
    assert windows(1, 5) == [slice(0, 1)] and windows(9, 1) == [slice(0, 9)]


# -- errors and the command ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"msd": True}, "does not say the time between its frames: give --timestep"),
        ({"msd": True, "timestep_fs": -1}, "timestep must be positive"),
        ({"vacf": True, "timestep_fs": 20}, "holds no velocities"),
        ({"rdf": ["Li-F"]}, "rdf: there is no F among its species, Li, O"),
        ({"adf": ["Li-O"]}, "3 symbols are needed"),
        ({"bond_lengths": {"Li-F": 2.0}}, "Li-F are not both among its species"),
        ({"start": "5 minutes"}, "write the number of a frame, or a time"),
        ({"start": "5ps"}, "does not say the time of its frames"),
        ({"start": 100}, "no frames from 100"),
        ({"axes": "xw", "msd": True, "timestep_fs": 20}, "axes must be some of xyz"),
        ({"msd": True, "timestep_fs": 20, "fit_fs": (0, 1000)}, "must lie within a block of 220"),
        ({"msd": True, "timestep_fs": 20, "msd_lag_fs": 5000}, "between 0 and 1180 fs"),
        ({"blocks": 0}, "blocks must be positive"),
        ({"structure_file": "absent.xyz"}, "absent.xyz: no such file"),
    ],
)
def test_what_cannot_be_is_refused(folder, words, message):
    with pytest.raises(ValueError, match=message):
        analyse(folder / "wrapped.extxyz", **words)


def test_bad_files_are_named(reference, folder, tmp_path):
    def refused(frames, message, **words):
        ase.io.write(tmp_path / "bad.extxyz", frames)
        with pytest.raises(ValueError, match=message):
            analyse(tmp_path / "bad.extxyz", **words)

    frames = frames_of(reference, velocities=False)[:6]
    frames[3].positions[4, 1] = np.nan
    refused(frames, r"bad.extxyz: frame 3: positions: that of atom 4 is not finite")
    frames = frames_of(reference, velocities=False)[:6]
    frames[2] = frames[2][:-1]
    refused(frames, r"frame 2: species: other atoms than in frame 0")
    frames = frames_of(reference, velocities=False)[:6]
    frames[5].cell[2] = 0
    refused(frames, r"frame 5: cell: it has no volume")
    frames = frames_of(reference)[:6]
    del frames[4].arrays["momenta"]
    refused(frames, r"frame 4: velocities: some frames have them")
    frames = frames_of(reference, velocities=False)[:6]
    frames[1].positions[7, 2] += 5.4
    refused(frames, r"frame 1: positions: atom 7 has moved by 0.4", msd=True, timestep_fs=20)
    frames = frames_of(reference, velocities=False)[:6]
    for time, atoms in zip((0, 20, 40, 60, 90, 100), frames, strict=True):
        atoms.info["time_fs"] = float(time)
    refused(frames, r"frame 4: time: 30 fs after the frame before", msd=True)
    with pytest.raises(ValueError, match=r"apart, not 5: leave out --timestep"):
        analyse(folder / "timed.traj", timestep_fs=5)
    (tmp_path / "text.h5md").write_text("no")
    with pytest.raises(ValueError, match=r"text.h5md cannot be read as HDF5"):
        analyse(tmp_path / "text.h5md")
    with pytest.raises(ValueError, match="no such file"):
        analyse(tmp_path / "absent.traj")
    with pytest.raises(ValueError, match="holds no trajectory"):
        analyse(tmp_path)


def test_the_command(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = str(folder / "h5md")
    assert (
        main(
            [
                "analyse",
                path,
                "--cutoff",
                "4.5",
                "--bins",
                "45",
                "--bond-lengths",
                "3.25",
                "--angle-bins",
                "36",
            ]
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert "60 frames of 32 atoms (20 Li, 12 O), 1.18 ps; errors from 5 blocks" in printed
    output = tmp_path / "h5md-analysis"
    names = {file.name for file in output.iterdir()}
    drawn = {"rdf", "coordination", "adf", "msd", "vacf", "dos"}
    assert names == {"summary.json", "shells.csv", "diffusion.csv"} | {
        f"{name}.{suffix}" for name in drawn for suffix in ("csv", "png")
    }
    summary = json.loads((output / "summary.json").read_text())
    assert summary["atoms"] == {"Li": 20, "O": 12} and summary["left_out"] == {}
    rdf = np.genfromtxt(output / "rdf.csv", delimiter=",", names=True)
    assert len(rdf) == 45 and "g_Li_O_error" in rdf.dtype.names
    # an earlier analysis in the same folder goes
    command = ["analyse", path, "--msd", "--fit", "40:120", "--output", "h5md-analysis"]
    assert main(command) == 0
    assert {file.stem for file in output.iterdir()} == {"msd", "diffusion", "summary"}
    assert main(["analyse", path, "--rdf", "Li-F"]) == 2
    assert "there is no F" in capsys.readouterr().err
