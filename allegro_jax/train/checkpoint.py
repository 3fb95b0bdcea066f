"""Checkpoints: the best weights, and all that is needed to continue a run exactly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp


class Checkpoints:
    """The checkpoints ``best`` and ``last`` in a folder, written by orbax.

    A checkpoint is a pytree of arrays and a JSON record. It is written beside the old one, which is
    then replaced by renaming: an interruption leaves one of them whole.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).absolute()

    def save(self, name: str, tree: Any, record: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        fresh, old = self.folder / f".{name}-new", self.folder / f".{name}-old"
        for path in (fresh, old):
            shutil.rmtree(path, ignore_errors=True)
        with _checkpointer() as writer:
            writer.save(fresh, jax.tree.map(np.asarray, tree))
        (fresh / "record.json").write_text(json.dumps(record))
        place = self.folder / name
        if place.exists():
            place.rename(old)
        fresh.rename(place)
        shutil.rmtree(old, ignore_errors=True)

    def exists(self, name: str) -> bool:
        return self._place(name) is not None

    def record(self, name: str) -> dict[str, Any]:
        place = self._place(name)
        if place is None:
            raise FileNotFoundError(f"{self.folder / name}: no such checkpoint")
        return json.loads((place / "record.json").read_text())

    def restore(self, name: str, like: Any) -> Any:
        """The arrays of a checkpoint, in the structure, shapes and dtypes of ``like``.

        Raises:
            ValueError: the checkpoint is damaged or belongs to another model.
        """
        place = self._place(name)
        if place is None:
            raise FileNotFoundError(f"{self.folder / name}: no such checkpoint")
        like = jax.tree.map(np.asarray, like)
        try:
            with _checkpointer() as reader:
                arguments = ocp.checkpoint_utils.construct_restore_args(like)
                tree = reader.restore(place, item=like, restore_args=arguments)
        except Exception as error:  # orbax raises many kinds
            detail = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{place}: cannot be read as a checkpoint of this run: {detail}"
            ) from error
        return tree

    def _place(self, name: str) -> Path | None:
        # between the two renames of save, only the old one has a name
        for place in (self.folder / name, self.folder / f".{name}-old"):
            if (place / "record.json").is_file():
                return place
        return None


def _checkpointer() -> ocp.Checkpointer:
    """Of this process alone: of several, only one writes, and each reads for itself."""
    here = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=here, active_processes={here})
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)
