"""nequip-allegro as a contender: its environment, its process, and the model that both have."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

REFERENCE = ("torch==2.13.0", "nequip==0.19.1", "nequip-allegro==0.8.3")
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"
SPECIES = ["H", "C", "N", "O", "Mg"]
CUTOFF = 5.0  # Å


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reference-python", help="Python with torch, nequip and nequip-allegro")
    parser.add_argument("--setup", type=Path, help="make such an environment in this folder first")
    parser.add_argument("--threads", type=int, default=2, help="cores for each contender")
    parser.add_argument("--json", type=Path, help="also write the figures here")


def set_up(folder: Path) -> str:
    """Make the reference's environment; returns its Python."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--extra-index-url", CPU_WHEELS]
    subprocess.run([*install, *REFERENCE], check=True)
    return str(python)


class Reference:
    """nequip-allegro in its own process; a call is a request to ``reference_worker.py``.

    Attributes:
        folder: for files of both, removed in the end.
        versions: of what the reference consists of.
    """

    def __init__(self, python: str, threads: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="reference_")
        self.folder = Path(self._folder.name)
        worker = Path(__file__).with_name("reference_worker.py")
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        self._errors = (self.folder / "errors.txt").open("w+")
        self._process = subprocess.Popen(
            [python, str(worker)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
        )
        self.versions = self("threads", count=threads)["versions"]

    def __call__(self, do: str, **arguments: Any) -> dict[str, Any]:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            self._errors.seek(0)
            sys.exit(f"The reference stopped:\n{self._errors.read()[-3000:]}")
        return json.loads(answer)

    def __enter__(self) -> Reference:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._errors.close()
        self._folder.cleanup()


def model_settings() -> tuple[Any, dict[str, Any]]:
    """The model, in our words and in the reference's."""
    from allegro_jax import AllegroConfig

    config = AllegroConfig(
        species=SPECIES,
        cutoff=CUTOFF,
        l_max=2,
        num_layers=2,
        num_scalar_features=64,
        num_tensor_features=32,
        average_neighbours=50.0,
    )
    settings = {
        "seed": 1,
        "model_dtype": "float32",
        "type_names": SPECIES,
        "r_max": CUTOFF,
        "l_max": config.l_max,
        "parity": config.parity,
        "radial_chemical_embed": {"_target_": "allegro.nn.TwoBodyBesselScalarEmbed"},
        "num_layers": config.num_layers,
        "num_scalar_features": config.num_scalar_features,
        "num_tensor_features": config.num_tensor_features,
        "avg_num_neighbors": config.average_neighbours,
        "scalar_embed_mlp_hidden_layers_width": config.two_body_hidden[0],
        "allegro_mlp_hidden_layers_width": config.latent_hidden[0],
        "readout_mlp_hidden_layers_width": config.readout_hidden[0],
    }
    return config, settings


def our_potential(config: Any, state_dict: Any) -> Any:
    from allegro_jax import AllegroPotential
    from allegro_jax.convert import params_from_state_dict

    return AllegroPotential(params_from_state_dict(state_dict, config), config)


def write_structure(path: Path, atoms: Any) -> None:
    """A structure for the reference, with labels if it has any."""
    import numpy as np

    labels = {}
    if "forces" in atoms.arrays:
        labels = {"energy": atoms.info["energy"], "forces": atoms.arrays["forces"]}
    np.savez(
        path,
        numbers=atoms.numbers,
        positions=atoms.positions,
        cell=atoms.cell.array,
        pbc=atoms.pbc,
        **labels,
    )


def versions() -> dict[str, str]:
    from importlib.metadata import version

    import allegro_jax

    return {"allegro-jax": allegro_jax.__version__, "jax": version("jax")}
