"""nequip-allegro in a process of its own: builds, compiles, evaluates and trains on request.

Started by ``reference.py`` with the Python of an environment that has torch, nequip and
nequip-allegro. Reads one JSON request a line from its standard input and answers each with one
line of JSON; arrays travel in ``.npz`` files.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import warnings
from typing import Any, NamedTuple

import ase
import numpy as np
import torch
from allegro.model import AllegroModel
from nequip.data import AtomicDataDict, from_ase
from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform
from nequip.nn.compile import DictInputOutputWrapper
from nequip.scripts._compile_utils import AOTI_ASE_TARGET, COMPILE_TARGET_DICT
from nequip.utils.aot import aot_export_model
from nequip.utils.global_state import set_global_state
from nequip.utils.versions import get_current_code_versions
from racing import peak_bytes, resident_bytes


class Labelled(NamedTuple):
    """A batch of frames of one size, with energies in eV and forces in eV/Å."""

    data: Any
    energies: torch.Tensor
    forces: torch.Tensor


class Worker:
    """One request is one call of a method, with the request's other fields as arguments."""

    def __init__(self) -> None:
        set_global_state()
        self.settings: dict[str, Any] = {}
        self.frames: dict[str, Any] = {}
        self.models: dict[str, Any] = {}
        self.batches: dict[str, list[Labelled]] = {}
        self.trained: dict[tuple[str, str], Any] = {}
        self.device = "cuda" if torch.cuda.is_available() else "cpu"  # of training

    def threads(self, count: int) -> dict[str, Any]:
        torch.set_num_threads(count)
        return {"versions": get_current_code_versions(verbose=False)}

    def build(self, settings: dict[str, Any], weights: str) -> dict[str, Any]:
        """Build a model and write its weights."""
        self.settings = settings
        self.models["eager"] = AllegroModel(**settings).eval()
        arrays = {key: value.numpy() for key, value in self.models["eager"].state_dict().items()}
        np.savez(weights, **arrays)
        return {}

    def structure(self, name: str, path: str) -> dict[str, Any]:
        """Keep a structure with its neighbour list."""
        self.frames[name] = self._data(path)
        return {"pairs": int(AtomicDataDict.num_edges(self.frames[name]))}

    def compile(self, name: str, path: str) -> dict[str, Any]:
        """Compile ahead of time, as ``nequip-compile --mode aotinductor --target ase`` does."""
        target = COMPILE_TARGET_DICT[AOTI_ASE_TARGET]
        dimensions = {
            "graph": torch.export.Dim.STATIC,
            "node": torch.export.Dim("num_nodes", min=2),
            "edge": torch.export.Dim("num_edges", min=2),
        }
        start = time.perf_counter()
        aot_export_model(
            model=self.models["eager"],
            device="cpu",
            input_fields=target["input"],
            output_fields=target["output"],
            data=dict(self.frames[name]),
            batch_map=dimensions,
            output_path=path,
        )
        seconds = time.perf_counter() - start
        self.models["compiled"] = DictInputOutputWrapper(
            torch._inductor.aoti_load_package(path), target["input"], target["output"]
        )
        return {"seconds": seconds}

    def evaluate(self, name: str, mode: str, path: str | None = None) -> dict[str, Any]:
        """Energy, forces and stress of a structure, from its neighbour list on."""
        data = dict(self.frames[name])
        start = time.perf_counter()
        out = self.models[mode](data)
        seconds = time.perf_counter() - start
        if path is not None:
            np.savez(
                path,
                energy=out[AtomicDataDict.TOTAL_ENERGY_KEY].detach().numpy(),
                forces=out[AtomicDataDict.FORCE_KEY].detach().numpy(),
            )
        return {"seconds": seconds}

    def prepare_training(
        self, name: str, frames: list[str], batches: list[list[int]], learning_rate: float
    ) -> dict[str, Any]:
        """Batches of labelled frames, and models to train on them: eager and compiled.

        ``nequip-train`` compiles where the model's settings say ``compile_mode: compile``.
        """
        data, labels = [self._data(path) for path in frames], [np.load(path) for path in frames]
        dtype, device = torch.float64, self.device
        self.batches[name] = [
            Labelled(
                data=AtomicDataDict.to_(
                    AtomicDataDict.batched_from_list([data[frame] for frame in batch]), device
                ),
                energies=torch.tensor(
                    [float(labels[frame]["energy"]) for frame in batch], dtype=dtype, device=device
                ),
                forces=torch.tensor(
                    np.concatenate([labels[frame]["forces"] for frame in batch]),
                    dtype=dtype,
                    device=device,
                ),
            )
            for batch in batches
        ]
        for mode in ("eager", "compile"):
            model = AllegroModel(**self.settings, compile_mode=mode).to(device).train()
            optimiser = torch.optim.Adam(model.parameters(), lr=learning_rate)
            self.trained[name, mode] = model, optimiser
        pairs = [int(AtomicDataDict.num_edges(batch.data)) for batch in self.batches[name]]
        return {"pairs": sum(pairs) / len(pairs)}

    def train_step(self, name: str, mode: str, batch: int) -> dict[str, Any]:
        """One step of Adam on the mean squares of energies per atom and forces."""
        model, optimiser = self.trained[name, mode]
        labelled = self.batches[name][batch]
        self._wait()
        start = time.perf_counter()
        out = model(dict(labelled.data))
        energies = out[AtomicDataDict.TOTAL_ENERGY_KEY].reshape(-1)
        atoms = AtomicDataDict.num_nodes(labelled.data) / len(energies)
        per_atom = ((energies - labelled.energies) / atoms).square().mean()
        loss = per_atom + (out[AtomicDataDict.FORCE_KEY] - labelled.forces).square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        self._wait()
        return {"seconds": time.perf_counter() - start, "loss": loss.item()}

    def first_step(self, name: str, mode: str) -> dict[str, Any]:
        """The step that compiles, and its loss; or why it cannot be taken."""
        try:
            return self.train_step(name, mode, 0)
        except Exception as error:  # whatever torch.compile may raise: the reason is reported
            lines = str(error).strip().splitlines() or [""]
            return {"error": f"{type(error).__name__}: {lines[0]}"}

    def memory(self) -> dict[str, Any]:
        return {"peak": peak_bytes(), "resident": resident_bytes()}

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def _data(self, path: str) -> Any:
        arrays = np.load(path)
        atoms = ase.Atoms(
            arrays["numbers"], arrays["positions"], cell=arrays["cell"], pbc=arrays["pbc"]
        )
        names = self.settings["type_names"]
        data = from_ase(atoms)
        for transform in (
            ChemicalSpeciesToAtomTypeMapper(
                model_type_names=names, chemical_species_to_atom_type_map={n: n for n in names}
            ),
            NeighborListTransform(r_max=self.settings["r_max"]),
        ):
            data = transform(data)
        if not any(arrays["pbc"]):  # compiled models want a cell, also where there is none
            data[AtomicDataDict.CELL_KEY] = 100 * torch.eye(3, dtype=torch.float64)[None]
            shifts = torch.zeros((AtomicDataDict.num_edges(data), 3), dtype=torch.float64)
            data[AtomicDataDict.EDGE_CELL_SHIFT_KEY] = shifts
        return data


def main() -> None:
    # the protocol keeps the standard output to itself; whatever libraries print goes to the errors
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    worker = Worker()
    for line in sys.stdin:
        request = json.loads(line)
        answer = getattr(worker, request.pop("do"))(**request)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
