"""Analyse a fixed trajectory with MDAnalysis, freud and transport-analysis, and store the numbers.

The stored file holds the trajectory and their numbers. Reading it needs only numpy; writing it:

    pip install MDAnalysis==2.11.0 freud-analysis==3.4.0 transport-analysis==0.1.2
    python tests/reference/make_analysis_reference.py

It writes ``analysis.npz`` beside this script. Every number of the trajectory is exact in single
precision, in which these packages keep positions: so nothing but the analysis differs. Entries:

``symbols`` (N,); ``positions`` (F, N, 3) Å, on continuous paths; ``velocities`` (F, N, 3) Å/fs;
``lengths`` (3,) Å of the cell, which is orthorhombic; ``varied`` (F, 3) Å, a cell that changes;
``spacing_fs``

``rdf_A_B`` (bins,) from MDAnalysis' InterRDF up to ``rdf_range``, of a species with itself
normalised by N (N − 1); ``varied_A_B`` the same with the cell that changes; ``freud_Li_O`` counts
of pairs in all frames from freud.density.RDF (whose normalisation is in single precision)
``angles`` (bins,) counts of O-Li-O up to ``bond`` Å, from distances and angles of MDAnalysis.lib
``neighbours`` counts of O around Li closer than ``bond``, 0, 1, 2, ..., by freud.locality
``msd_A`` (F,) Å² from MDAnalysis' EinsteinMSD (direct sums)
``vacf_A`` (F,) Å²/fs² from transport-analysis
"""

from __future__ import annotations

import warnings
from pathlib import Path

import freud
import MDAnalysis as mda
import numpy as np
from MDAnalysis.analysis.msd import EinsteinMSD
from MDAnalysis.analysis.rdf import InterRDF
from MDAnalysis.lib.distances import calc_angles, capped_distance
from transport_analysis.velocityautocorr import VelocityAutocorr

DESTINATION = Path(__file__).parent / "analysis.npz"
FRAMES, SPACING_FS = 60, 20.0
SYMBOLS = np.asarray(["Li"] * 20 + ["O"] * 12)
LENGTHS = np.array([9.5, 10.25, 11.0])
BINS, RDF_RANGE, BOND, ANGLE_BINS = 45, 4.5, 3.25, 36


def trajectory() -> dict[str, np.ndarray]:
    """Atoms that walk at random, with velocities that forget and oscillate."""
    rng = np.random.default_rng(6)
    sites = rng.permutation(np.argwhere(np.ones((4, 4, 2)))) / (4, 4, 2)
    start = sites * LENGTHS
    step = np.where(SYMBOLS == "Li", 0.15, 0.06)[:, None]
    path = start + np.cumsum(rng.normal(0, 1, (FRAMES, len(SYMBOLS), 3)) * step, axis=0)
    velocities = np.zeros_like(path)
    for frame in range(FRAMES):
        noise = rng.normal(0, 0.003, start.shape)
        velocities[frame] = noise if frame == 0 else 0.8 * velocities[frame - 1] + 0.6 * noise
    wobble = rng.uniform(-0.2, 0.2, (FRAMES, 3))
    wobble[0] = 0
    return {
        "positions": np.round(path * 1024) / 1024,
        "velocities": np.round(velocities * 2**20) / 2**20,
        "varied": np.round((LENGTHS + wobble) * 64) / 64,
    }


def universe(found: dict[str, np.ndarray], lengths: np.ndarray) -> mda.Universe:
    u = mda.Universe.empty(len(SYMBOLS), trajectory=True, velocities=True)
    u.add_TopologyAttr("names", SYMBOLS)
    cells = np.broadcast_to(lengths, (FRAMES, 3))
    dimensions = np.concatenate([cells, np.full((FRAMES, 3), 90.0)], axis=1).astype(np.float32)
    per_ps = (found["velocities"] * 1000).astype(np.float32)
    u.load_new(
        found["positions"].astype(np.float32),
        velocities=per_ps,
        dimensions=dimensions,
        dt=SPACING_FS / 1000,
    )
    return u


def radial(u: mda.Universe, a: str, b: str) -> np.ndarray:
    groups = [u.select_atoms(f"name {symbol}") for symbol in (a, b)]
    same = (1, 1) if a == b else None
    rdf = InterRDF(*groups, nbins=BINS, range=(0.0, RDF_RANGE), exclusion_block=same)
    return np.asarray(rdf.run().results.rdf)


def angles(u: mda.Universe) -> np.ndarray:
    li, o = u.select_atoms("name Li"), u.select_atoms("name O")
    counts = np.zeros(ANGLE_BINS)
    for frame in u.trajectory:
        pairs = capped_distance(li, o, BOND, box=frame.dimensions, return_distances=False)
        for centre in range(len(li)):
            bonded = o.positions[pairs[pairs[:, 0] == centre, 1]]
            first, second = np.triu_indices(len(bonded), 1)
            if len(first):
                middle = np.broadcast_to(li.positions[centre], (len(first), 3))
                found = calc_angles(bonded[first], middle, bonded[second], box=frame.dimensions)
                edges = np.linspace(0, np.pi, ANGLE_BINS + 1)
                counts += np.histogram(found, edges)[0]
    return counts


def main() -> None:
    warnings.simplefilter("ignore")
    found = trajectory()
    u, varied = universe(found, LENGTHS), universe(found, found["varied"])
    stored = found | {
        "symbols": SYMBOLS, "lengths": LENGTHS, "spacing_fs": SPACING_FS, "bond": BOND,
        "rdf_range": RDF_RANGE,
    }  # fmt: skip
    for a, b in (("Li", "Li"), ("Li", "O"), ("O", "O")):
        stored[f"rdf_{a}_{b}"] = radial(u, a, b)
        stored[f"varied_{a}_{b}"] = radial(varied, a, b)
    stored["angles"] = angles(u)

    box = freud.box.Box(*LENGTHS)
    li, o = (symbol == SYMBOLS for symbol in ("Li", "O"))
    wrapped = box.wrap(found["positions"].reshape(-1, 3)).reshape(found["positions"].shape)
    rdf = freud.density.RDF(bins=BINS, r_max=RDF_RANGE)
    for points in wrapped:
        rdf.compute((box, points[o]), query_points=points[li], reset=False)
    stored["freud_Li_O"] = rdf.bin_counts
    neighbours = np.zeros(len(SYMBOLS))
    for points in wrapped:
        query = freud.locality.AABBQuery(box, points[o]).query(points[li], {"r_max": BOND})
        counts = np.bincount(query.toNeighborList().query_point_indices, minlength=li.sum())
        neighbours += np.bincount(counts, minlength=len(SYMBOLS))
    stored["neighbours"] = neighbours

    for symbol in ("Li", "O"):
        msd = EinsteinMSD(u, select=f"name {symbol}", fft=False).run()
        stored[f"msd_{symbol}"] = msd.results.timeseries
        vacf = VelocityAutocorr(u.select_atoms(f"name {symbol}"), fft=False).run()
        stored[f"vacf_{symbol}"] = np.asarray(vacf.results.timeseries) * 1e-6
    np.savez_compressed(DESTINATION, **stored)
    print(DESTINATION, DESTINATION.stat().st_size)


if __name__ == "__main__":
    main()
