"""Make the quickstart's data set: ethanol, sampled with GFN2-xTB and labelled with PBE/def2-SVP.

Three steps, each resumable (an interrupted run continues where it stopped)::

    pip install pyscf tblite ase
    python make_data.py sample               # Langevin dynamics at 300, 450 and 600 K
    OMP_NUM_THREADS=1 python make_data.py label --worker 0/2 &
    OMP_NUM_THREADS=1 python make_data.py label --worker 1/2
    python make_data.py assemble             # data/{train,valid,test}.xyz

Every split has trajectories of its own (no test frame shares a trajectory with a training frame);
half of the trajectories start from the trans and half from the gauche conformer. Labels: restricted
Kohn-Sham PBE with density fitting, grid level 3, forces with the response of the integration grid
(so that they sum to zero), converged to 1e-9 Ha. About 8 s a frame on one core. Neither pyscf nor
tblite is needed to use the data.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

HERE = Path(__file__).parent
WORK = HERE / "work"  # intermediate files, not committed
TEMPERATURES = (300, 450, 600)
TIMESTEP_FS, STRIDE, EQUILIBRATION = 0.5, 100, 2000
# (split, conformer, frames) of the trajectories run at every temperature
TRAJECTORIES = (
    ("train", "trans", 80),
    ("train", "gauche", 80),
    ("valid", "trans", 10),
    ("valid", "gauche", 10),
    ("test", "trans", 20),
    ("test", "gauche", 20),
)
SETTINGS = "PBE/def2-SVP, RKS, density fitting, grid level 3 with response, 1e-9 Ha (pyscf)"


def conformer(name: str) -> Atoms:
    atoms = molecule("CH3CH2OH")  # the trans conformer
    if name == "gauche":
        carbon_far, carbon, oxygen = 0, 1, 2
        hydroxyl = int(np.argmin(atoms.get_distances(2, range(3, len(atoms))))) + 3
        if atoms.get_distance(carbon_far, oxygen) < atoms.get_distance(carbon, oxygen):
            carbon_far, carbon = carbon, carbon_far
        atoms.set_dihedral(carbon_far, carbon, oxygen, hydroxyl, 60.0, indices=[hydroxyl])
    return atoms


def sample() -> None:
    from ase.md.langevin import Langevin
    from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary
    from tblite.ase import TBLite

    WORK.mkdir(exist_ok=True)
    for t, temperature in enumerate(TEMPERATURES):
        for k, (split, start, count) in enumerate(TRAJECTORIES):
            path = WORK / f"{split}_{temperature}K_{start}.xyz"
            if path.exists():
                continue
            rng = np.random.default_rng(1000 * t + k)
            atoms = conformer(start)
            atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
            MaxwellBoltzmannDistribution(atoms, temperature_K=temperature, rng=rng)
            Stationary(atoms)
            dynamics = Langevin(
                atoms,
                TIMESTEP_FS * units.fs,
                temperature_K=temperature,
                friction=0.01 / units.fs,
                rng=rng,
            )
            dynamics.run(EQUILIBRATION)
            frames = []
            for _ in range(count):
                dynamics.run(STRIDE)
                frame = Atoms(atoms.numbers, atoms.positions - atoms.get_center_of_mass())
                frame.info |= {"split": split, "temperature_K": temperature, "conformer": start}
                frames.append(frame)
            write(path, frames)
            print(path.name, count, "frames", flush=True)


def sampled_frames() -> list[Atoms]:
    """All frames, interleaved over the trajectories, so that any prefix of them is balanced."""
    numbered = []
    for path in sorted(WORK.glob("*K_*.xyz")):
        frames = read(path, ":")
        for i, frame in enumerate(frames):
            numbered.append(((i + 0.5) / len(frames), path.stem, i, frame))
    numbered.sort(key=lambda item: item[:3])
    for _, stem, i, frame in numbered:
        frame.info["frame"] = f"{stem}/{i}"
    return [frame for *_, frame in numbered]


def label(worker: int, workers: int) -> None:
    from pyscf import dft, gto

    path = WORK / f"labels-{worker}-of-{workers}.jsonl"
    done = {record["frame"] for record in read_labels()}
    density, mol = None, None
    for atoms in sampled_frames()[worker::workers]:
        if atoms.info["frame"] in done:
            continue
        geometry = list(zip(atoms.symbols, atoms.positions, strict=True))
        mol = gto.M(atom=geometry, basis="def2-svp", verbose=0)
        field = dft.RKS(mol).density_fit()
        field.xc, field.grids.level, field.conv_tol = "pbe", 3, 1e-9
        energy = field.kernel(dm0=density)
        if not field.converged:
            raise RuntimeError(f"{atoms.info['frame']}: the field did not converge")
        density = field.make_rdm1()
        gradient = field.nuc_grad_method()
        gradient.grid_response = True
        forces = -gradient.kernel() * units.Hartree / units.Bohr
        record = {
            "frame": atoms.info["frame"],
            "energy": energy * units.Hartree,
            "forces": forces.tolist(),
        }
        with path.open("a") as file:
            file.write(json.dumps(record) + "\n")


def read_labels() -> list[dict]:
    return [
        json.loads(line)
        for path in sorted(WORK.glob("labels-*.jsonl"))
        for line in path.read_text().splitlines()
    ]


def assemble() -> None:
    labels = {record["frame"]: record for record in read_labels()}
    splits: dict[str, list[Atoms]] = {"train": [], "valid": [], "test": []}
    missing = 0
    for atoms in sampled_frames():
        record = labels.get(atoms.info["frame"])
        if record is None:
            missing += 1
            continue
        atoms.calc = SinglePointCalculator(
            atoms, energy=record["energy"], forces=np.array(record["forces"])
        )
        atoms.info["level"] = SETTINGS
        splits[atoms.info.pop("split")].append(atoms)
    (HERE / "data").mkdir(exist_ok=True)
    for name, frames in splits.items():
        write(HERE / "data" / f"{name}.xyz", frames)
        print(name, len(frames), "frames")
    if missing:
        print(missing, "sampled frames have no label yet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=("sample", "label", "assemble"))
    parser.add_argument("--worker", default="0/1", metavar="I/N", help="which share to label")
    arguments = parser.parse_args()
    if arguments.step == "sample":
        sample()
    elif arguments.step == "label":
        worker, workers = map(int, arguments.worker.split("/"))
        label(worker, workers)
    else:
        assemble()


if __name__ == "__main__":
    main()
